//! Routes that an application adds to its replica's.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use hyper::Response;
use kvquorum_core::Store;

use super::service::ReplicaServiceBuilder;

impl<S: Store> ReplicaServiceBuilder<S> {
    /// Answers `GET` of one more path, as `/metrics`: exactly this one, with any
    /// query. It hides none of the replica's own.
    ///
    /// It asks for what the replica's reads do: one of the
    /// [read tokens](Self::read_tokens), or of its [own](Self::route_tokens), where
    /// there are any; and it is no more open to web pages of other servers. It is
    /// there without the plain face too.
    pub fn route<F>(
        self,
        path: impl Into<String>,
        answer: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response<Bytes>> + Send + 'static,
    {
        self.further(path, false, answer)
    }

    /// As [`route`](Self::route), and it asks for no token: for `/health`, which load
    /// balancers ask for without one. Web pages of other servers are kept out all the
    /// same, and so is a `Host` that is not [allowed](Self::allow_host).
    pub fn public_route<F>(
        self,
        path: impl Into<String>,
        answer: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response<Bytes>> + Send + 'static,
    {
        self.further(path, true, answer)
    }

    fn further<F>(
        mut self,
        path: impl Into<String>,
        is_public: bool,
        answer: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response<Bytes>> + Send + 'static,
    {
        self.further.0.push(FurtherRoute {
            path: path.into(),
            is_public,
            answer: Box::new(move || Box::pin(answer())),
        });
        self
    }
}

#[derive(Default)]
pub(super) struct FurtherRoutes(Vec<FurtherRoute>);

pub(super) struct FurtherRoute {
    path: String,
    pub(super) is_public: bool,
    pub(super) answer: Answer,
}

type Answer = Box<dyn Fn() -> Answering + Send + Sync>;
type Answering = Pin<Box<dyn Future<Output = Response<Bytes>> + Send>>;

impl FurtherRoutes {
    /// The one with this path.
    pub(super) fn find(&self, path: &str) -> Option<&FurtherRoute> {
        self.0.iter().find(|route| route.path == path)
    }
}
