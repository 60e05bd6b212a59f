//! Who is let in: holders of a token, and no web page of another server.

// In a test a panic is how a broken promise shows.

mod common;

use bytes::Bytes;
use common::*;
use kvquorum_core::{Ack, Response, TransportError};
use kvquorum_http::{HttpError, HttpTransport, ReplicaServiceBuilder, Server, StatusCode, Tokens};

const READER: &str = "read-me-and-nothing-else";
const WRITER: &str = "write-me-and-nothing-else";
const MEMBER: &str = "one-of-us-and-nobody-else";

const WRITE: &str = r#"{"key":"k","value":1,"timestamp":1}"#;

/// A write of `k`, stamped 1 ms by writer 7, with the value `1`.
const MERGE: &[u8] = b"\x01\x01k\x80\x80\x04\x07\x00\x01\x011";

fn tokens(token: &str) -> Tokens {
    Tokens::new([token]).unwrap()
}

async fn serve_with(service: ReplicaServiceBuilder<TestStore>) -> Server {
    Server::bind("127.0.0.1:0", service.build()).await.unwrap()
}

/// The request with further headers.
fn with(request: impl Into<Vec<u8>>, headers: &str) -> Vec<u8> {
    replaced(request, "\r\n", &format!("\r\n{headers}"))
}

/// The request with something else in place of the first of these.
fn replaced(request: impl Into<Vec<u8>>, from: &str, to: &str) -> Vec<u8> {
    let request = request.into();
    let mut windows = request.windows(from.len());
    let at = windows.position(|part| part == from.as_bytes()).unwrap();
    [&request[..at], to.as_bytes(), &request[at + from.len()..]].concat()
}

fn bearer(request: impl Into<Vec<u8>>, token: &str) -> Vec<u8> {
    with(request, &format!("authorization: Bearer {token}\r\n"))
}

/// By this name, instead of an address.
fn by_name(request: impl Into<Vec<u8>>, host: &str) -> Vec<u8> {
    replaced(request, "host: 127.0.0.1", &format!("host: {host}"))
}

/// One request for each route, and what it is called.
fn routes() -> [(&'static str, Vec<u8>); 3] {
    [
        ("read", get_path("/read/k").into_bytes()),
        ("write", post("/write", WRITE)),
        ("call", post("/v2/call", requests([MERGE]))),
    ]
}

/// Catches a route that takes a request without a token, or with a wrong one.
#[tokio::test]
async fn without_a_valid_token_every_route_is_closed() {
    let store = TestStore::new();
    let server = serve_with(settings(&store).tokens(&tokens(MEMBER))).await;
    let mut client = Raw::connect(server.local_addr()).await;
    for (route, request) in routes() {
        let wrong_method = replaced(&*request, " /", "S /");
        for (refused, says) in [
            (request.clone(), "a token is needed"),
            (wrong_method, "a token is needed"),
            (
                with(&*request, "authorization: \r\n"),
                "not one that is valid",
            ),
            (with(&*request, "authorization: Basic eDp5\r\n"), "not one"),
            (bearer(&*request, READER), "not one that is valid"),
            (bearer(&*request, &MEMBER[1..]), "not one that is valid"),
            (bearer(&*request, &format!("{MEMBER}{MEMBER}")), "not one"),
        ] {
            let answer = client.ask(refused).await;
            assert_eq!(answer.status, 401, "{route}: {answer:?}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            assert_eq!(answer.header("kvquorum-nothing-stored"), Some("1"));
            assert!(answer.error().contains(says), "{answer:?}");
            assert!(!answer.body.contains("else"), "{answer:?}");
        }
        assert_eq!(store.entries(), []);
    }
    for (route, request) in routes() {
        let answer = client.ask(bearer(request, MEMBER)).await;
        assert_eq!(answer.status, 200, "{route}: {answer:?}");
    }
}

/// Catches a token that is looked at after the body: strangers could have the
/// server hold bodies.
#[tokio::test]
async fn the_token_is_asked_for_before_the_body() {
    let store = TestStore::new();
    let server = serve_with(settings(&store).tokens(&tokens(MEMBER))).await;
    for path in ["/write", "/v2/call"] {
        let mut client = Raw::connect(server.local_addr()).await;
        let head = format!("POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 99\r\n\r\n");
        assert_eq!(client.ask(head).await.status, 401);
    }
}

/// Catches a token of one route that opens another.
#[tokio::test]
async fn each_route_may_have_a_token_of_its_own() {
    let store = TestStore::new();
    let service = settings(&store)
        .read_tokens(&tokens(READER))
        .write_tokens(&tokens(WRITER))
        .replica_tokens(&tokens(MEMBER));
    let server = serve_with(service).await;
    let mut client = Raw::connect(server.local_addr()).await;
    for (own, (route, request)) in [READER, WRITER, MEMBER].into_iter().zip(routes()) {
        for token in [READER, WRITER, MEMBER] {
            let expected = if token == own { 200 } else { 401 };
            let answer = client.ask(bearer(&*request, token)).await;
            assert_eq!(answer.status, expected, "{route} with {token}");
        }
    }
}

/// Catches a route without a token that is closed because another has one.
#[tokio::test]
async fn a_route_without_a_token_stays_open() {
    let store = TestStore::new();
    let server = serve_with(settings(&store).write_tokens(&tokens(WRITER))).await;
    let mut client = Raw::connect(server.local_addr()).await;
    for ((route, request), status) in routes().into_iter().zip([200, 401, 200]) {
        assert_eq!(client.ask(request).await.status, status, "{route}");
    }
}

/// Catches a face that is switched off and answers all the same, also where its
/// tokens are set afterwards.
#[tokio::test]
async fn either_face_can_be_switched_off() {
    let store = TestStore::new();
    let plain = || settings(&store).without_replica_face();
    let replica = || settings(&store).without_plain_face();
    let all = tokens(MEMBER);
    for (service, statuses) in [
        (plain(), [200, 200, 404]),
        (replica(), [404, 404, 200]),
        (plain().tokens(&all), [200, 200, 404]),
        (replica().tokens(&all), [404, 404, 200]),
        (replica().without_replica_face(), [404; 3]),
    ] {
        let server = serve_with(service).await;
        let mut client = Raw::connect(server.local_addr()).await;
        for ((route, request), status) in routes().into_iter().zip(statuses) {
            let answer = client.ask(bearer(request, MEMBER)).await;
            assert_eq!(answer.status, status, "{route}");
        }
    }
}

/// The application's routes: one that asks for what reads do, and one for everybody.
fn with_routes(service: ReplicaServiceBuilder<TestStore>) -> ReplicaServiceBuilder<TestStore> {
    let says = |text: &'static str| {
        move || async move { hyper::Response::new(Bytes::from_static(text.as_bytes())) }
    };
    let service = service.route("/metrics", says("counted"));
    let service = service.public_route("/health", says("well"));
    // It hides none of the replica's own.
    service.public_route("/read/k", says("another"))
}

/// Bugs: a route of the application's hides one of the replica's; it answers other
/// methods and longer paths; its body is not read over.
#[tokio::test]
async fn an_application_answers_further_paths() {
    let store = TestStore::new();
    let server = serve_with(with_routes(settings(&store))).await;
    let mut client = Raw::connect(server.local_addr()).await;
    for (path, says) in [("/metrics?full", "counted"), ("/health", "well")] {
        let answer = client.ask(get_path(path)).await;
        assert_eq!((answer.status, &*answer.body), (200, says));
    }
    let refused = client.ask(post("/health", "")).await;
    assert_eq!(
        (refused.status, refused.header("allow")),
        (405, Some("GET"))
    );
    assert_eq!(client.ask(get_path("/health/more")).await.status, 404);
    assert_eq!(client.ask(get_path("/read/k")).await.body, "null\n");
}

/// Bugs: a stranger reads what a node counts; a scraper that has the token, or one of
/// its own, does not; a load balancer cannot ask for the health; a face that is switched
/// off takes the application's routes along.
#[tokio::test]
async fn an_applications_routes_ask_for_a_token_unless_they_are_public() {
    let (store, all, scraper) = (TestStore::new(), tokens(MEMBER), tokens(READER));
    for (service, token, other) in [
        (settings(&store).tokens(&all), MEMBER, READER),
        (settings(&store).read_tokens(&all), MEMBER, READER),
        (
            settings(&store).tokens(&all).route_tokens(&scraper),
            READER,
            MEMBER,
        ),
        (
            settings(&store).tokens(&all).without_plain_face(),
            MEMBER,
            READER,
        ),
        (
            settings(&store).without_plain_face().tokens(&all),
            MEMBER,
            READER,
        ),
    ] {
        let server = serve_with(with_routes(service)).await;
        let mut client = Raw::connect(server.local_addr()).await;
        let metrics = get_path("/metrics");
        assert_eq!(client.ask(&*metrics).await.status, 401);
        assert_eq!(client.ask(bearer(&*metrics, other)).await.status, 401);
        assert_eq!(client.ask(bearer(&*metrics, token)).await.status, 200);
        assert_eq!(client.ask(get_path("/health")).await.status, 200);
    }
    let server = serve_with(with_routes(settings(&store).write_tokens(&all))).await;
    let mut client = Raw::connect(server.local_addr()).await;
    assert_eq!(client.ask(get_path("/metrics")).await.status, 200);
}

/// Bug: a web page in somebody's browser reads what a node counts, or how it is.
#[tokio::test]
async fn no_page_of_another_server_has_the_applications_routes() {
    let store = TestStore::new();
    let service = settings(&store).allow_host("replica-1.example");
    let server = serve_with(with_routes(service)).await;
    let mut client = Raw::connect(server.local_addr()).await;
    for path in ["/metrics", "/health"] {
        for headers in FOREIGN {
            let answer = client.ask(with(get_path(path), headers)).await;
            assert_eq!(answer.status, 403, "{path}: {headers}");
        }
        let named = |name| by_name(get_path(path), name);
        assert_eq!(client.ask(named("evil.example")).await.status, 421);
        assert_eq!(client.ask(named("replica-1.example")).await.status, 200);
    }
}

/// Catches a coordinator that takes a refused write for one that may be stored,
/// or does not say why it was refused; and one that shows its secret.
#[tokio::test]
async fn a_transport_has_a_token_and_says_where_it_is_refused() {
    let store = TestStore::new();
    let both = Tokens::new([MEMBER, WRITER]).unwrap();
    let server = serve_with(settings(&store).replica_tokens(&both)).await;
    let address = server.local_addr();
    let with = |token| HttpTransport::builder(address).tokens(&tokens(token));
    for builder in [HttpTransport::builder(address), with(READER)] {
        let refused = call(&builder.build().unwrap(), write("k", 1, "v")).await;
        let error = refused.unwrap_err();
        assert!(matches!(error, TransportError::Rejected(_)), "{error:?}");
        let HttpError::Status { status, message } = cause(&error) else {
            panic!("{error:?}");
        };
        assert_eq!(*status, StatusCode::UNAUTHORIZED);
        assert!(message.contains("token"), "{message}");
        assert!(!format!("{error:?}").contains("else"), "{error:?}");
    }
    assert_eq!(store.entries(), []);
    for token in [MEMBER, WRITER] {
        let builder = with(token);
        assert!(!format!("{builder:?}").contains(token));
        let transport = builder.build().unwrap();
        assert!(!format!("{transport:?}").contains(token));
        assert!(call(&transport, write("k", 1, "v")).await.is_ok());
    }
}

/// Catches a change of the file that needs a restart, on either side.
#[tokio::test]
async fn tokens_are_changed_in_their_file_while_all_runs() {
    let directory = tempfile::tempdir().unwrap();
    let [ours, theirs] = ["ours", "theirs"].map(|name| directory.path().join(name));
    std::fs::write(&ours, MEMBER).unwrap();
    std::fs::write(&theirs, format!("{WRITER}\n{READER}")).unwrap();
    let store = TestStore::new();
    let taken = Tokens::from_file(&theirs).unwrap();
    let server = serve_with(settings(&store).tokens(&taken)).await;
    let transport = HttpTransport::builder(server.local_addr())
        .tokens(&Tokens::from_file(&ours).unwrap())
        .build()
        .unwrap();
    assert!(call(&transport, read("k")).await.is_err());
    // The server learns of a new one, and then the client of another.
    std::fs::write(&theirs, format!("{READER}\n{MEMBER}\n")).unwrap();
    until(async || call(&transport, read("k")).await.is_ok()).await;
    std::fs::write(&ours, format!("{WRITER}\n")).unwrap();
    until(async || call(&transport, read("k")).await.is_err()).await;
}

/// What a browser sends for a page of another server, of which some is left out
/// by some browsers and on some addresses.
const FOREIGN: [&str; 7] = [
    "origin: https://evil.example\r\nsec-fetch-site: cross-site\r\n",
    "origin: https://evil.example\r\n",
    "origin: null\r\n",
    "origin: http://127.0.0.1:81\r\n",
    "sec-fetch-site: cross-site\r\n",
    "sec-fetch-site: same-site\r\n",
    "origin: http://127.0.0.1\r\nsec-fetch-site: cross-site\r\n",
];

/// Catches a web page that reads or writes: any page in a browser inside the
/// network could.
#[tokio::test]
async fn what_a_browser_sends_for_another_page_is_refused_on_both_faces() {
    let store = TestStore::new();
    let server = serve_with(settings(&store)).await;
    let mut client = Raw::connect(server.local_addr()).await;
    for (route, request) in routes() {
        for headers in FOREIGN {
            let answer = client.ask(with(&*request, headers)).await;
            assert_eq!(answer.status, 403, "{route}: {headers}");
            assert!(answer.error().contains("browser"), "{answer:?}");
        }
    }
    assert_eq!(store.entries(), []);
    for (route, request) in routes() {
        for headers in [
            "",
            "sec-fetch-site: none\r\n",
            "sec-fetch-site: same-origin\r\n",
            "origin: http://127.0.0.1\r\n",
            "origin: http://127.0.0.1\r\nsec-fetch-site: same-origin\r\n",
        ] {
            let answer = client.ask(with(&*request, headers)).await;
            assert_eq!(answer.status, 200, "{route}: {headers}");
        }
    }
}

/// Catches a token that opens the door to a page: a browser may keep it.
#[tokio::test]
async fn a_token_does_not_make_up_for_a_foreign_page() {
    let store = TestStore::new();
    let server = serve_with(settings(&store).tokens(&tokens(MEMBER))).await;
    let mut client = Raw::connect(server.local_addr()).await;
    for (route, request) in routes() {
        for headers in FOREIGN {
            let answer = client.ask(bearer(with(&*request, headers), MEMBER)).await;
            assert_eq!(answer.status, 403, "{route}: {headers}");
        }
    }
}

#[tokio::test]
async fn pages_of_an_allowed_server_are_taken_and_no_others() {
    let store = TestStore::new();
    let service = settings(&store).allow_origin("https://tea.example");
    let server = serve_with(service.allow_origin("http://127.0.0.1:3000")).await;
    let mut client = Raw::connect(server.local_addr()).await;
    for (origin, status) in [
        ("https://tea.example", 200),
        ("HTTPS://TEA.example", 200),
        ("http://127.0.0.1:3000", 200),
        ("http://tea.example", 403),
        ("https://tea.example.evil.example", 403),
        ("https://tea.example\r\norigin: https://evil.example", 403),
    ] {
        let headers = format!("origin: {origin}\r\nsec-fetch-site: cross-site\r\n");
        for (route, request) in routes() {
            let answer = client.ask(with(request, &headers)).await;
            assert_eq!(answer.status, status, "{route} of {origin}");
        }
    }
}

/// Catches DNS rebinding: a page whose own name leads here is no other page's
/// to a browser. Only the name gives it away.
#[tokio::test]
async fn a_name_that_is_not_known_is_refused_where_a_browser_may_have_sent_it() {
    let store = TestStore::new();
    let service = settings(&store).allow_host("replica-1.example");
    let server = serve_with(service).await;
    let mut client = Raw::connect(server.local_addr()).await;
    let rebound = "origin: http://evil.example:3001\r\n";
    for (route, request) in routes() {
        let mut sent = vec![with(by_name(&*request, "evil.example:3001"), rebound)];
        if route != "call" {
            for host in [
                "evil.example",
                "evil.example:3001",
                "replica-1.example.evil.example",
                "localhost.evil.example",
                "127.0.0.1.evil.example",
                "127.0.0.1\r\nhost: evil.example",
                "",
                ":",
            ] {
                sent.push(by_name(&*request, host));
            }
        }
        for request in sent {
            let answer = client.ask(&request).await;
            let request = String::from_utf8_lossy(&request);
            assert_eq!(answer.status, 421, "{request}: {answer:?}");
            assert!(answer.error().contains("name"), "{answer:?}");
        }
    }
    let absolute = "GET http://evil.example/read/k HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
    assert_eq!(client.ask(absolute).await.status, 421);
    assert_eq!(store.entries(), []);
}

#[tokio::test]
async fn addresses_localhost_and_allowed_names_are_known() {
    let store = TestStore::new();
    let service = settings(&store).allow_host("replica-1.example");
    let server = serve_with(service).await;
    let mut client = Raw::connect(server.local_addr()).await;
    for host in [
        "10.0.0.7",
        "10.0.0.7:3001",
        "[::1]:3001",
        "[fe80::7]",
        "localhost",
        "LOCALHOST:3001",
        "replica-1.example",
        "Replica-1.Example:3001",
    ] {
        for (route, request) in routes() {
            let answer = client.ask(by_name(request, host)).await;
            assert_eq!(answer.status, 200, "{route} by {host}");
        }
    }
}

/// Catches coordinators that cannot reach a node by its name without a setting,
/// and holders of a token who cannot.
#[tokio::test]
async fn coordinators_and_holders_of_a_token_may_use_any_name() {
    let store = TestStore::new();
    let server = serve_with(settings(&store)).await;
    let mut client = Raw::connect(server.local_addr()).await;
    let [.., (_, merge)] = routes();
    assert_eq!(client.ask(by_name(merge, "replica-1")).await.status, 200);

    let server = serve_with(settings(&store).tokens(&tokens(MEMBER))).await;
    let mut client = Raw::connect(server.local_addr()).await;
    for (route, request) in routes() {
        let answer = client.ask(bearer(by_name(request, "replica-1"), MEMBER));
        assert_eq!(answer.await.status, 200, "{route}");
    }
}

/// Catches a replica face that takes what a form or a script can send without
/// being asked whether it may.
#[tokio::test]
async fn a_call_has_its_content_type() {
    let store = TestStore::new();
    let server = serve_with(settings(&store)).await;
    let mut client = Raw::connect(server.local_addr()).await;
    let own = "content-type: application/octet-stream\r\n";
    let call = post("/v2/call", requests([MERGE]));
    for other in [
        "",
        "content-type: text/plain\r\n",
        "content-type: multipart/form-data; boundary=x\r\n",
        "content-type: application/x-www-form-urlencoded\r\n",
    ] {
        let answer = client.ask(replaced(&*call, own, other)).await;
        assert_eq!(answer.status, 415, "{other}");
        assert!(answer.error().contains("application/octet-stream"));
    }
    assert_eq!(store.entries(), []);
    assert_eq!(client.ask(call).await.status, 200);
    let transport = transport(server.local_addr());
    let again = self::call(&transport, write("k", 2, "w")).await.unwrap();
    assert_eq!(again, Response::Ack(Ack::Applied));
}
