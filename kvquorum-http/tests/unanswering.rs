//! A replica that accepts connections and answers nothing, and comes back.

// In a test a panic is how a broken promise shows.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::*;
use futures_util::future::{join_all, select_all};
use kvquorum_core::{Response, Transport, TransportError};
use kvquorum_http::{HttpError, HttpTransport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A replica that answers nothing until it is told to.
struct Silent {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    state: watch::Sender<State>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    answers: bool,
    /// Connections of an earlier one are silent for ever.
    generation: u32,
}

impl Silent {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let state = State {
            answers: false,
            generation: 0,
        };
        let (state, watched) = watch::channel(state);
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        let task = tokio::spawn(async move {
            loop {
                let stream = listener.accept().await.unwrap().0;
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(Self::play(stream, watched.clone()));
            }
        });
        Self {
            addr,
            connections,
            state,
            task,
        }
    }

    async fn play(mut stream: TcpStream, mut state: watch::Receiver<State>) {
        let State { generation, .. } = *state.borrow();
        while read_request(&mut stream).await {
            let is_dead = |state: &State| state.generation != generation;
            let wakes = |state: &State| state.answers || is_dead(state);
            let Ok(now) = state.wait_for(wakes).await.map(|state| *state) else {
                return;
            };
            if is_dead(&now) {
                let _ = stream.read_to_end(&mut Vec::new()).await;
                return;
            }
            stream.write_all(&applied()).await.unwrap();
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// From now on all requests are answered, those before included.
    fn answers(&self) {
        self.state.send_modify(|state| state.answers = true);
    }

    /// From now on nothing is answered on the connections that there are, and
    /// all is on others.
    fn forgets(&self) {
        self.state.send_modify(|state| {
            state.answers = true;
            state.generation += 1;
        });
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A transport whose calls do not share exchanges, and that counts this many
/// without an answer.
fn unbatched(silent: &Silent, max_unanswered: usize) -> HttpTransport {
    HttpTransport::builder(silent.addr)
        .max_batch(1)
        .max_unanswered(max_unanswered)
        .build()
        .unwrap()
}

fn spawn_write(replica: &HttpTransport) -> JoinHandle<Result<Response, TransportError>> {
    let replica = replica.clone();
    tokio::spawn(async move { replica.call(&write("k", 1, "v")).await })
}

/// A call that is given up after a moment; `None` then.
async fn given_up(replica: &HttpTransport) -> Option<TransportError> {
    let call = replica.call(&write("k", 1, "v"));
    let called = tokio::time::timeout(Duration::from_millis(2), call).await;
    called.ok().map(|called| called.unwrap_err())
}

/// Each exchange that was given up made room for the next, over a connection of
/// its own: hundreds a second, until there were no more descriptors.
#[tokio::test]
async fn a_replica_that_never_answers_is_tried_seldom() {
    for max_batch in [1, 256] {
        let silent = Silent::new().await;
        let replica = HttpTransport::builder(silent.addr)
            .max_batch(max_batch)
            .batch_wait(Duration::ZERO)
            .max_unanswered(5)
            .max_backoff(NEVER)
            .build()
            .unwrap();
        let begun = Instant::now();
        let mut failed = 0;
        for _ in 0..200 {
            let calls = [(); 4].map(|()| given_up(&replica));
            for error in join_all(calls).await {
                let Some(error) = error else { continue };
                // The others are told at once that they were not sent.
                assert!(matches!(error, TransportError::NotSent(_)), "{error:?}");
                let not_answering = matches!(cause(&error), HttpError::NotAnswering { .. });
                assert!(not_answering, "{error:?}");
                failed += 1;
            }
        }
        assert!(failed > 100, "{failed} were told");
        // At 20 ms, 40 ms, 80 ms..., shortened by up to half.
        let pauses = (begun.elapsed().as_millis() / 10 + 1).ilog2() as usize;
        let most = 5 + 1 + pauses;
        assert!(silent.connections() <= most, "{}", silent.connections());
    }
}

/// A replica that is back is used again within the longest pause, and over new
/// connections: those from before are as silent as they were.
#[tokio::test]
async fn a_replica_that_is_back_is_used_again_soon() {
    let silent = Silent::new().await;
    let replica = HttpTransport::builder(silent.addr)
        .max_batch(1)
        .max_unanswered(5)
        .max_backoff(SHORT)
        .build()
        .unwrap();
    // Without a bound the pause after so many tries would be one of seconds.
    until(async || {
        given_up(&replica).await;
        silent.connections() >= 14
    })
    .await;
    silent.forgets();
    let begun = Instant::now();
    until(async || replica.call(&write("k", 1, "v")).await.is_ok()).await;
    let took = begun.elapsed();
    assert!(took < SHORT * 10, "{took:?}");
    // And as freely as before.
    let calls = (0..50).map(|_| call(&replica, write("k", 1, "v")));
    for called in join_all(calls).await {
        assert!(matches!(called, Ok(Response::Ack(_))), "{called:?}");
    }
}

/// A slow answer is not a missing one: as long as no exchange has failed, calls
/// beyond the bound wait for the replica, few of them in exchanges.
#[tokio::test]
async fn calls_wait_for_a_replica_that_is_slow() {
    let silent = Silent::new().await;
    let replica = unbatched(&silent, 3);
    let calls: Vec<_> = (0..50).map(|_| spawn_write(&replica)).collect();
    until(async || silent.connections() > 3).await;
    assert!(silent.connections() < 10, "{}", silent.connections());
    silent.answers();
    for call in calls {
        in_time(call).await.unwrap().unwrap();
    }
}

/// Connections on which nobody answers any more, as after a firewall forgot
/// them, cost a few exchanges, and not one for each that was idle.
#[tokio::test]
async fn a_replica_that_does_not_answer_is_tried_over_new_connections() {
    let silent = Silent::new().await;
    let replica = unbatched(&silent, 3);
    let calls: Vec<_> = (0..10).map(|_| spawn_write(&replica)).collect();
    until(async || silent.connections() > 6).await;
    silent.answers();
    for call in calls {
        in_time(call).await.unwrap().unwrap();
    }
    silent.forgets();
    let calls: Vec<_> = (0..4).map(|_| spawn_write(&replica)).collect();
    let (answered, _, on_dead_ones) = in_time(select_all(calls)).await;
    answered.unwrap().unwrap();
    for _ in 0..10 {
        call(&replica, write("k", 1, "v")).await.unwrap();
    }
    on_dead_ones.iter().for_each(|call| call.abort());
}
