//! The replica face, as bytes on the wire.

// In a test a panic is how a broken promise shows.

mod common;

use common::*;
use futures_util::future::join_all;
use kvquorum_core::{
    Ack, Entry, FingerprintRequest, KeyRange, Limits, Refusal, Replica, Request, RequestKind,
    Response, Timestamp, Told, TransportError,
};
use kvquorum_http::{ReplicaService, Server};

/// A merge of `k`, stamped 1 ms by writer 7, with the value `v`.
const MERGE: &[u8] = b"\x01\x01k\x80\x80\x04\x07\x00\x01\x01v";

#[tokio::test]
async fn the_documented_bytes_are_understood() {
    let (server, store) = serve().await;
    let mut client = Raw::connect(server.local_addr()).await;
    let answer = client.ask(post("/v2/call", requests([MERGE]))).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body.as_bytes(), reply(0, APPLIED));
    assert_eq!(store.entries(), [("k".into(), Entry::new(version(1), "v"))]);
    let answer = client.ask(post("/v2/call", requests([b"\x00\x01x"]))).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body.as_bytes(), reply(0, b"\x00\x00\x00\x00"));
}

#[tokio::test]
async fn bodies_that_are_not_frames_are_bad_requests_and_change_nothing() {
    let (server, store) = serve().await;
    let mut client = Raw::connect(server.local_addr()).await;
    let whole = requests([MERGE, MERGE]);
    for body in [b"", &whole[..whole.len() - 1], b"{}", MERGE] {
        let answer = client.ask(post("/v2/call", body)).await;
        assert_eq!(answer.status, 400, "{body:?}");
        let error = answer.error();
        assert!(error.starts_with("not the frames"), "{error}");
        assert_eq!(store.entries(), []);
    }
}

#[tokio::test]
async fn undecodable_requests_are_not_understood_and_the_others_are_answered() {
    let (server, store) = serve().await;
    let mut client = Raw::connect(server.local_addr()).await;
    let trailing = [MERGE, b"!"].concat();
    let unknown = [
        b"",
        &MERGE[..MERGE.len() - 1],
        &trailing,
        b"\x7f\x01k",
        b"{}",
    ];
    let body = requests(unknown);
    let answer = client.ask(post("/v2/call", body)).await;
    assert_eq!(answer.status, 200);
    let all = replies(answer.body.as_bytes());
    assert_eq!(all.len(), unknown.len());
    for (at, (which, reply)) in all.iter().enumerate() {
        assert_eq!((*which as usize, reply[0]), (at, 2));
        // With what the decoder says of it, where it says more.
        let error = std::str::from_utf8(&reply[2..]).unwrap();
        let whole = error.ends_with("follow the message") || error.contains("version 2: ");
        assert!(whole, "{error}");
    }
    assert_eq!(store.entries(), []);

    let body = requests([b"\x00\x01x", b"\x7f\x01k", MERGE]);
    let answer = client.ask(post("/v2/call", body)).await;
    let all = replies(answer.body.as_bytes());
    assert_eq!(all[0], (0, b"\x00\x00\x00\x00".to_vec()));
    assert_eq!((all[1].0, all[1].1[0]), (1, 2));
    assert_eq!(all[2], (2, APPLIED.to_vec()));
    assert_eq!(store.entries().len(), 1);
}

#[tokio::test]
async fn a_batch_is_bounded_in_number() {
    let store = TestStore::new();
    let service = settings(&store).max_batch(3).build();
    let server = Server::bind("127.0.0.1:0", service).await.unwrap();
    let mut client = Raw::connect(server.local_addr()).await;
    let answer = client.ask(post("/v2/call", requests([MERGE; 4]))).await;
    assert_eq!(answer.status, 413);
    assert!(answer.error().starts_with("4 requests"), "{answer:?}");
    assert_eq!(store.entries(), []);
    let answer = client.ask(post("/v2/call", requests([MERGE; 3]))).await;
    assert_eq!(answer.status, 200);
    assert_eq!(replies(answer.body.as_bytes()).len(), 3);
}

#[tokio::test]
async fn an_answer_does_not_wait_for_a_slow_one_and_each_has_its_time() {
    let service = ReplicaService::builder(Replica::new(Picky::new()).of_new_cluster())
        .store_timeout(SHORT)
        .build();
    let server = Server::bind("127.0.0.1:0", service).await.unwrap();
    let mut client = Raw::connect(server.local_addr()).await;
    let batch = [&b"\x00\x05hangs"[..], b"\x00\x01a", b"\x00\x01b"];
    let answer = client.ask(post("/v2/call", requests(batch))).await;
    assert_eq!(answer.status, 200);
    assert!(answer.is_chunked, "{answer:?}");
    let early = client.chunk().await.unwrap();
    let none = b"\x00\x00\x00\x00".to_vec();
    assert_eq!(replies(&early), [(1, none.clone()), (2, none)]);
    let late = replies(&client.chunk().await.unwrap());
    let said = String::from_utf8_lossy(&late[0].1[2..]);
    assert_eq!((late.len(), late[0].0, late[0].1[0]), (1, 0, 1));
    assert!(said.contains("did not answer within"), "{said}");
    assert!(client.chunk().await.is_none());
    // The connection is of use for more.
    let answer = client.ask(post("/v2/call", requests([b"\x00\x01a"]))).await;
    assert!(!answer.is_chunked);
}

#[tokio::test]
async fn an_answer_is_made_no_faster_than_it_is_read() {
    let (server, store) = serve().await;
    let value = "x".repeat(1024 * 1024);
    store.insert("k", Entry::new(version(1), value));
    let mut client = Raw::connect(server.local_addr()).await;
    let answer = client
        .ask(post("/v2/call", requests([b"\x00\x01k"; 64])))
        .await;
    assert!(answer.is_chunked);
    tokio::time::sleep(SHORT).await;
    // More than the sockets' buffers can hold has not been asked for.
    let asked = store.calls.available_permits();
    assert!((1..32).contains(&asked), "{asked}");
    let mut body = Vec::new();
    while let Some(chunk) = client.chunk().await {
        body.extend(chunk);
    }
    let numbers = replies(&body).into_iter().map(|(which, _)| which);
    assert!(numbers.eq(0..64));
}

#[tokio::test]
async fn an_unknown_version_is_told_the_version_spoken_here() {
    let (server, store) = serve().await;
    let mut client = Raw::connect(server.local_addr()).await;
    for path in ["/v1/call", "/v0/call", "/v10/other", "/v3"] {
        let answer = client.ask(post(path, MERGE)).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.error().contains("version 2 is"), "{answer:?}");
    }
    assert_eq!(store.entries(), []);
}

#[tokio::test]
async fn a_call_arrives_unchanged_and_so_does_its_response() {
    let (server, store) = serve().await;
    let replica = transport(server.local_addr());
    let every_byte: Vec<u8> = (0..=255).collect();
    let entry = Entry::new(version(5), every_byte.clone());
    let key = kvquorum_core::Key::from(every_byte);
    let write = |entry: &Entry| Request::write(&key, entry.clone());
    let read_it = Request::read(&key);

    let merged = call(&replica, write(&entry)).await.unwrap();
    assert_eq!(merged, Response::Ack(Ack::Applied));
    assert_eq!(store.entries(), [(key.clone(), entry.clone())]);
    let read = call(&replica, read_it.clone()).await.unwrap();
    assert_eq!(read, Response::Entry(Some(entry).into()));

    let deleted = Entry::tombstone(version(6));
    call(&replica, write(&deleted)).await.unwrap();
    let read = call(&replica, read_it).await.unwrap();
    assert_eq!(read, Response::Entry(Some(deleted).into()));
    let merged = call(&replica, write(&Entry::new(version(4), "old"))).await;
    let by = version(6);
    assert_eq!(merged.unwrap(), Response::Ack(Ack::Superseded { by }));
}

#[tokio::test]
async fn the_largest_value_passes_both_ways() {
    let (server, _store) = serve().await;
    let replica = transport(server.local_addr());
    let max = Limits::default().max_value_len;
    let largest = "x".repeat(max);
    let merged = call(&replica, write("k", 1, &largest)).await.unwrap();
    assert_eq!(merged, Response::Ack(Ack::Applied));
    let read = call(&replica, read("k")).await.unwrap();
    assert!(read == Response::Entry(Some(Entry::new(version(1), largest)).into()));

    let too_large = "x".repeat(max + 1);
    let refused = call(&replica, write("k", 1, &too_large)).await.unwrap();
    let (len, max) = (max as u64 + 1, max as u64);
    assert_eq!(
        refused,
        Response::Refused(Refusal::ValueTooLarge { len, max })
    );
}

#[tokio::test]
async fn a_refusal_is_a_response() {
    let store = TestStore::new();
    let replica = Replica::new(store.clone())
        .of_new_cluster()
        .with_wall_clock(|| 1_000);
    let server = Server::bind("127.0.0.1:0", replica).await.unwrap();
    let replica = transport(server.local_addr());
    let refused = call(&replica, write("k", 61_001, "v")).await.unwrap();
    assert_eq!(
        refused,
        Response::Refused(Refusal::TooFarAhead {
            timestamp: version(61_001).timestamp,
            now_millis: 1_000,
            max_drift_millis: 60_000,
        })
    );
    for request in [read(""), write("", 1, "v")] {
        let refused = call(&replica, request).await.unwrap();
        assert_eq!(refused, Response::Refused(Refusal::EmptyKey));
    }
    assert_eq!(store.entries(), []);
}

/// By this a coordinator tells a replica's own refusals from those of a proxy.
/// What did not arrive in time may arrive again by way of one that repeats it.
#[tokio::test]
async fn what_stored_nothing_says_so() {
    let store = TestStore::new();
    let service = settings(&store).max_batch(1).body_timeout(SHORT).build();
    let server = Server::bind("127.0.0.1:0", service).await.unwrap();
    let unfinished = "POST /v2/call HTTP/1.1\r\n\
                      content-type: application/octet-stream\r\ncontent-length: 9\r\n\r\n";
    for (request, status) in [
        (post("/v2/call", b"{}"), 400),
        (post("/v3/call", b""), 404),
        (get_path("/v2/call").into_bytes(), 405),
        (post("/v2/call", requests([MERGE; 2])), 413),
        (unfinished.into(), 408),
    ] {
        let mut client = Raw::connect(server.local_addr()).await;
        let answer = client.ask(request).await;
        assert_eq!(answer.status, status);
        let says_so = answer.header("kvquorum-nothing-stored") == Some("1");
        assert_eq!(says_so, status != 408, "{answer:?}");
    }
    let mut client = Raw::connect(server.local_addr()).await;
    let stored = client.ask(post("/v2/call", requests([MERGE]))).await;
    assert_eq!(stored.header("kvquorum-nothing-stored"), None);
}

/// Catches a write that is told not to have been stored because of a header that
/// does not say so.
#[tokio::test]
async fn only_the_documented_value_says_that_nothing_was_stored() {
    for (headers, says_so) in [
        (&["1"][..], true),
        (&["1", "1"], true),
        (&["0"], false),
        (&[""], false),
        (&["1, 0"], false),
        (&["1", "0"], false),
    ] {
        let lines = headers
            .iter()
            .map(|it| format!("\r\nkvquorum-nothing-stored: {it}"));
        let head = ["404 Not Found".to_owned()].into_iter().chain(lines);
        let stub = Stub::answering(answer(&head.collect::<String>(), "")).await;
        let error = call(&transport(stub.addr), write("k", 1, "v")).await;
        match error.unwrap_err() {
            TransportError::Rejected(_) => assert!(says_so, "{headers:?}"),
            TransportError::NoAnswer(_) => assert!(!says_so, "{headers:?}"),
            other => panic!("{headers:?}: {other:?}"),
        }
    }
}

/// Catches a writer who is told that the request was malformed, where it was only
/// overtaken.
#[tokio::test]
async fn a_plain_write_below_a_promise_is_a_conflict() {
    let (server, store) = serve().await;
    let promise = Request::prepare("k", version(2));
    let promised = call(&transport(server.local_addr()), promise).await;
    assert_eq!(promised.unwrap(), Response::Promise(None.into()));
    let mut client = Raw::connect(server.local_addr()).await;
    let body = |millis| format!("{{\"key\":\"k\",\"value\":1,\"timestamp\":{millis}}}");
    let answer = client.ask(post("/write", body(1))).await;
    assert_eq!(answer.status, 409);
    assert!(answer.body.contains("is promised"), "{answer:?}");
    assert!(answer.body.contains(",\"from\":3}"), "{answer:?}");
    assert_eq!(answer.header("kvquorum-nothing-stored"), Some("1"));
    assert_eq!(store.entries(), []);
    assert_eq!(client.ask(post("/write", body(3))).await.status, 200);
}

/// Bugs: passes and collections do not give way to reads or writes that come over HTTP; they
/// do to each other's requests.
#[tokio::test]
async fn a_replica_is_told_of_reads_and_writes() {
    let (server, store) = serve().await;
    for number in 0..3000 {
        store.insert(&format!("k{number}"), Entry::new(version(1), "v"));
    }
    let link = transport(server.local_addr());
    let is_beside_others = async || {
        let asked = RequestKind::Fingerprint(Box::new(FingerprintRequest {
            range: KeyRange::from(..),
            hash_key: 1,
            cuts: Vec::new(),
            every: u64::MAX,
            max_keys: u64::MAX,
            max_bytes: u64::MAX,
            collected: Timestamp::MIN,
        }));
        match call(&link, Request::of(asked)).await.unwrap() {
            Response::Told(told) => match *told {
                Told::Windows(windows) => windows.is_beside_others,
                told => panic!("{told:?}"),
            },
            response => panic!("{response:?}"),
        }
    };
    let others = [(); 4].map(|()| unbatched(server.local_addr()));
    let beside = async |request: fn() -> Request| {
        let asking = join_all(others.iter().map(|other| call(other, request())));
        let (is_beside_others, answers) = tokio::join!(is_beside_others(), asking);
        assert!(answers.iter().all(Result::is_ok));
        is_beside_others
    };
    for _ in 0..20 {
        assert!(!beside(Request::status).await);
    }
    until(async || beside(|| read("k")).await).await;
    until(async || beside(|| write("other", 1, "v")).await).await;
}
