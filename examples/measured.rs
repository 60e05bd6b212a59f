//! A transport around a transport: it counts the calls to a replica, and
//! measures how long they take.
//!
//! The same way leads to logs, to traces, and to faults for tests.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use kvquorum_core::{Call, Coordinator, Replica, Request, Response, Transport, TransportError};
use kvquorum_http::{HttpTransport, Server};
use kvquorum_mem::MemStore;

struct Measured<T> {
    inner: T,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Metrics {
    calls: AtomicU64,
    failures: AtomicU64,
    nanos: AtomicU64,
}

impl Metrics {
    fn count(&self, began: Instant, result: &Result<Response, TransportError>) {
        // A refusal is an answer: the replica is there.
        let failures = u64::from(result.is_err());
        let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.calls.fetch_add(1, Relaxed);
        self.failures.fetch_add(failures, Relaxed);
        self.nanos.fetch_add(nanos, Relaxed);
    }

    fn mean(&self) -> Duration {
        let calls = self.calls.load(Relaxed).max(1);
        let nanos = self.nanos.load(Relaxed);
        Duration::from_nanos(nanos.checked_div(calls).unwrap_or(0))
    }
}

impl<T: Transport> Transport for Measured<T> {
    fn call(&self, request: &Request) -> Call {
        let (began, metrics) = (Instant::now(), Arc::clone(&self.metrics));
        let call = self.inner.call(request);
        Call::new(async move {
            let result = call.await;
            metrics.count(began, &result);
            result
        })
    }

    fn name(&self) -> &str {
        self.inner.name()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let servers = [server().await?, server().await?, server().await?];
    let [a, b, c] = servers.each_ref().map(Server::local_addr);
    let links = [
        HttpTransport::new(a)?,
        HttpTransport::new(b)?,
        HttpTransport::new(c)?,
    ];
    let map = Coordinator::<3, 2, 2, _>::new(links.map(|inner| Measured {
        inner,
        metrics: Arc::default(),
    }));

    for round in 0..100_u32 {
        map.put("round", round.to_string()).await?;
    }
    let [.., third] = servers;
    third.shutdown().await;
    for _ in 0..100 {
        map.get("round").await?;
    }
    // What goes on in the background counts too.
    map.drain().await;

    for link in map.transports() {
        let Metrics {
            calls, failures, ..
        } = &*link.metrics;
        println!(
            "{}: {} calls, {} failed, {:?} on average",
            link.name(),
            calls.load(Relaxed),
            failures.load(Relaxed),
            link.metrics.mean(),
        );
    }
    Ok(())
}

async fn server() -> std::io::Result<Server> {
    Server::bind("127.0.0.1:0", Replica::new(MemStore::new())).await
}
