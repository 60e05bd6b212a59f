//! The floor over HTTP: a quorum by hand, on the client that most would take.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http_body_util::{BodyExt, Full};
use hyper::header::CONTENT_TYPE;
use hyper::{StatusCode, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kvquorum_core::{Ack, Bytes, Key, Request, Response};

use super::wire;
use crate::map::Map;
use crate::stamps::Stamps;

/// As `HttpTransport` has it: less than the server's, so that no request meets
/// the server's close half-way.
const IDLE_TIME_LIMIT: Duration = Duration::from_secs(15);

/// The same request to all N replicas at once over hyper-util's pooled client,
/// on at a quorum of answers, and the rest carried to its end in a task of its
/// own. It reports nothing, limits no time, and repairs nothing.
pub struct HttpFloor<const N: usize, const W: usize, const R: usize> {
    client: Client<HttpConnector, Full<Bytes>>,
    uris: [Uri; N],
    stamps: Stamps,
}

impl<const N: usize, const W: usize, const R: usize> HttpFloor<N, W, R> {
    /// A map on the replicas at these addresses.
    pub fn new(addresses: &[String; N]) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let uri = |address: &String| {
            format!("http://{address}{}", wire::CALL_PATH)
                .parse()
                .unwrap()
        };
        Self {
            client: Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE_TIME_LIMIT)
                .build(connector),
            uris: addresses.each_ref().map(uri),
            stamps: Stamps::new(),
        }
    }

    /// The first so many answers.
    async fn first(&self, needed: usize, request: &Request) -> Vec<Response> {
        let body = wire::body(request);
        let post = |uri: &Uri| {
            let request = hyper::Request::post(uri.clone())
                .header(CONTENT_TYPE, wire::CONTENT_TYPE)
                .body(Full::new(body.clone()));
            answer(self.client.request(request.unwrap()))
        };
        let mut calls: FuturesUnordered<_> = self.uris.iter().map(post).collect();
        let answers = calls.by_ref().take(needed).collect().await;
        tokio::spawn(async move { while calls.next().await.is_some() {} });
        answers
    }
}

async fn answer(call: ResponseFuture) -> Response {
    let (head, body) = call.await.unwrap().into_parts();
    assert_eq!(head.status, StatusCode::OK);
    wire::response(&body.collect().await.unwrap().to_bytes())
}

impl<const N: usize, const W: usize, const R: usize> Map for HttpFloor<N, W, R> {
    async fn put(&self, key: &Key, value: &Bytes) {
        let request = Request::write(key, self.stamps.entry(value));
        for answer in self.first(W, &request).await {
            assert_eq!(answer, Response::Ack(Ack::Applied));
        }
    }

    async fn get(&self, key: &Key) -> Bytes {
        let answers = self.first(R, &Request::read(key)).await;
        let entries = answers.into_iter().filter_map(|answer| match answer {
            Response::Entry(held) => held.entry,
            _ => None,
        });
        entries.max().unwrap().value.unwrap()
    }
}
