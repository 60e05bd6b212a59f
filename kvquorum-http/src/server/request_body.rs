//! Reading the body of a request, within bounds.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Body;
use hyper::header::EXPECT;
use hyper::{Request, StatusCode};
use kvquorum_core::Store;

use super::budget::{Lease, UNCOUNTED};
use super::problem::Problem;
use super::service::{Inner, Settings};
use crate::body::{BodyError, discard, read_whole};
use crate::time::in_time;
use kvquorum_core::WithCauses;

impl<S: Store> Inner<S> {
    /// The whole body, and the memory that was leased for it.
    pub(super) async fn read_body<B>(
        &self,
        request: Request<B>,
    ) -> Result<(Bytes, Option<Lease>), Problem>
    where
        B: Body<Data: Send, Error: Error> + Send + Unpin + 'static,
    {
        let asks_first = asks_first(&request);
        let mut body = request.into_body();
        let settings = &self.settings;
        let max = settings.max_body_len;
        let announced = body.size_hint();
        if announced.lower() > max as u64 {
            if !asks_first {
                settings.let_run_out(body);
            }
            return Err(settings.too_large());
        }
        let len = announced.exact().and_then(|len| usize::try_from(len).ok());
        let lease = match len.unwrap_or(max) {
            ..=UNCOUNTED => None,
            len => Some(self.lease(len).await?),
        };
        let read = in_time(settings.body_timeout, read_whole(&mut body, max));
        let read = match lease {
            None => read.await,
            Some(_) => tokio::select! {
                biased;
                read = read => read,
                () = self.bodies.evicted(Duration::ZERO) => return Err(no_memory()),
            },
        };
        match read {
            Ok(Ok(whole)) => Ok((whole, lease)),
            Ok(Err(BodyError::TooLarge)) => {
                // Even one that asks first was told to go on as soon as reading
                // began.
                settings.let_run_out(body);
                Err(settings.too_large())
            }
            Ok(Err(BodyError::Failed(error))) => Err(Problem::bad_request(format!(
                "the body did not arrive whole: {}",
                WithCauses(&error)
            ))),
            Err(_) => Err(Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                format!("the body did not arrive within {:?}", settings.body_timeout),
            )),
        }
    }

    async fn lease(&self, len: usize) -> Result<Lease, Problem> {
        let lease = in_time(self.settings.body_timeout, self.bodies.take(len)).await;
        lease.map_err(|_| no_memory())
    }
}

impl Settings {
    /// Deals with the body of a request that is answered without it.
    pub(super) fn ignore_body<B>(&self, request: Request<B>)
    where
        B: Body<Data: Send, Error: Error> + Send + Unpin + 'static,
    {
        // A client that asks first sends nothing before it is told to.
        if !asks_first(&request) {
            self.let_run_out(request.into_body());
        }
    }

    /// Takes in the rest of a body. A client that is still sending would see
    /// its connection reset, not its answer, if nobody read it.
    fn let_run_out<B>(&self, body: B)
    where
        B: Body<Data: Send, Error: Error> + Send + Unpin + 'static,
    {
        if !body.is_end_stream() {
            let timeout = self.body_timeout;
            tokio::spawn(async move { in_time(timeout, discard(body)).await });
        }
    }

    fn too_large(&self) -> Problem {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!(
                "the body is longer than the {} bytes that are read",
                self.max_body_len
            ),
        )
    }
}

fn no_memory() -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "the server had no memory for the whole body in time",
    )
}

fn asks_first<B>(request: &Request<B>) -> bool {
    request.headers().contains_key(EXPECT)
}
