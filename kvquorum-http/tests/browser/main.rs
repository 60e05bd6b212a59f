//! What a web page can do to a node, with a real browser.
//!
//! Needs `chromium` on the path. With `KVQUORUM_INSTALL_CHROMIUM=1` in the
//! environment it is installed by Debian's `apt-get`, which takes root. Without
//! either the tests say that they were skipped.

// In a test a panic is how a broken promise shows.

mod chromium;
#[path = "../common/mod.rs"]
mod common;
mod relay;

use std::io::{Read, Seek};
use std::process::{Command, Stdio};

use kvquorum_core::Entry;
#[cfg(feature = "tls")]
use kvquorum_http::Server;

use chromium::Chromium;
use common::*;
use relay::Relay;

const SECRET: &str = "\"nobody-elses-business\"";

/// A page that tries what it can, as one of another server and as one whose own
/// server's name leads to the node, and posts what came of it to `/done`.
const PAGE: &str = include_str!("page.html");

/// What a page comes to, as HTML.
async fn shows(chromium: &Chromium, url: &str) -> String {
    // A file: whatever the browser leaves behind may hold a pipe open.
    let mut html = tempfile::tempfile().unwrap();
    let mut command = Command::new("chromium");
    let command = command.stdout(html.try_clone().unwrap());
    let mut browser = chromium.start(command, &["--dump-dom", url]);
    until(async || browser.child.try_wait().unwrap().is_some()).await;
    let mut shown = String::new();
    html.rewind().unwrap();
    html.read_to_string(&mut shown).unwrap();
    shown
}

/// Catches a node that any page in a browser can read or write: by scripts, by a
/// form, and by a name of its own (DNS rebinding).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_neither_reads_nor_writes() {
    let Some(chromium) = Chromium::find() else {
        return;
    };
    let (server, store) = serve().await;
    store.insert("secret", Entry::new(version(1), SECRET));
    let before = store.entries();
    let node = Relay::new(server.local_addr(), None).await;
    // What is asked of this one reaches the node as well, except for the page.
    let delete = requests([b"\x01\x06secret\x80\x80\x08\x07\x00\x00"]);
    let page = PAGE
        .replace("NODE", &format!("http://{}", node.addr))
        .replace("DELETE", &format!("{delete:?}"));
    let evil = Relay::new(server.local_addr(), Some(page)).await;
    let url = format!("http://evil.example:{}/page", evil.addr.port());
    let _browser = chromium.start(Command::new("chromium").stdout(Stdio::null()), &[&url]);
    let told = evil.done().await;
    println!("{told}");

    assert_eq!(store.entries(), before);
    assert!(!told.contains(SECRET.trim_matches('"')), "{told}");
    // It has tried: the node was asked, and has refused.
    for request in ["GET /read/secret", "POST /write", "POST /v2/call"] {
        assert!(evil.saw(request), "{request}");
    }
    for request in ["GET /read/secret", "POST /write"] {
        assert!(node.saw(request), "{request}");
    }
    for attempt in ["own read", "own write", "own delete"] {
        assert!(told.contains(&format!("{attempt}: basic 421")), "{told}");
    }
    for attempt in ["foreign read", "foreign write", "foreign form"] {
        assert!(told.contains(&format!("{attempt}: ")), "{told}");
    }
}

/// Catches checks that refuse whoever types in a node's address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_types_in_the_address_reads() {
    let Some(chromium) = Chromium::find() else {
        return;
    };
    let (server, store) = serve().await;
    store.insert("secret", Entry::new(version(1), SECRET));
    let port = server.local_addr().port();
    for host in ["127.0.0.1", "localhost"] {
        let shown = shows(&chromium, &format!("http://{host}:{port}/read/secret")).await;
        assert!(shown.contains(SECRET), "{shown}");
    }
    let shown = shows(
        &chromium,
        &format!("http://evil.example:{port}/read/secret"),
    )
    .await;
    assert!(!shown.contains(SECRET), "{shown}");
    assert!(shown.contains("Host header"), "{shown}");
}

/// A browser speaks the same TLS.
#[cfg(feature = "tls")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_reads_over_tls() {
    let Some(chromium) = Chromium::find() else {
        return;
    };
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let [chain, key] = ["chain.pem", "key.pem"].map(|name| directory.path().join(name));
    std::fs::write(&chain, signed.cert.pem()).unwrap();
    std::fs::write(&key, signed.signing_key.serialize_pem()).unwrap();
    let store = TestStore::new();
    store.insert("secret", Entry::new(version(1), SECRET));
    let server = Server::builder()
        .tls(kvquorum_http::ServerTls::from_pem(chain, key).unwrap())
        .bind("127.0.0.1:0", service(&store))
        .await
        .unwrap();
    let port = server.local_addr().port();
    let shown = shows(&chromium, &format!("https://localhost:{port}/read/secret")).await;
    assert!(shown.contains(SECRET), "{shown}");
}
