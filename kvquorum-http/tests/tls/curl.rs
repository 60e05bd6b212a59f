//! The plain face over TLS, with curl.

use std::process::{Command, Output};

use kvquorum_http::{ReplicaService, Server, ServerTls, Tokens};

use crate::authority::Authority;
use crate::common::*;

const SECRET: &str = "one-of-us-and-nobody-else";
const NAME: &str = "replica-1.example";

/// `None` where there is no curl.
async fn curl(arguments: Vec<String>) -> Option<Output> {
    let run = move || {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "20"]);
        curl.args(["--noproxy", "*"]).args(arguments).output()
    };
    match tokio::task::spawn_blocking(run).await.unwrap() {
        Ok(output) => Some(output),
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
            println!("skipped: there is no curl");
            None
        }
    }
}

#[tokio::test]
async fn curl_is_let_in_by_the_right_certificate_and_token_alone() {
    let (authority, other) = (Authority::new(), Authority::new());
    let signed = authority.sign(NAME);
    let store = TestStore::new();
    let service: ReplicaService<_> = settings(&store)
        .tokens(&Tokens::new([SECRET]).unwrap())
        .build();
    let server = Server::builder()
        .tls(ServerTls::from_pem(signed.chain, signed.key).unwrap())
        .bind("127.0.0.1:0", service)
        .await
        .unwrap();
    let port = server.local_addr().port();
    let ask = |url: String, trusted: &Authority, token: &str| {
        let trusted = trusted.file();
        let arguments = [
            "--resolve",
            &format!("{NAME}:{port}:127.0.0.1"),
            "--cacert",
            trusted.to_str().unwrap(),
            "--header",
            &format!("authorization: Bearer {token}"),
            "--data",
            r#"{"key":"k","value":1,"timestamp":1}"#,
            &url,
        ];
        curl(arguments.map(str::to_owned).into())
    };
    let https = |host: &str| format!("https://{host}:{port}/write");
    let Some(written) = ask(https(NAME), &authority, SECRET).await else {
        return;
    };
    assert_eq!(written.stdout, b"{\"status\":\"ok\"}\n", "{written:?}");
    store.entries().pop().expect("an entry");

    for (url, trusted, token, says) in [
        (https(NAME), &authority, &SECRET[1..], "token"),
        (https(NAME), &other, SECRET, "certificate"),
        (https("127.0.0.1"), &authority, SECRET, "127.0.0.1"),
        (https(NAME).replacen('s', "", 1), &authority, SECRET, "TLS"),
    ] {
        let refused = ask(url, trusted, token).await.unwrap();
        let said = [refused.stdout, refused.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains(says), "{said}");
        assert!(!said.contains("status"), "{said}");
    }
}
