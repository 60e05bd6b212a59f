//! Calls that share an exchange: which ones do, and that each remains its own.

// In a test a panic is how a broken promise shows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod common;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use common::*;
use kvquorum_core::{Entry, Merged, Refusal, Replica, Response, Transport, TransportError};
use kvquorum_http::{HttpError, HttpTransport, HttpTransportBuilder, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

type Called = Result<Response, TransportError>;
type Call<'a> = Pin<Box<dyn Future<Output = Called> + Send + 'a>>;

/// The outcome of a request that is refused: the key is empty.
const REFUSED: &[u8] = b"\x00\x02\x00";

/// A replica that the test plays, exchange by exchange.
struct Played {
    replica: HttpTransport,
    exchanges: mpsc::UnboundedReceiver<Exchange>,
}

struct Exchange {
    /// The keys of its requests.
    keys: Vec<String>,
    /// The number of its connection.
    connection: usize,
    stream: TcpStream,
    exchanges: mpsc::UnboundedSender<Exchange>,
}

impl Played {
    /// One whose transport lets calls gather for as long as it takes.
    async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    async fn with(set: impl FnOnce(HttpTransportBuilder) -> HttpTransportBuilder) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let builder = HttpTransport::builder(listener.local_addr().unwrap());
        let builder = builder.gather_time_limit(NEVER);
        let (sender, exchanges) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            for connection in 0.. {
                let stream = listener.accept().await.unwrap().0;
                tokio::spawn(Exchange::read(stream, connection, sender.clone()));
            }
        });
        Self {
            replica: set(builder).build().unwrap(),
            exchanges,
        }
    }

    /// The next exchange.
    async fn exchange(&mut self) -> Exchange {
        in_time(self.exchanges.recv()).await.unwrap()
    }

    /// The next exchange, which comes while this call goes on without an answer.
    async fn exchange_beside(&mut self, call: &mut Call<'_>) -> Exchange {
        tokio::select! {
            called = call => panic!("{called:?}"),
            exchange = in_time(self.exchanges.recv()) => exchange.unwrap(),
        }
    }

    /// The exchange that this call has to itself.
    async fn lead(&mut self, call: &mut Call<'_>) -> Exchange {
        let exchange = self.exchange_beside(call).await;
        assert_eq!(exchange.keys.len(), 1);
        exchange
    }

    /// Nothing is sent as things are.
    async fn is_silent(&mut self) {
        let sent = tokio::time::timeout(SHORT, self.exchanges.recv()).await;
        assert!(sent.is_err(), "{:?}", sent.unwrap().unwrap().keys);
    }
}

impl Exchange {
    async fn read(mut stream: TcpStream, connection: usize, to: mpsc::UnboundedSender<Self>) {
        if let Some(body) = read_body(&mut stream).await {
            let mut keys = Vec::new();
            let mut rest = &body[..];
            while let Some((len, after)) = rest.split_first_chunk() {
                let (request, after) = after.split_at(u32::from_le_bytes(*len) as usize);
                let key = &request[2..2 + usize::from(request[1])];
                keys.push(String::from_utf8(key.to_vec()).unwrap());
                rest = after;
            }
            let exchanges = to.clone();
            let _ = to.send(Self {
                keys,
                connection,
                stream,
                exchanges,
            });
        }
    }

    async fn writes(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Answers, and takes the connection's next request.
    async fn answers(mut self, bytes: impl AsRef<[u8]>) {
        self.writes(bytes).await;
        tokio::spawn(Self::read(self.stream, self.connection, self.exchanges));
    }

    /// Answers each request with the entry that has its key as the value, the
    /// last one first.
    async fn answers_all(self) {
        let answers = self.keys.iter().enumerate().rev();
        let body = answers.flat_map(|(at, key)| outcome(at as u32, value_outcome(key)));
        let body: Vec<u8> = body.collect();
        self.answers(answer("200 OK", body)).await;
    }

    /// Begins an answer in chunks.
    async fn begins(&mut self) {
        self.writes("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
    }

    async fn chunk(&mut self, chunk: impl AsRef<[u8]>) {
        let chunk = chunk.as_ref();
        self.writes(format!("{:x}\r\n", chunk.len())).await;
        self.writes(chunk).await;
        self.writes("\r\n").await;
    }

    /// Returns once the client has closed the connection.
    async fn closed(&mut self) {
        let rest = in_time(self.stream.read_to_end(&mut Vec::new())).await;
        assert_eq!(rest.unwrap_or(0), 0);
    }
}

/// The outcome of a get that finds the key as the value.
fn value_outcome(key: &str) -> Vec<u8> {
    let head = [0, 0, 1, 0x80, 0x80, 0x04, 7, 1, key.len() as u8];
    [&head, key.as_bytes()].concat()
}

fn found(key: &str) -> Response {
    Response::Entry(Some(Entry::new(version(1), key.to_owned())))
}

/// What one poll of this comes to.
async fn polled<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    poll_fn(|cx| match Pin::new(&mut *future).poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Fails unless the call brings back the entry of this key.
async fn finds(call: Call<'_>, key: &str) {
    assert_eq!(in_time(call).await.unwrap(), found(key));
}

fn no_answer(called: Called) -> HttpError {
    match called {
        Err(TransportError::NoAnswer(error)) => *error.downcast().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn calls_that_come_while_an_exchange_is_under_way_share_the_next() {
    let mut played = Played::new().await;
    let replica = played.replica.clone();
    let mut first = replica.call(get("first"));
    let exchange = played.lead(&mut first).await;
    let (b, c, d) = (
        replica.call(get("b")),
        replica.call(get("c")),
        replica.call(get("d")),
    );
    let mut gathered = [b, c, d];
    for call in &mut gathered {
        assert!(polled(call).await.is_none());
    }
    played.is_silent().await;
    exchange.answers_all().await;
    finds(first, "first").await;
    let shared = played.exchange().await;
    assert_eq!(shared.keys, ["b", "c", "d"]);
    // While that one is under way, too.
    let mut last = replica.call(get("last"));
    assert!(polled(&mut last).await.is_none());
    played.is_silent().await;
    // They are answered in another order than they were made in.
    shared.answers_all().await;
    for (call, key) in gathered.into_iter().zip(["b", "c", "d"]) {
        finds(call, key).await;
    }
    let exchange = played.exchange().await;
    assert_eq!(exchange.keys, ["last"]);
    exchange.answers_all().await;
    finds(last, "last").await;
}

#[tokio::test]
async fn a_call_with_nobody_to_share_goes_at_once() {
    let mut played = Played::new().await;
    let replica = played.replica.clone();
    for round in 0..3 {
        // Before anything has gathered, and after.
        for key in ["a", "b"] {
            let mut call = replica.call(get(key));
            let exchange = played.lead(&mut call).await;
            exchange.answers_all().await;
            finds(call, key).await;
        }
        let mut lead = replica.call(get("lead"));
        let exchange = played.lead(&mut lead).await;
        let mut gathered = replica.call(get("gathered"));
        assert!(polled(&mut gathered).await.is_none());
        exchange.answers_all().await;
        finds(lead, "lead").await;
        let exchange = played.exchange().await;
        assert_eq!(exchange.connection, 0, "in round {round}");
        exchange.answers_all().await;
        finds(gathered, "gathered").await;
    }
}

#[tokio::test]
async fn an_answer_that_has_begun_lets_the_next_exchange_go() {
    let mut played = Played::new().await;
    let replica = played.replica.clone();
    let mut slow = replica.call(get("slow"));
    let mut alone = played.lead(&mut slow).await;
    let mut b = replica.call(get("b"));
    assert!(polled(&mut b).await.is_none());
    alone.begins().await;
    // Its head has to be read.
    let mut shared = played.exchange_beside(&mut slow).await;
    assert_eq!(
        (&shared.keys[..], shared.connection),
        (&["b".to_owned()][..], 1)
    );
    // And so does one of several.
    let mut c = replica.call(get("c"));
    assert!(polled(&mut c).await.is_none());
    shared.begins().await;
    let exchange = played.exchange().await;
    assert_eq!(
        (&exchange.keys[..], exchange.connection),
        (&["c".to_owned()][..], 2)
    );
    exchange.answers_all().await;
    finds(c, "c").await;
    for (exchange, key) in [(&mut alone, "slow"), (&mut shared, "b")] {
        exchange.chunk(outcome(0, value_outcome(key))).await;
        exchange.chunk("").await;
    }
    finds(b, "b").await;
    finds(slow, "slow").await;
}

#[tokio::test]
async fn calls_gather_for_no_longer_than_the_limit() {
    let mut played = Played::with(|builder| builder.gather_time_limit(SHORT)).await;
    let replica = played.replica.clone();
    // Sent, and then neither answered nor driven.
    let mut at_rest = replica.call(get("at rest"));
    let _silent = played.lead(&mut at_rest).await;
    let mut silent = Vec::new();
    for key in ["b", "c"] {
        let mut call = replica.call(get(key));
        assert!(polled(&mut call).await.is_none());
        let exchange = played.exchange().await;
        assert_eq!(exchange.keys, [key]);
        silent.push((call, exchange));
    }
    for (call, exchange) in silent {
        let key = exchange.keys[0].clone();
        exchange.answers_all().await;
        finds(call, &key).await;
    }
}

#[tokio::test]
async fn a_gathered_call_that_is_dropped_is_not_sent() {
    let mut played = Played::new().await;
    let replica = played.replica.clone();
    let mut lead = replica.call(get("lead"));
    let exchange = played.lead(&mut lead).await;
    let keys = ["a", "b", "c", "d"];
    let mut calls: Vec<_> = keys.iter().map(|key| replica.call(get(key))).collect();
    for call in &mut calls {
        assert!(polled(call).await.is_none());
    }
    drop(calls.remove(1));
    drop(calls.pop());
    exchange.answers_all().await;
    finds(lead, "lead").await;
    let exchange = played.exchange().await;
    assert_eq!(exchange.keys, ["a", "c"]);
    exchange.answers_all().await;
    for (call, key) in calls.into_iter().zip(["a", "c"]) {
        finds(call, key).await;
    }
}

#[tokio::test]
async fn calls_beyond_the_room_wait_for_it_and_a_dropped_call_gives_it_back() {
    // Room for one, as there always is.
    let mut played = Played::with(|builder| builder.max_gathered_bytes(0)).await;
    let replica = played.replica.clone();
    let mut lead = replica.call(get("lead"));
    let exchange = played.lead(&mut lead).await;
    let keys = ["a", "b", "c"];
    let mut calls: Vec<_> = keys.iter().map(|key| replica.call(get(key))).collect();
    for call in &mut calls {
        assert!(polled(call).await.is_none());
    }
    drop(calls.remove(0));
    // It has the room now.
    assert!(polled(&mut calls[0]).await.is_none());
    exchange.answers_all().await;
    finds(lead, "lead").await;
    for (mut call, key) in calls.into_iter().zip(["b", "c"]) {
        assert!(polled(&mut call).await.is_none());
        let exchange = played.exchange().await;
        assert_eq!(exchange.keys, [key]);
        exchange.answers_all().await;
        finds(call, key).await;
    }
}

#[tokio::test]
async fn a_call_that_leads_and_is_dropped_strands_nobody() {
    let mut played = Played::new().await;
    let replica = played.replica.clone();
    let mut lead = replica.call(get("lead"));
    let mut exchange = played.lead(&mut lead).await;
    let mut gathered = replica.call(get("gathered"));
    assert!(polled(&mut gathered).await.is_none());
    drop(lead);
    exchange.closed().await;
    let exchange = played.exchange().await;
    assert_eq!(exchange.keys, ["gathered"]);
    exchange.answers_all().await;
    finds(gathered, "gathered").await;
}

/// A batch of two that is under way, alone on its connection.
async fn two(played: &mut Played, replica: &HttpTransport) -> (Exchange, [Call<'static>; 2]) {
    let call = |key: &'static str| -> Call<'static> {
        let replica = replica.clone();
        Box::pin(async move { replica.call(get(key)).await })
    };
    let mut lead = call("lead");
    let exchange = played.lead(&mut lead).await;
    let mut calls = [call("a"), call("b")];
    for call in &mut calls {
        assert!(polled(call).await.is_none());
    }
    exchange.answers_all().await;
    finds(lead, "lead").await;
    let exchange = played.exchange().await;
    assert_eq!(exchange.keys, ["a", "b"]);
    (exchange, calls)
}

#[tokio::test]
async fn a_connection_that_breaks_costs_those_that_had_no_answer() {
    let mut played = Played::new().await;
    let replica = played.replica.clone();
    let (mut exchange, [a, b]) = two(&mut played, &replica).await;
    exchange.begins().await;
    exchange.chunk(outcome(1, value_outcome("b"))).await;
    finds(b, "b").await;
    drop(exchange);
    let error = no_answer(in_time(a).await);
    assert!(matches!(error, HttpError::Connection(_)), "{error:?}");
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_costs_those_that_had_none() {
    let twice = [
        outcome(1, value_outcome("b")),
        outcome(1, value_outcome("b")),
    ]
    .concat();
    let of_nobody = [
        outcome(1, value_outcome("b")),
        outcome(2, value_outcome("b")),
    ]
    .concat();
    let missing = outcome(1, value_outcome("b"));
    let half = [outcome(1, value_outcome("b")), vec![0; 9]].concat();
    for (body, is_missing) in [
        (twice, false),
        (of_nobody, false),
        (missing, true),
        (half, false),
    ] {
        let mut played = Played::new().await;
        let replica = played.replica.clone();
        let (exchange, [a, b]) = two(&mut played, &replica).await;
        exchange.answers(answer("200 OK", body)).await;
        finds(b, "b").await;
        match no_answer(in_time(a).await) {
            HttpError::Unanswered => assert!(is_missing),
            HttpError::Decode(_) => assert!(!is_missing),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn each_call_has_its_own_failure() {
    let mut played = Played::with(|builder| builder.max_response_len(100)).await;
    let replica = played.replica.clone();
    for (bytes, expected) in [
        (&b"\x01\x02no"[..], "the replica's store failed"),
        (
            b"\x02\x02no",
            "rejected: the replica did not understand the request: no",
        ),
        (REFUSED, "Refused(EmptyKey)"),
        (b"\x00\x01", "no answer: the answer cannot be decoded"),
        (&[0; 101], "no answer: the answer has more than 100 bytes"),
    ] {
        let (exchange, [a, b]) = two(&mut played, &replica).await;
        let body = [outcome(0, bytes), outcome(1, value_outcome("b"))].concat();
        exchange.answers(answer("200 OK", body)).await;
        assert_eq!(told(in_time(a).await), expected);
        finds(b, "b").await;
    }
    // None of that costs a connection.
    let (exchange, _calls) = two(&mut played, &replica).await;
    assert_eq!(exchange.connection, 0);
}

fn told(called: Called) -> String {
    match called {
        Ok(response) => format!("{response:?}"),
        Err(TransportError::Store(_)) => "the replica's store failed".into(),
        Err(TransportError::Rejected(error)) => format!("rejected: {error}"),
        Err(TransportError::NoAnswer(error)) => format!("no answer: {error}"),
        Err(error) => format!("{error:?}"),
    }
}

#[tokio::test]
async fn a_status_is_for_all() {
    let mut played = Played::new().await;
    let replica = played.replica.clone();
    let (exchange, calls) = two(&mut played, &replica).await;
    exchange.answers(answer("404 Not Found", "who?")).await;
    for call in calls {
        match in_time(call).await {
            Err(TransportError::Rejected(error)) => {
                assert_eq!(error.to_string(), "the peer answered 404 Not Found: who?");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_batch_on_a_pooled_connection_that_breaks_is_sent_once_more() {
    let mut played = Played::new().await;
    let replica = played.replica.clone();
    let (exchange, [a, b]) = two(&mut played, &replica).await;
    assert_eq!(exchange.connection, 0);
    drop(exchange);
    let exchange = played.exchange().await;
    assert_eq!((exchange.keys.len(), exchange.connection), (2, 1));
    // The first try may have arrived: that holds for each of them.
    let body = [outcome(0, REFUSED), outcome(1, value_outcome("b"))].concat();
    exchange.answers(answer("200 OK", body)).await;
    finds(b, "b").await;
    let error = no_answer(in_time(a).await);
    assert!(
        matches!(error, HttpError::LostThenRefused { .. }),
        "{error:?}"
    );

    // And not a third time.
    let (exchange, calls) = two(&mut played, &replica).await;
    drop(exchange);
    let exchange = played.exchange().await;
    drop(exchange);
    for call in calls {
        let error = no_answer(in_time(call).await);
        assert!(matches!(error, HttpError::Connection(_)), "{error:?}");
    }
}

#[tokio::test]
async fn what_was_sent_before_is_not_called_rejected_for_being_too_much() {
    let mut played = Played::new().await;
    let replica = played.replica.clone();
    let (exchange, calls) = two(&mut played, &replica).await;
    drop(exchange);
    let exchange = played.exchange().await;
    exchange.answers(answer("413 Too Much", "")).await;
    for call in calls {
        let error = no_answer(in_time(call).await);
        assert!(
            matches!(error, HttpError::LostThenFailed { .. }),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_batch_that_is_too_much_is_sent_one_by_one() {
    let mut played = Played::new().await;
    let replica = played.replica.clone();
    let (exchange, [a, b]) = two(&mut played, &replica).await;
    exchange.answers(answer("413 Too Much", "")).await;
    let mut exchanges = [played.exchange().await, played.exchange().await];
    exchanges.sort_by_key(|exchange| exchange.keys.clone());
    let [of_a, of_b] = exchanges;
    assert_eq!((&of_a.keys[0][..], of_a.keys.len()), ("a", 1));
    assert_eq!((&of_b.keys[0][..], of_b.keys.len()), ("b", 1));
    of_b.answers_all().await;
    finds(b, "b").await;
    of_a.answers(answer("413 Too Much", "")).await;
    let called = in_time(a).await;
    assert!(
        matches!(called, Err(TransportError::Rejected(_))),
        "{called:?}"
    );
}

#[tokio::test]
async fn when_nobody_waits_for_an_exchange_its_connection_is_closed() {
    // Before its answer begins, and after; with its turn given back.
    for begins in [false, true] {
        let mut played = Played::with(|builder| builder.max_connections(1)).await;
        let replica = played.replica.clone();
        let (mut exchange, [a, b]) = two(&mut played, &replica).await;
        if begins {
            exchange.begins().await;
        }
        drop(a);
        let mut later = replica.call(get("later"));
        assert!(polled(&mut later).await.is_none());
        played.is_silent().await;
        drop(b);
        exchange.closed().await;
        let exchange = played.exchange().await;
        assert_eq!(exchange.keys, ["later"]);
        exchange.answers_all().await;
        finds(later, "later").await;
    }
}

/// How calls with these keys and values go out that gather while another is
/// under way.
async fn batches(
    set: impl FnOnce(HttpTransportBuilder) -> HttpTransportBuilder,
    values: &[usize],
) -> Vec<usize> {
    let mut played = Played::with(set).await;
    let replica = played.replica.clone();
    let mut lead = replica.call(get("lead"));
    let exchange = played.lead(&mut lead).await;
    let request = |len: &usize| merge("k", 1, &"x".repeat(*len));
    let mut calls: Vec<_> = values
        .iter()
        .map(|len| replica.call(request(len)))
        .collect();
    for call in &mut calls {
        assert!(polled(call).await.is_none());
    }
    exchange.answers_all().await;
    finds(lead, "lead").await;
    let mut counts = Vec::new();
    let mut left = values.len();
    while left > 0 {
        let exchange = played.exchange().await;
        let count = exchange.keys.len();
        counts.push(count);
        left -= count;
        let body = (0..count).flat_map(|at| outcome(at as u32, APPLIED));
        let body: Vec<u8> = body.collect();
        exchange.answers(answer("200 OK", body)).await;
    }
    for call in calls {
        assert_eq!(
            in_time(call).await.unwrap(),
            Response::Merged(Merged::Applied)
        );
    }
    counts
}

#[tokio::test]
async fn a_batch_is_bounded_in_number() {
    assert_eq!(batches(|it| it.max_batch(2), &[1; 5]).await, [2, 2, 1]);
    assert_eq!(batches(|it| it.max_batch(5), &[1; 5]).await, [5]);
}

#[tokio::test]
async fn a_batch_is_bounded_in_bytes() {
    let bounded = |it: HttpTransportBuilder| it.max_batch_bytes(1000);
    assert_eq!(batches(bounded, &[300; 5]).await, [3, 2]);
    assert_eq!(batches(bounded, &[900, 500, 1, 1, 500]).await, [1, 3, 1]);
}

#[tokio::test]
async fn a_large_call_does_not_gather() {
    let mut played = Played::with(|builder| builder.max_batch_bytes(1000)).await;
    let replica = played.replica.clone();
    let large = merge("large", 1, &"x".repeat(1000));
    for _ in 0..2 {
        // Nor does it keep others.
        let mut call = replica.call(large.clone());
        let exchange = played.lead(&mut call).await;
        let mut other = replica.call(get("other"));
        let others = played.lead(&mut other).await;
        let mut beside = replica.call(large.clone());
        let exchange_beside = played.lead(&mut beside).await;
        assert_eq!(exchange_beside.keys, ["large"]);
        for exchange in [exchange, exchange_beside] {
            exchange.answers(applied()).await;
        }
        others.answers_all().await;
        finds(other, "other").await;
        for call in [call, beside] {
            assert_eq!(
                in_time(call).await.unwrap(),
                Response::Merged(Merged::Applied)
            );
        }
    }
}

#[tokio::test]
async fn calls_do_not_gather_where_they_are_told_not_to() {
    for most in [0, 1] {
        let mut played = Played::with(|builder| builder.max_batch(most)).await;
        let replica = played.replica.clone();
        let mut under_way = Vec::new();
        for key in ["a", "b", "c"] {
            let mut call = replica.call(get(key));
            let exchange = played.lead(&mut call).await;
            assert_eq!(exchange.connection, under_way.len());
            under_way.push((call, exchange));
        }
        for (call, exchange) in under_way {
            let key = exchange.keys[0].clone();
            exchange.answers_all().await;
            finds(call, &key).await;
        }
    }
}

#[tokio::test]
async fn a_call_that_hangs_or_fails_or_is_refused_concerns_no_other() {
    let server = Server::bind("127.0.0.1:0", Replica::new(Picky::new())).await;
    let server = server.unwrap();
    let replica = HttpTransport::builder(server.local_addr())
        .gather_time_limit(NEVER)
        .build()
        .unwrap();
    let mut lead = replica.call(merge("lead", 1, "v"));
    assert!(polled(&mut lead).await.is_none());
    let requests = ["a", "hangs", "fails", "", "b"].map(|key| merge(key, 1, key));
    let mut calls = requests.map(|request| replica.call(request));
    for call in &mut calls {
        assert!(polled(call).await.is_none());
    }
    in_time(lead).await.unwrap();
    let [a, mut hangs, fails, refused, b] = calls;
    for call in [a, b] {
        assert_eq!(
            in_time(call).await.unwrap(),
            Response::Merged(Merged::Applied)
        );
    }
    let failed = in_time(fails).await;
    assert!(
        matches!(failed, Err(TransportError::Store(_))),
        "{failed:?}"
    );
    assert_eq!(
        in_time(refused).await.unwrap(),
        Response::Refused(Refusal::EmptyKey)
    );
    // Nor those that come later, alone or together.
    for key in ["a", "b"] {
        assert_eq!(call(&replica, get(key)).await.unwrap(), found(key));
    }
    let (one, other) = tokio::join!(call(&replica, get("a")), call(&replica, get("b")));
    assert_eq!((one.unwrap(), other.unwrap()), (found("a"), found("b")));
    assert!(polled(&mut hangs).await.is_none());
    drop(hangs);
    assert_eq!(in_time(server.shutdown()).await, 0);
}

#[tokio::test]
async fn a_call_that_leads_and_hangs_holds_up_nobody() {
    let server = Server::bind("127.0.0.1:0", Replica::new(Picky::new())).await;
    let server = server.unwrap();
    let replica = HttpTransport::builder(server.local_addr())
        .gather_time_limit(NEVER)
        .build()
        .unwrap();
    let hangs = tokio::spawn({
        let replica = replica.clone();
        async move { replica.call(get("hangs")).await }
    });
    tokio::task::yield_now().await;
    for nth in 1..5 {
        call(&replica, merge("k", nth, "v")).await.unwrap();
    }
    assert!(!hangs.is_finished());
    hangs.abort();
}

#[tokio::test]
async fn large_values_share_an_exchange_both_ways() {
    let (server, _store) = serve().await;
    let replica = HttpTransport::builder(server.local_addr())
        .gather_time_limit(NEVER)
        .max_batch_bytes(1 << 20)
        .build()
        .unwrap();
    let values = [100_000, 0, 20_000, 300_000, 5, 16 * 1024].map(|len| "x".repeat(len));
    let key = |at: usize| at.to_string();
    for reads in [false, true] {
        let mut lead = replica.call(get("lead"));
        assert!(polled(&mut lead).await.is_none());
        let mut calls = Vec::new();
        for (at, value) in values.iter().enumerate() {
            let request = if reads {
                get(&key(at))
            } else {
                merge(&key(at), 1, value)
            };
            let mut call = replica.call(request);
            assert!(polled(&mut call).await.is_none());
            calls.push(call);
        }
        in_time(lead).await.unwrap();
        for (call, value) in calls.into_iter().zip(&values) {
            let expected = if reads {
                found(value)
            } else {
                Response::Merged(Merged::Applied)
            };
            assert!(in_time(call).await.unwrap() == expected);
        }
    }
}

/// Many calls with little room, of which some are dropped at whatever they are
/// at: no turn, no room and no answer gets lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_that_come_and_go_leave_nothing_behind() {
    let (server, _store) = serve().await;
    let replica = HttpTransport::builder(server.local_addr())
        .gather_time_limit(NEVER)
        .max_batch(4)
        .max_gathered_bytes(2_000)
        .max_connections(2)
        .build()
        .unwrap();
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let replica = replica.clone();
            tokio::spawn(async move {
                for nth in 1..=100 {
                    let value = format!("{task} {nth}");
                    let key = task.to_string();
                    call(&replica, merge(&key, nth, &value)).await.unwrap();
                    let mut dropped = replica.call(get("other"));
                    for _ in 0..nth % 5 {
                        if polled(&mut dropped).await.is_some() {
                            break;
                        }
                        tokio::task::yield_now().await;
                    }
                    drop(dropped);
                    let read = call(&replica, get(&key)).await.unwrap();
                    let entry = Entry::new(version(nth), value);
                    assert_eq!(read, Response::Entry(Some(entry)));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    // All the room and all turns are there.
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let replica = replica.clone();
            tokio::spawn(async move { call(&replica, get("other")).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[test]
fn a_runtime_that_ends_takes_nothing_with_it_but_its_own_calls() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    let replica = first.block_on(async {
        let mut played = Played::new().await;
        let replica = played.replica.clone();
        let lead = tokio::spawn({
            let replica = replica.clone();
            async move { replica.call(get("lead")).await }
        });
        let _exchange = played.exchange().await;
        let mut gathered = replica.call(get("gathered"));
        assert!(polled(&mut gathered).await.is_none());
        // So that there is a gatherer when the runtime ends.
        std::mem::forget(played.exchanges);
        drop((lead, gathered));
        tokio::spawn({
            let replica = replica.clone();
            async move { replica.call(get("gathered")).await }
        });
        tokio::task::yield_now().await;
        replica
    });
    drop(first);
    runtime().block_on(async {
        // Nobody listens there any more; what counts is that it is tried.
        let called = call(&replica, get("k")).await;
        assert!(called.is_err(), "{called:?}");
    });
}
