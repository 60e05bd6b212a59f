//! The plain face: what people and curl see.

// In a test a panic is how a broken promise shows.

mod common;

use common::*;
use kvquorum_core::{
    Coordinator, Entry, Key, Limits, Replica, Request, RequestKind, Response, Timestamp, WriterId,
};
use kvquorum_http::Server;

const YEAR_3000: u64 = 32_503_680_000_000;

fn write(key: &str, value: &str, millis: u64) -> Vec<u8> {
    let key = serde_json::to_string(key).unwrap();
    let body = format!("{{\"key\":{key},\"value\":{value},\"timestamp\":{millis}}}");
    post("/write", body)
}

#[tokio::test]
async fn what_was_written_is_read() {
    let (server, store) = serve().await;
    let mut client = Raw::connect(server.local_addr()).await;

    let written = client.ask(write("tea", "{\"cups\": 2}", 1000)).await;
    assert_eq!(written.status, 200);
    assert_eq!(written.header("content-type"), Some("application/json"));
    assert_eq!(written.body, "{\"status\":\"ok\"}\n");

    let read = client.ask(get_path("/read/tea")).await;
    assert_eq!(read.status, 200);
    assert_eq!(read.header("content-type"), Some("application/json"));
    assert_eq!(read.body, "{\"value\":{\"cups\": 2},\"timestamp\":1000}\n");

    let [(key, entry)] = &store.entries()[..] else {
        panic!("one entry");
    };
    assert_eq!(key.as_bytes(), b"tea");
    assert_eq!(entry.version.writer, WriterId::ANONYMOUS);
    assert_eq!(entry.version.timestamp.counter(), 0);
    assert_eq!(entry.version.timestamp.millis(), 1000);
}

#[tokio::test]
async fn what_is_absent_or_deleted_reads_null() {
    let (server, store) = serve().await;
    store.insert("deleted", Entry::tombstone(version(5)));
    let mut client = Raw::connect(server.local_addr()).await;
    for key in ["absent", "deleted"] {
        let read = client.ask(get_path(&format!("/read/{key}"))).await;
        assert_eq!((read.status, &*read.body), (200, "null\n"));
    }
}

#[tokio::test]
async fn any_json_value_comes_out_as_it_came_in() {
    let (server, _store) = serve().await;
    let mut client = Raw::connect(server.local_addr()).await;
    for (nth, value) in [
        "null",
        "false",
        "\"\"",
        "0",
        "-0.0",
        "1e400",
        "123456789012345678901234567890.10",
        "{\"z\":1,\"a\":2,\"z\":3}",
        "[1, [2,\n\t[3]], {}]",
        "\"\\u0041\\ud834\\udd1e\\/ \u{1f375}\"",
        "\"\\ud800\"",
        // Deep enough for a parser that recurses to run out of stack.
        &["[".repeat(100_000), "]".repeat(100_000)].concat(),
    ]
    .iter()
    .enumerate()
    {
        let millis = nth as u64 + 1;
        let written = client.ask(write("k", value, millis)).await;
        assert_eq!(written.status, 200, "{written:?}");
        let read = client.ask(get_path("/read/k")).await;
        let expected = format!("{{\"value\":{value},\"timestamp\":{millis}}}\n");
        assert!(read.body == expected, "{value:.40}: {:.80}", read.body);
    }
}

#[tokio::test]
async fn the_greater_timestamp_wins_in_either_order() {
    let (server, _store) = serve().await;
    let mut client = Raw::connect(server.local_addr()).await;
    for (key, order) in [("up", [1, 2]), ("down", [2, 1])] {
        for millis in order {
            let written = client.ask(write(key, &millis.to_string(), millis)).await;
            assert_eq!(written.status, 200);
        }
        let read = client.ask(get_path(&format!("/read/{key}"))).await;
        assert_eq!(read.body, "{\"value\":2,\"timestamp\":2}\n");
    }
}

/// G-SEAL. Bugs: a write from before the seal is taken, or changes something; it looks
/// like a mistake of the caller's; it is not said from when on one is taken, or that time
/// is refused too; a write that is there already is refused when it comes again.
#[tokio::test]
async fn g_seal_a_write_from_before_the_seal_is_a_conflict() {
    let (server, store) = serve().await;
    let mut client = Raw::connect(server.local_addr()).await;
    assert_eq!(client.ask(write("there", "1", 1000)).await.status, 200);
    let link = transport(server.local_addr());
    for (counter, from) in [(0, 2000), (1, 2001)] {
        let to = Timestamp::new(2000, counter).unwrap();
        let seal = Request::of(RequestKind::Seal { to });
        assert!(matches!(call(&link, seal).await, Ok(Response::Told(_))));
        let before = store.entries();
        for (key, value) in [("new", "1"), ("there", "1"), ("there", "2")] {
            let refused = client.ask(write(key, value, from - 1)).await;
            assert_eq!(refused.status, 409);
            assert_eq!(refused.header("kvquorum-nothing-stored"), Some("1"));
            let told: serde_json::Value = serde_json::from_str(&refused.body).unwrap();
            assert_eq!(told["from"], from);
            assert!(
                told["error"].as_str().unwrap().contains("2000 ms"),
                "{told}"
            );
        }
        let again = client.ask(write("there", "1", 1000)).await;
        assert_eq!((again.status, &*again.body), (200, "{\"status\":\"ok\"}\n"));
        assert_eq!(store.entries(), before);
    }
    let taken = client.ask(write("new", "1", 2001)).await;
    assert_eq!((taken.status, &*taken.body), (200, "{\"status\":\"ok\"}\n"));
}

/// J-SILENT. Bugs: a replica that lost its data tells that there is no such key; it takes
/// a write; it does not say why not, or that the caller made a mistake; it goes on
/// refusing once it is ready.
#[tokio::test]
async fn j_silent_a_joining_replica_says_that_it_is_joining() {
    let store = TestStore::new();
    let replica = Replica::new(store.clone());
    let server = Server::bind("127.0.0.1:0", replica.clone()).await.unwrap();
    let mut client = Raw::connect(server.local_addr()).await;
    for request in [get_path("/read/tea").into_bytes(), write("tea", "1", 1000)] {
        let answer = client.ask(request).await;
        assert_eq!(answer.status, 503);
        let error = answer.error();
        assert!(error.starts_with("the replica is joining: "), "{error}");
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert_eq!(answer.header("kvquorum-nothing-stored"), Some("1"));
        assert_eq!(answer.header("connection"), None);
    }
    assert!(store.entries().iter().all(|(key, _)| key.is_empty()));
    let map = Coordinator::<1, 1, 1, _>::new([replica]);
    assert_eq!(map.get("tea").await.unwrap(), None);
    assert_eq!(client.ask(write("tea", "1", 1000)).await.status, 200);
}

/// Catches a write that changed nothing and is answered as one that did.
#[tokio::test]
async fn a_write_that_changes_nothing_says_what_superseded_it() {
    let (server, store) = serve().await;
    let mut client = Raw::connect(server.local_addr()).await;
    let ok = "{\"status\":\"ok\"}\n";
    let superseded = "{\"status\":\"ok\",\"superseded_by\":{\"timestamp\":5}}\n";
    for (value, millis, body) in [
        ("2", 5, ok),
        ("3", 4, superseded),
        // Of equal timestamps, the greater value wins.
        ("1", 5, superseded),
        // What is there already is not superseded.
        ("2", 5, ok),
        ("0", 6, ok),
    ] {
        let written = client.ask(write("k", value, millis)).await;
        assert_eq!((written.status, &*written.body), (200, body), "{value}");
    }
    // By a tombstone, too.
    store.insert("deleted", Entry::tombstone(version(5)));
    let written = client.ask(write("deleted", "1", 5)).await;
    assert_eq!((written.status, &*written.body), (200, superseded));
}

#[tokio::test]
async fn of_equal_timestamps_the_same_value_wins_in_either_order() {
    let (server, _store) = serve().await;
    let mut client = Raw::connect(server.local_addr()).await;
    for (key, order) in [("ab", ["\"a\"", "\"b\""]), ("ba", ["\"b\"", "\"a\""])] {
        for value in order {
            assert_eq!(client.ask(write(key, value, 7)).await.status, 200);
        }
        let read = client.ask(get_path(&format!("/read/{key}"))).await;
        assert_eq!(read.body, "{\"value\":\"b\",\"timestamp\":7}\n");
    }
}

#[tokio::test]
async fn keys_are_percent_decoded_once_and_may_hold_anything() {
    let (server, store) = serve().await;
    let mut client = Raw::connect(server.local_addr()).await;
    for (key, paths) in [
        ("a/b", &["a/b", "a%2Fb", "%61%2fb"][..]),
        ("//", &["//", "%2F%2f"]),
        (
            "ключ 🍵",
            &["ключ%20🍵", "%D0%BA%D0%BB%D1%8E%D1%87%20%F0%9F%8D%B5"],
        ),
        ("what?", &["what%3F"]),
        ("100%", &["100%25"]),
        ("%41", &["%2541"]),
        ("a+b", &["a+b", "a%2Bb"]),
        ("..", &["..", "%2e%2e"]),
        ("\0\n\"\\", &["%00%0A%22%5C"]),
    ] {
        let value = serde_json::to_string(key).unwrap();
        assert_eq!(client.ask(write(key, &value, 1)).await.status, 200);
        assert!(
            store
                .entries()
                .iter()
                .any(|(stored, _)| *stored == Key::from(key))
        );
        for path in paths {
            let read = client.ask(get_path(&format!("/read/{path}"))).await;
            assert_eq!(
                read.body,
                format!("{{\"value\":{value},\"timestamp\":1}}\n"),
                "{path}"
            );
        }
    }
}

#[tokio::test]
async fn bad_writes_say_what_is_wrong_and_change_nothing() {
    let (server, store) = serve().await;
    store.insert("k", Entry::new(version(1), "1"));
    let before = store.entries();
    let mut client = Raw::connect(server.local_addr()).await;
    let long = "k".repeat(1025);
    for (body, message) in [
        ("", "not a JSON object"),
        ("hello", "not a JSON object"),
        ("null", "not a JSON object"),
        ("[\"k\",2,3]", "not a JSON object"),
        ("{", "EOF"),
        ("{}", "missing field"),
        (r#"{"key":"k","value":2,"timestamp":3} x"#, "trailing"),
        (r#"{"key":"k","value":2,"timestamp":3,}"#, "trailing comma"),
        (r#"{"value":2,"timestamp":3}"#, "missing field `key`"),
        (r#"{"key":"k","timestamp":3}"#, "missing field `value`"),
        (r#"{"key":"k","value":2}"#, "missing field `timestamp`"),
        (r#"{"key":"k","value":,"timestamp":3}"#, "expected value"),
        (r#"{"key":"k","value":nul,"timestamp":3}"#, "expected ident"),
        (r#"{"key":"k","value":[1,"timestamp":3}"#, "expected"),
        (r#"{"key":1,"value":2,"timestamp":3}"#, "expected a string"),
        (
            r#"{"key":null,"value":2,"timestamp":3}"#,
            "expected a string",
        ),
        (r#"{"key":"\ud800","value":2,"timestamp":3}"#, "hex escape"),
        (
            r#"{"key":"k","key":"l","value":2,"timestamp":3}"#,
            "duplicate field `key`",
        ),
        (
            r#"{"key":"k","value":2,"value":3,"timestamp":3}"#,
            "duplicate field `value`",
        ),
        (r#"{"key":"","value":2,"timestamp":3}"#, "the key is empty"),
        (
            r#"{"key":"k","value":2,"timestamp":-3}"#,
            "whole milliseconds",
        ),
        (
            r#"{"key":"k","value":2,"timestamp":3.5}"#,
            "whole milliseconds",
        ),
        (
            r#"{"key":"k","value":2,"timestamp":"3"}"#,
            "whole milliseconds",
        ),
        (
            r#"{"key":"k","value":2,"timestamp":null}"#,
            "whole milliseconds",
        ),
        (
            r#"{"key":"k","value":2,"timestamp":1e3}"#,
            "whole milliseconds",
        ),
        (
            r#"{"key":"k","value":2,"timestamp":281474976710656}"#,
            "281474976710655",
        ),
        (
            r#"{"key":"k","value":2,"timestamp":18446744073709551615}"#,
            "281474976710655",
        ),
        (
            r#"{"key":"k","value":2,"timestamp":18446744073709551616}"#,
            "281474976710655",
        ),
        (
            r#"{"key":"k","value":2,"timestamp":281474976710655}"#,
            "ms between them",
        ),
        (
            &format!(r#"{{"key":"{long}","value":2,"timestamp":3}}"#),
            "1025 bytes",
        ),
    ] {
        let answer = client.ask(post("/write", body)).await;
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        assert!(
            answer.error().contains(message),
            "{body}: {}",
            answer.error()
        );
        assert_eq!(store.entries(), before, "{body}");
    }
    // And bytes that are not text at all.
    for body in [
        &b"{\"key\":\"\xff\",\"value\":2,\"timestamp\":3}"[..],
        b"{\"key\":\"k\",\"value\":\"\xff\",\"timestamp\":3}",
        b"{\"key\":\"k\",\"value\":2,\"timestamp\":3,\"\xff\":1}",
    ] {
        let answer = client.ask(post("/write", body)).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        answer.error();
        assert_eq!(store.entries(), before);
    }
}

#[tokio::test]
async fn other_fields_are_ignored() {
    let (server, store) = serve().await;
    let mut client = Raw::connect(server.local_addr()).await;
    let body = r#" {"note":{"a":[1]},"timestamp":3,"value":null,"key":"k"} "#;
    assert_eq!(client.ask(post("/write", body)).await.status, 200);
    assert_eq!(store.entries()[0].1.value.as_deref(), Some(&b"null"[..]));
}

#[tokio::test]
async fn a_timestamp_too_far_ahead_is_refused_with_both_times() {
    let store = TestStore::new();
    let replica = Replica::new(store.clone())
        .of_new_cluster()
        .with_wall_clock(|| 1_700_000_000_000);
    let server = Server::bind("127.0.0.1:0", replica).await.unwrap();
    let mut client = Raw::connect(server.local_addr()).await;
    for millis in [YEAR_3000, 1_700_000_060_001] {
        let answer = client.ask(write("k", "1", millis)).await;
        assert_eq!(answer.status, 400);
        for time in [millis, 1_700_000_000_000] {
            assert!(answer.error().contains(&time.to_string()), "{answer:?}");
        }
        assert_eq!(store.entries(), []);
    }
    assert_eq!(
        client.ask(write("k", "1", 1_700_000_060_000)).await.status,
        200
    );
}

#[tokio::test]
async fn bad_reads_say_what_is_wrong() {
    let (server, _store) = serve().await;
    let mut client = Raw::connect(server.local_addr()).await;
    for (path, message) in [
        ("/read/", "the key is empty"),
        ("/read/%", "hexadecimal"),
        ("/read/a%2", "hexadecimal"),
        ("/read/%zz", "hexadecimal"),
        ("/read/%ff", "not UTF-8"),
        ("/read/%C3%28", "not UTF-8"),
        ("/read/%ED%A0%80", "not UTF-8"),
        ("/read/k?x=1", "%3F"),
        ("/read/k?", "%3F"),
        (&format!("/read/{}", "k".repeat(1025)), "1025 bytes"),
    ] {
        let answer = client.ask(get_path(path)).await;
        assert_eq!(answer.status, 400, "{path}: {answer:?}");
        assert!(
            answer.error().contains(message),
            "{path}: {}",
            answer.error()
        );
    }
}

#[tokio::test]
async fn a_value_that_is_not_json_is_an_error_and_not_a_broken_document() {
    let (server, store) = serve().await;
    let mut client = Raw::connect(server.local_addr()).await;
    for value in [
        &b"tea"[..],
        b"",
        b"{\"a\":",
        b"\xff",
        b"1 2",
        b"\"\xff\"",
        b"1}, {",
    ] {
        store.insert("k", Entry::new(version(5), value.to_vec()));
        let answer = client.ask(get_path("/read/k")).await;
        assert_eq!(answer.status, 422, "{value:?}");
        assert!(answer.error().contains("not JSON"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_failing_store_is_an_error_with_its_cause() {
    let (server, store) = serve().await;
    store.set_on_fire();
    let mut client = Raw::connect(server.local_addr()).await;
    for request in [write("k", "1", 1), get_path("/read/k").into_bytes()] {
        let answer = client.ask(request).await;
        assert_eq!(answer.status, 500);
        assert_eq!(answer.error(), "the disk is on fire: no water");
    }
}

#[tokio::test]
async fn a_value_over_the_limit_is_too_large_before_and_after_reading_it() {
    let store = TestStore::new();
    let mut limits = Limits::default();
    limits.max_value_len = 10;
    let replica = Replica::new(store.clone())
        .of_new_cluster()
        .with_limits(limits);
    let server = Server::bind("127.0.0.1:0", replica).await.unwrap();
    let mut client = Raw::connect(server.local_addr()).await;

    // Read whole, and refused by the replica.
    let answer = client.ask(write("k", "\"123456789\"", 1)).await;
    assert_eq!(answer.status, 413);
    assert!(answer.error().contains("11 bytes"), "{answer:?}");
    assert_eq!(client.ask(write("k", "\"12345678\"", 1)).await.status, 200);
    let before = store.entries();

    // Longer than a batch, and than anything the replica could admit, so not
    // even read.
    let long = format!("\"{}\"", "x".repeat(1024 * 1024));
    let answer = client.ask(write("k", &long, 2)).await;
    assert_eq!(answer.status, 413);
    assert!(answer.error().contains("longer than"), "{answer:?}");
    assert_eq!(store.entries(), before);
}

#[tokio::test]
async fn the_longest_key_and_value_pass_however_they_are_written() {
    let (server, store) = serve().await;
    let mut client = Raw::connect(server.local_addr()).await;
    let key = r"\u0001".repeat(1024);
    let value = format!("\"{}\"", "x".repeat(1024 * 1024 - 2));
    let body = format!(r#"{{"key":"{key}","value":{value},"timestamp":1}}"#);
    assert_eq!(client.ask(post("/write", body)).await.status, 200);
    assert_eq!(store.entries()[0].0.len(), 1024);
    let read = client
        .ask(get_path(&format!("/read/{}", "%01".repeat(1024))))
        .await;
    assert!(read.body == format!("{{\"value\":{value},\"timestamp\":1}}\n"));
}

#[tokio::test]
async fn wrong_methods_are_told_the_right_one() {
    let (server, store) = serve().await;
    for (path, allowed) in [("/write", "POST"), ("/v2/call", "POST"), ("/read/k", "GET")] {
        for method in [
            "GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW",
        ] {
            if method == allowed {
                continue;
            }
            let mut client = Raw::connect(server.local_addr()).await;
            client
                .send(format!(
                    "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
                ))
                .await;
            if method == "HEAD" {
                // An answer to HEAD has a length, but no body.
                let head = client.head().await;
                assert!(head.starts_with("HTTP/1.1 405 "), "{head}");
                let allow = format!("\r\nallow: {allowed}\r\n");
                assert!(head.contains(&allow), "{head}");
                continue;
            }
            let answer = client.answer().await.unwrap();
            assert_eq!(answer.status, 405, "{method} {path}");
            assert_eq!(answer.header("allow"), Some(allowed));
            assert!(answer.error().contains(allowed));
        }
    }
    assert_eq!(store.entries(), []);
}

/// Catches a query that is ignored: something else was meant.
#[tokio::test]
async fn a_query_is_refused_on_every_route() {
    let (server, store) = serve().await;
    let mut client = Raw::connect(server.local_addr()).await;
    let call = requests([b"\x01\x01k\x80\x80\x04\x07\x00\x01\x01v"]);
    let write = r#"{"key":"k","value":1,"timestamp":1}"#;
    for query in ["?", "?x=1"] {
        for request in [
            post(&format!("/write{query}"), write),
            post(&format!("/v2/call{query}"), &call),
            get_path(&format!("/read/k{query}")).into_bytes(),
        ] {
            let answer = client.ask(request).await;
            assert_eq!(answer.status, 400, "{answer:?}");
            assert!(answer.error().contains("no query"), "{answer:?}");
        }
    }
    assert_eq!(store.entries(), []);
}

/// Catches a fragment that is cut off: the key would be another one.
#[tokio::test]
async fn a_fragment_is_refused_on_every_route() {
    let (server, store) = serve().await;
    let write = r##"{"key":"k","value":"#","timestamp":1}"##;
    let mut client = Raw::connect(server.local_addr()).await;
    assert_eq!(client.ask(post("/write", write)).await.status, 200);
    let before = store.entries();
    for request in [
        post("/write#", r#"{"key":"l","value":1,"timestamp":1}"#),
        post("/v2/call#a", requests([b"\x00\x01k"])),
        get_path("/read/k#a").into_bytes(),
        get_path("http://127.0.0.1/read/k#").into_bytes(),
    ] {
        let answer = client.ask(&request).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.error().contains("%23"), "{answer:?}");
        // Not of the next request.
        assert_eq!(client.ask(get_path("/read/k")).await.status, 200);
        // In whatever pieces it comes.
        client.send(&request[..12]).await;
        tokio::time::sleep(SHORT / 10).await;
        assert_eq!(client.ask(&request[12..]).await.status, 400);
    }
    assert_eq!(store.entries(), before);
}

#[tokio::test]
async fn unknown_routes_are_not_found() {
    let (server, _store) = serve().await;
    let mut client = Raw::connect(server.local_addr()).await;
    for path in [
        "/", "/read", "/writes", "/write/", "/Write", "/v", "/v2", "/vX/call", "//write",
    ] {
        for request in [get_path(path).into_bytes(), post(path, "{}")] {
            let answer = client.ask(request).await;
            assert_eq!(answer.status, 404, "{path}");
            assert!(answer.error().contains("no such route"), "{path}");
        }
    }
}

#[tokio::test]
async fn http_1_0_and_pipelined_requests_are_answered() {
    let (server, _store) = serve().await;
    let mut client = Raw::connect(server.local_addr()).await;
    let both = [write("k", "1", 1), get_path("/read/k").into_bytes()].concat();
    assert_eq!(client.ask(both).await.status, 200);
    let second = client.answer().await.unwrap();
    assert_eq!(second.body, "{\"value\":1,\"timestamp\":1}\n");

    let mut old = Raw::connect(server.local_addr()).await;
    let read = old.ask("GET /read/k HTTP/1.0\r\n\r\n").await;
    assert_eq!(read.body, "{\"value\":1,\"timestamp\":1}\n");
    old.closed().await;
}
