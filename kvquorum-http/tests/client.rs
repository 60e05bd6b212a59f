//! The transport: what it makes of a peer that fails, and of what it says.

// In a test a panic is how a broken promise shows.

mod common;

use std::net::SocketAddr;

use common::*;
use kvquorum_core::{Ack, Coordinator, Response, Transport, TransportError, WriteError};
use kvquorum_http::{HttpError, HttpTransport, RemoteStoreError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn the_name_is_the_address() {
    let replica = HttpTransport::new("http://127.0.0.1:3001").unwrap();
    assert_eq!(replica.name(), "127.0.0.1:3001");
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 3001));
    let replica = HttpTransport::new(address).unwrap();
    assert_eq!(replica.name(), "127.0.0.1:3001");
}

#[tokio::test]
async fn a_refused_connection_is_not_sent() {
    // Bound and not listened on by anyone else, then closed.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = gone.local_addr().unwrap();
    drop(gone);
    let error = call(&transport(addr), write("k", 1, "v"))
        .await
        .unwrap_err();
    assert!(matches!(error, TransportError::NotSent(_)), "{error:?}");
    assert!(matches!(cause(&error), HttpError::Connect(_)), "{error:?}");
}

/// Where nobody listens, connecting is not tried over and over, and what is told
/// meanwhile has the cause in it.
#[tokio::test]
async fn a_connection_that_is_refused_is_tried_seldom() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = gone.local_addr().unwrap();
    drop(gone);
    let replica = HttpTransport::builder(addr)
        .max_unanswered(2)
        .max_backoff(NEVER)
        .build()
        .unwrap();
    until(async || {
        let error = call(&replica, write("k", 1, "v")).await.unwrap_err();
        assert!(matches!(error, TransportError::NotSent(_)), "{error:?}");
        assert!(printed(&error).contains("refused"), "{}", printed(&error));
        match cause(&error) {
            HttpError::Connect(_) => false,
            HttpError::NotAnswering { unanswered, .. } => {
                assert!(*unanswered >= 2);
                true
            }
            other => panic!("{other:?}"),
        }
    })
    .await;
    // It is back before it is tried again.
    let listener = TcpListener::bind(addr).await.unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(read_request(&mut stream).await);
        stream.write_all(&applied()).await.unwrap();
    });
    until(async || replica.call(&write("k", 1, "v")).await.is_ok()).await;
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_not_sent() {
    let nowhere = HttpTransport::new("replica.invalid:3001").unwrap();
    let error = call(&nowhere, read("k")).await.unwrap_err();
    assert!(matches!(error, TransportError::NotSent(_)), "{error:?}");
}

/// An address at which connections are left unanswered, as those to a host
/// that has no power: a listener whose queue is full.
async fn unanswering() -> (SocketAddr, impl Sized) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(SHORT, TcpStream::connect(addr)).await {
        queued.push(stream);
    }
    (addr, (listener, queued))
}

#[tokio::test]
async fn a_write_to_hosts_that_do_not_answer_is_not_applied_by_default() {
    let (addr, _queue) = unanswering().await;
    let links = [(); 3].map(|()| HttpTransport::new(addr).unwrap());
    let map = Coordinator::<3, 2, 2, _>::new(links);
    let error = in_time(map.put("k", "v")).await.unwrap_err();
    // The write fails with the second of them; the third tells a little later.
    let error = in_time(error.settled()).await;
    assert!(matches!(error, WriteError::NotApplied(_)), "{error:?}");
}

#[tokio::test]
async fn connecting_ends_at_its_limit() {
    let (addr, _queue) = unanswering().await;
    let replica = HttpTransport::builder(addr)
        .connect_timeout(SHORT)
        .build()
        .unwrap();
    let error = call(&replica, read("k")).await.unwrap_err();
    assert!(matches!(error, TransportError::NotSent(_)), "{error:?}");
    assert!(matches!(cause(&error), HttpError::ConnectTimedOut(_)));
}

/// What is printed for an error with all its causes.
fn printed(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let levels: Vec<_> = causes.map(ToString::to_string).collect();
    levels.join(": ")
}

#[tokio::test]
async fn an_error_names_each_of_its_causes_once() {
    let stub = Stub::answering(answer("200 OK", reply(0, b"\x00\x01"))).await;
    let error = call(&transport(stub.addr), read("k")).await.unwrap_err();
    let decoding = printed(cause(&error));
    assert!(
        decoding.starts_with(
            "the answer cannot be decoded: \
             not a message of the replica protocol, version 2: "
        ),
        "{decoding}"
    );
    assert_eq!(decoding.matches("replica protocol").count(), 1);

    let nowhere = HttpTransport::new("replica.invalid:3001").unwrap();
    let error = call(&nowhere, read("k")).await.unwrap_err();
    let resolving = printed(cause(&error));
    let (connecting, why) = resolving.split_once(": ").unwrap();
    assert_eq!(connecting, "connecting failed");
    assert_eq!(resolving.matches(why).count(), 1, "{resolving}");

    // A cause that is not the source is told with its own causes.
    let stub = closes_on_second_request(|mut stream: TcpStream| async move {
        stream.write_all(&refused()).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let replica = transport(stub.addr);
    call(&replica, write("k", 1, "v")).await.unwrap();
    let error = call(&replica, write("k", 2, "v")).await.unwrap_err();
    let refused = printed(cause(&error));
    assert!(
        refused.starts_with("the first try failed (the connection failed: "),
        "{refused}"
    );
    assert!(
        refused.ends_with(
            "), and so did the second: the replica refused the request: the key is empty"
        ),
        "{refused}"
    );
}

#[tokio::test]
async fn a_peer_that_closes_without_an_answer_has_given_no_answer() {
    let stub = Stub::new(|_, _| async {}).await;
    let error = call(&transport(stub.addr), write("k", 1, "v"))
        .await
        .unwrap_err();
    assert!(matches!(error, TransportError::NoAnswer(_)), "{error:?}");
    assert!(matches!(cause(&error), HttpError::Connection(_)));
    // On a new connection there is no retry: the peer meant it.
    assert_eq!(stub.requests.available_permits(), 1);
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_no_answer() {
    for (bytes, name) in [
        (b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(), "not HTTP"),
        (applied()[..20].to_vec(), "half a head"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n\x01".to_vec(),
            "half a body",
        ),
        (answer("200 OK", b"<html>hello</html>"), "another body"),
        (answer("200 OK", b""), "no body"),
        (
            answer("200 OK", reply(0, b"\x00\x01\x00!")),
            "more than a reply",
        ),
        (answer("200 OK", reply(1, APPLIED)), "the answer to another"),
        (answer("200 OK", &reply(0, APPLIED)[..9]), "half a frame"),
        (answer("302 Found", b""), "a redirection"),
        (answer("503 Service Unavailable", b"later"), "unavailable"),
        (answer("502 Bad Gateway", reply(0, APPLIED)), "a gateway"),
    ] {
        let stub = Stub::answering(bytes).await;
        let error = call(&transport(stub.addr), write("k", 1, "v"))
            .await
            .unwrap_err();
        assert!(
            matches!(error, TransportError::NoAnswer(_)),
            "{name}: {error:?}"
        );
        cause(&error);
        assert_eq!(stub.requests.available_permits(), 1, "{name}");
    }
}

#[tokio::test]
async fn an_oversized_answer_is_no_answer_and_is_not_read() {
    let frame = reply(0, vec![0; 1501]);
    let announced = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n",
        &frame[..8],
    ]
    .concat();
    let endless = [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec(),
        b"400\r\n".to_vec(),
        frame[..0x400].to_vec(),
        b"\r\n400\r\n".to_vec(),
        vec![0; 0x400],
    ]
    .concat();
    for bytes in [announced, endless] {
        // It keeps the connection open: only the bound can end this call.
        let stub = Stub::new(move |_, mut stream| {
            let bytes = bytes.clone();
            async move {
                stream.write_all(&bytes).await.unwrap();
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        })
        .await;
        let replica = HttpTransport::builder(stub.addr)
            .max_response_len(1500)
            .build()
            .unwrap();
        let error = call(&replica, write("k", 1, "v")).await.unwrap_err();
        assert!(matches!(error, TransportError::NoAnswer(_)), "{error:?}");
        let too_large = matches!(cause(&error), HttpError::ResponseTooLarge { max: 1500 });
        assert!(too_large, "{error:?}");
    }
}

/// Proxies and gateways answer with any status by themselves, some of them after
/// they handed the request on: a write was then called not applied, and was.
#[tokio::test]
async fn a_status_is_a_rejection_only_where_the_replica_itself_says_so() {
    for status in [
        "400 Bad Request",
        "401 Unauthorized",
        "403 Forbidden",
        "404 Not Found",
        "405 No",
        "408 Request Timeout",
        "413 No",
        "429 Too Many Requests",
        "431 No",
        "500 Internal Server Error",
        "503 Service Unavailable",
        "504 Gateway Timeout",
    ] {
        for is_own in [false, true] {
            let body = "{\"error\":\"go away\"}";
            let bytes = if is_own {
                nothing_stored(status, body)
            } else {
                answer(status, body)
            };
            let stub = Stub::answering(bytes).await;
            let error = call(&transport(stub.addr), write("k", 1, "v"))
                .await
                .unwrap_err();
            match error {
                TransportError::Rejected(_) => assert!(is_own, "{status}"),
                TransportError::NoAnswer(_) => assert!(!is_own, "{status}"),
                _ => panic!("{error:?}"),
            }
            let HttpError::Status {
                status: code,
                message,
            } = cause(&error)
            else {
                panic!("{error:?}");
            };
            assert!(status.starts_with(code.as_str()));
            assert_eq!(message, "go away");
        }
    }
}

#[tokio::test]
async fn a_value_far_beyond_what_the_replica_reads_is_rejected() {
    let (server, store) = serve().await;
    let huge = "x".repeat(20 * 1024 * 1024);
    let error = call(&transport(server.local_addr()), write("k", 1, &huge)).await;
    let error = error.unwrap_err();
    assert!(matches!(error, TransportError::Rejected(_)), "{error:?}");
    assert_eq!(store.entries(), []);
}

#[tokio::test]
async fn a_failed_store_is_a_store_error_with_the_replicas_words() {
    let (server, store) = serve().await;
    store.set_on_fire();
    let error = call(&transport(server.local_addr()), write("k", 1, "v")).await;
    let error = error.unwrap_err();
    assert!(error.may_have_applied());
    let TransportError::Store(store_error) = error else {
        panic!("{error:?}");
    };
    let remote = std::error::Error::source(&store_error).unwrap();
    let remote: &RemoteStoreError = remote.downcast_ref().unwrap();
    assert_eq!(remote.message(), "the disk is on fire: no water");
}

#[tokio::test]
async fn an_error_message_of_any_length_and_kind_is_cut_to_size() {
    for body in ["ü".repeat(10_000).into_bytes(), vec![0xff; 10_000]] {
        let stub = Stub::answering(answer("404 Not Found", body)).await;
        let error = call(&transport(stub.addr), read("k")).await.unwrap_err();
        assert!(error.to_string().len() < 2_000);
    }
}

/// A replica that sends interim responses without end kept calls busy far beyond
/// their time limit, and so does any head without end.
#[tokio::test]
async fn what_comes_before_an_answer_is_bounded() {
    for endless in [
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n",
    ] {
        let stub = Stub::new(move |_, mut stream| async move {
            while stream.write_all(endless.as_bytes()).await.is_ok() {}
        })
        .await;
        let error = call(&transport(stub.addr), write("k", 1, "v"))
            .await
            .unwrap_err();
        assert!(matches!(error, TransportError::NoAnswer(_)), "{error:?}");
        let printed = printed(cause(&error));
        assert!(printed.contains("before the answer began"), "{printed}");
    }
    // A few do no harm, before each answer.
    let stub = Stub::new(move |_, mut stream| async move {
        loop {
            for _ in 0..100 {
                let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
                stream.write_all(interim).await.unwrap();
            }
            stream.write_all(&applied()).await.unwrap();
            if !read_request(&mut stream).await {
                return;
            }
        }
    })
    .await;
    let replica = HttpTransport::builder(stub.addr)
        .max_head_len(4_000)
        .build()
        .unwrap();
    for _ in 0..5 {
        call(&replica, write("k", 1, "v")).await.unwrap();
    }
}

/// What a peer says could move a terminal's cursor, or forge a line of a log.
#[tokio::test]
async fn what_a_peer_says_is_escaped() {
    let evil = "\x1b[2J\r\nERROR all is lost";
    let json = serde_json::json!({ "error": evil }).to_string();
    let text = |kind: u8| [&[kind, evil.len() as u8], evil.as_bytes()].concat();
    for bytes in [
        answer("404 Not Found", evil),
        nothing_stored("404 Not Found", &json),
        answer("200 OK", reply(0, text(1))),
        answer("200 OK", reply(0, text(2))),
    ] {
        let stub = Stub::answering(bytes).await;
        let error = call(&transport(stub.addr), read("k")).await.unwrap_err();
        let printed = printed(&error);
        assert!(printed.contains("\\u{1b}[2J\\r\\nERROR all"), "{printed}");
        assert!(!printed.contains(char::is_control), "{printed}");
    }
}

/// A status says what happened: the words that explain it may never come.
#[tokio::test]
async fn a_status_does_not_wait_for_its_words() {
    let stub = Stub::new(|_, mut stream| async move {
        let head = b"HTTP/1.1 503 Later\r\ncontent-length: 9\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let error = call(&transport(stub.addr), read("k")).await.unwrap_err();
    assert!(
        matches!(cause(&error), HttpError::Status { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_request_arrives_whole_and_its_answer_may_come_in_pieces() {
    let stub = Stub::new(|_, mut stream| async move {
        stream.set_nodelay(true).unwrap();
        for byte in applied() {
            stream.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let merged = call(&transport(stub.addr), write("k", 1, &"x".repeat(500_000))).await;
    assert_eq!(merged.unwrap(), Response::Ack(Ack::Applied));
}
