//! What is refused, and the reason on both sides.

use kvquorum_core::{TransportError, WithCauses};
use kvquorum_http::{ClientTls, HttpError, HttpTransport, Server, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::authority::Authority;
use crate::common::*;
use crate::setting::{Setting, connect, showing, trusting};

const HERE: &str = "127.0.0.1";

/// Asserts that a write is refused in the handshake, and surely not stored, for
/// a reason that both sides tell: the client this, the server that.
async fn refused(setting: Setting, tls: ClientTls, client: &str, server: &str) {
    let error = call(&setting.transport(tls), write("k", 1, "v"))
        .await
        .unwrap_err();
    let text = WithCauses(&error).to_string();
    assert!(matches!(error, TransportError::NotSent(_)), "{error:?}");
    let HttpError::Handshake(_) = cause(&error) else {
        panic!("{error:?}");
    };
    assert!(text.contains(client), "{text}");
    let text = setting.refused().await;
    assert!(text.contains(server), "{text}");
    assert_eq!(setting.store.entries(), []);
}

#[tokio::test]
async fn a_server_whom_the_client_does_not_trust() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let setting = Setting::showing(&theirs.sign(HERE)).await;
    refused(setting, trusting(&ours), "UnknownIssuer", "UnknownCA").await;
}

#[tokio::test]
async fn a_server_whose_certificate_has_expired() {
    let authority = Authority::new();
    let setting = Setting::showing(&authority.sign_expired(HERE)).await;
    let tls = trusting(&authority);
    refused(setting, tls, "expired", "CertificateExpired").await;
}

#[tokio::test]
async fn a_server_of_another_name() {
    let authority = Authority::new();
    for other in ["127.0.0.2", "replica-1.example"] {
        let setting = Setting::showing(&authority.sign(other)).await;
        let tls = trusting(&authority);
        refused(setting, tls, "not valid for name", "BadCertificate").await;
    }
}

/// Catches a client without a certificate, or with a wrong one, that is let in;
/// and one that takes its write for one that may be stored: in version 1.3 it
/// has sent it before it hears that it is not let in.
#[tokio::test]
async fn clients_whom_the_server_does_not_trust() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = ours.sign(HERE);
    for (tls, says, told) in [
        (
            trusting(&ours),
            "CertificateRequired",
            "peer sent no certificates",
        ),
        (
            showing(&theirs.sign("a stranger"), &ours),
            "UnknownCA",
            "UnknownIssuer",
        ),
        (
            showing(&ours.sign_expired("one of us"), &ours),
            "CertificateExpired",
            "expired",
        ),
    ] {
        let setting = Setting::mutual(&server, &ours).await;
        refused(setting, tls, says, told).await;
    }
}

/// Catches a client that is still sending when it is refused, and sees its
/// connection reset, not why.
#[tokio::test]
async fn a_client_that_sends_before_it_reads_still_hears_the_reason() {
    let authority = Authority::new();
    let setting = Setting::mutual(&authority.sign(HERE), &authority).await;
    let mut client = connect(&setting, &authority).await;
    let sent = in_time(client.write_all(&vec![b'x'; 32 * 1024 * 1024])).await;
    assert!(sent.is_ok(), "{sent:?}");
    let error = in_time(client.read(&mut [0])).await.unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
}

/// Catches a plain request that is served on the port for TLS.
#[tokio::test]
async fn plain_http_on_the_port_for_tls() {
    let authority = Authority::new();
    let setting = Setting::showing(&authority.sign(HERE)).await;
    let address = setting.server.local_addr();
    let plain = HttpTransport::new(address).unwrap();
    let error = call(&plain, write("k", 1, "v")).await.unwrap_err();
    assert!(matches!(error, TransportError::Rejected(_)), "{error:?}");
    let HttpError::Status { status, message } = cause(&error) else {
        panic!("{error:?}");
    };
    assert_eq!(*status, StatusCode::BAD_REQUEST);
    assert!(message.contains("TLS"), "{message}");
    let told = setting.refused().await;
    assert!(told.contains("does not speak TLS"), "{told}");

    let body = r#"{"key":"k","value":1,"timestamp":1}"#;
    for request in [post("/write", body), get_path("/read/k").into_bytes()] {
        let mut client = Raw::connect(address).await;
        let answer = client.ask(request).await;
        assert_eq!(answer.status, 400);
        assert!(answer.error().contains("https"), "{answer:?}");
        // A second one is not even read.
        client.closed().await;
    }
    assert_eq!(setting.store.entries(), []);
}

#[tokio::test]
async fn tls_on_the_port_for_plain_http() {
    let authority = Authority::new();
    let setting = Setting::new(Server::builder()).await;
    let client = setting.transport(trusting(&authority));
    let error = call(&client, write("k", 1, "v")).await.unwrap_err();
    assert!(matches!(error, TransportError::NotSent(_)), "{error:?}");
    let HttpError::NotTls = cause(&error) else {
        panic!("{error:?}");
    };
    let told = setting.refused().await;
    assert!(told.contains("the client speaks TLS"), "{told}");
}

/// Catches reports of what is no refusal: of whoever only looks whether the port
/// is open, and of bad requests.
#[tokio::test]
async fn what_is_no_refusal_is_not_told() {
    let authority = Authority::new();
    let plain = Setting::new(Server::builder()).await;
    let mut client = Raw::connect(plain.server.local_addr()).await;
    assert_eq!(client.ask("nonsense\r\n\r\n").await.status, 400);
    let secure = Setting::showing(&authority.sign(HERE)).await;
    drop(
        TcpStream::connect(secure.server.local_addr())
            .await
            .unwrap(),
    );
    let served = secure.transport(trusting(&authority));
    assert!(call(&served, read("k")).await.is_ok());
    assert_eq!(plain.all_refused(), [""; 0]);
    assert_eq!(secure.all_refused(), [""; 0]);
}

/// Catches names in a certificate that write to the operator's terminal.
#[tokio::test]
async fn the_names_of_a_certificate_are_fit_to_print() {
    let authority = Authority::new();
    let setting = Setting::showing(&authority.sign("a\x1b[2J\nERROR b")).await;
    let transport = setting.transport(trusting(&authority));
    let error = call(&transport, write("k", 1, "v")).await.unwrap_err();
    let text = WithCauses(&error).to_string();
    assert!(text.contains(r"a\u{1b}[2J\nERROR b"), "{text:?}");
    assert!(!text.contains(char::is_control), "{text:?}");
}
