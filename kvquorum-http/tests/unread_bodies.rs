//! Bodies of requests that are answered without them, and what comes after.

// In a test a panic is how a broken promise shows.

mod common;

use common::*;

/// Catches the rest of a body that is taken for the line of the next request: a
/// hash sign in it had that refused.
#[tokio::test]
async fn a_request_after_the_rest_of_a_body_is_judged_by_its_own_line() {
    let (server, _store) = serve().await;
    let mut client = Raw::connect(server.local_addr()).await;
    let refused = post("/none", "begun: A #b");
    let (begun, rest) = refused.split_at(refused.len() - 4);
    assert_eq!(client.ask(begun).await.status, 404);
    client.send(rest).await;
    assert_eq!(client.ask(get_path("/read/k")).await.status, 200);
    assert_eq!(client.ask(get_path("/read/k#b")).await.status, 400);
}

/// Catches a connection that is used again although nobody knows where on it the
/// next request begins.
#[tokio::test]
async fn nothing_follows_a_body_that_nobody_reads() {
    let (server, _store) = serve().await;
    let mut client = Raw::connect(server.local_addr()).await;
    let answer = client
        .ask(
            "POST /none HTTP/1.1\r\nhost: 127.0.0.1\r\nexpect: 100-continue\r\n\
             content-length: 2\r\n\r\n{}",
        )
        .await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.header("connection"), Some("close"));
    client.closed().await;
}
