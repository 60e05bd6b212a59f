//! Certificates in files, which change.

use kvquorum_http::{ClientTls, Server, ServerTls, TlsError};

use crate::authority::{Authority, Signed, copy, rewrite};
use crate::common::*;
use crate::setting::{Setting, showing, trusting};

const HERE: &str = "127.0.0.1";

/// Whether a connection of its own is let in.
async fn is_let_in(setting: &Setting, tls: &ClientTls) -> bool {
    let transport = setting.transport(tls.clone());
    call(&transport, read("k")).await.is_ok()
}

/// Catches a certificate that is in use until the process ends: it would
/// expire. On both sides, and of both kinds.
#[tokio::test]
async fn certificates_are_changed_in_their_files_while_all_runs() {
    let (old, new) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let server = Signed {
        chain: file("server.pem"),
        key: file("server.key"),
    };
    let client = Signed {
        chain: file("client.pem"),
        key: file("client.key"),
    };
    let put = |authority: &Authority, place: &Signed, trusted: &str| {
        let signed = authority.sign(HERE);
        copy(signed.key, &place.key);
        copy(signed.chain, &place.chain);
        copy(authority.file(), file(trusted));
    };
    put(&old, &server, "clients.pem");
    put(&old, &client, "servers.pem");
    let tls = ServerTls::mutual_from_pem(&server.chain, &server.key, file("clients.pem"));
    let setting = Setting::new(Server::builder().tls(tls.unwrap())).await;
    let tls = ClientTls::mutual_from_pem(file("servers.pem"), &client.chain, &client.key);
    let tls = tls.unwrap();
    let kept = setting.transport(tls.clone());
    assert!(call(&kept, read("k")).await.is_ok());
    let (of_old, of_new) = (
        showing(&old.sign("a client"), &old),
        showing(&new.sign("a client"), &new),
    );
    assert!(is_let_in(&setting, &of_old).await);
    assert!(!is_let_in(&setting, &of_new).await);

    put(&new, &server, "clients.pem");
    until(async || is_let_in(&setting, &of_new).await).await;
    assert!(!is_let_in(&setting, &of_old).await);
    put(&new, &client, "servers.pem");
    until(async || is_let_in(&setting, &tls).await).await;
    // Connections that were there are there.
    assert!(call(&kept, read("k")).await.is_ok());
}

/// Catches a server that stops to serve, or a client that stops to call, in the
/// middle of a change; and a change that is not seen to its end.
#[tokio::test]
async fn files_that_are_not_usable_leave_things_as_they_were() {
    let authority = Authority::new();
    let (first, second) = (authority.sign(HERE), authority.sign("127.0.0.2"));
    let tls = ServerTls::from_pem(&first.chain, &first.key).unwrap();
    let setting = Setting::new(Server::builder().tls(tls.clone())).await;
    let client = trusting(&authority);
    let whole = std::fs::read(&second.chain).unwrap();
    copy(&second.chain, &first.chain);
    let mismatch = tls.refresh().unwrap_err();
    assert!(matches!(mismatch, TlsError::Unusable(_)), "{mismatch:?}");
    assert!(is_let_in(&setting, &client).await);
    for unusable in [&whole[..whole.len() / 2], b"", b"nonsense"] {
        rewrite(&first.chain, unusable);
        for _ in 0..2 {
            let error = tls.refresh().unwrap_err();
            assert!(matches!(error, TlsError::Pem { .. }), "{error:?}");
        }
        assert!(is_let_in(&setting, &client).await);
    }
    std::fs::remove_file(&first.chain).unwrap();
    let gone = tls.refresh().unwrap_err();
    assert!(matches!(gone, TlsError::Read { .. }), "{gone:?}");
    assert!(is_let_in(&setting, &client).await);

    rewrite(&first.chain, whole);
    copy(&second.key, &first.key);
    tls.refresh().unwrap();
    assert!(!is_let_in(&setting, &client).await);

    // The client's.
    rewrite(authority.file(), "");
    assert!(client.refresh().is_err());
    rewrite(authority.file(), authority.pem());
    client.refresh().unwrap();
}

/// Catches files of another kind that are taken, and errors that do not say
/// which file it is, or say what is in a key.
#[test]
fn files_of_another_kind_are_not_usable() {
    let authority = Authority::new();
    let signed = authority.sign(HERE);
    let missing = signed.chain.with_file_name("missing.pem");
    let (chain, key) = (&signed.chain, &signed.key);
    let secret = std::fs::read_to_string(key).unwrap();
    for (error, file, holds) in [
        (ServerTls::from_pem(&missing, key).err(), &missing, "read"),
        (ServerTls::from_pem(chain, &missing).err(), &missing, "read"),
        (ServerTls::from_pem(key, key).err(), key, "certificate"),
        (
            ServerTls::from_pem(chain, chain).err(),
            chain,
            "private key",
        ),
        (
            ServerTls::mutual_from_pem(chain, key, key).err(),
            key,
            "certificate",
        ),
        (ClientTls::from_pem(key).err(), key, "certificate"),
        (
            ClientTls::mutual_from_pem(chain, key, key).err(),
            key,
            "certificate",
        ),
    ] {
        let error = error.unwrap();
        let text = error.to_string();
        assert!(text.contains(file.to_str().unwrap()), "{text}");
        assert!(text.contains(holds), "{text}");
        let text = format!("{error:?}");
        let shown = secret.lines().any(|line| text.contains(line));
        assert!(!shown, "{text}");
    }
    let other = authority.sign(HERE);
    let mismatch = ServerTls::from_pem(chain, other.key).unwrap_err();
    assert!(matches!(mismatch, TlsError::Unusable(_)), "{mismatch:?}");
}
