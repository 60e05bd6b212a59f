//! Routes that an application adds to its replica's.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use hyper::{Method, Request, Response};
use kvquorum_core::Store;

use super::service::ReplicaServiceBuilder;

impl<S: Store> ReplicaServiceBuilder<S> {
    /// Answers `GET` of one more path, as `/metrics`: exactly this one, with any
    /// query. The routes of the replica come after it.
    ///
    /// What answers it is the application's, and so is who may ask: it is called
    /// before anything else is looked at.
    pub fn route<F>(
        mut self,
        path: impl Into<String>,
        answer: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response<Bytes>> + Send + 'static,
    {
        let answer = Box::new(move || Box::pin(answer()) as Answering);
        let path = path.into();
        self.further.0.push(FurtherRoute { path, answer });
        self
    }
}

#[derive(Default)]
pub(super) struct FurtherRoutes(Vec<FurtherRoute>);

struct FurtherRoute {
    path: String,
    answer: Answer,
}

type Answer = Box<dyn Fn() -> Answering + Send + Sync>;
type Answering = Pin<Box<dyn Future<Output = Response<Bytes>> + Send>>;

impl FurtherRoutes {
    /// What answers this request, if it is for one of them.
    pub(super) fn find<B>(&self, request: &Request<B>) -> Option<&Answer> {
        let path = request.uri().path();
        let route = self.0.iter().find(|route| route.path == path)?;
        (request.method() == Method::GET).then_some(&route.answer)
    }
}
