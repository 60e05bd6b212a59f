//! Certificates for tests.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

/// Who signs certificates, and files with them.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    directory: tempfile::TempDir,
}

/// A certificate, and its key.
#[derive(Clone)]
pub(crate) struct Signed {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Two of the same name would be told apart by their signatures alone.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("authority {}", COUNT.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), &pem).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            pem,
            directory,
        }
    }

    /// The file with its own certificate.
    pub(crate) fn file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for a name or an address.
    pub(crate) fn sign(&self, name: &str) -> Signed {
        self.sign_with(name, |_| {})
    }

    /// One that was valid at the beginning of the century.
    pub(crate) fn sign_expired(&self, name: &str) -> Signed {
        self.sign_until(name, 2002)
    }

    /// One that is valid until the beginning of a year.
    pub(crate) fn sign_until(&self, name: &str, year: i32) -> Signed {
        self.sign_with(name, |params| {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(year, 1, 1);
        })
    }

    fn sign_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Signed {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = tempfile::tempdir_in(self.directory.path()).unwrap().keep();
        let signed = Signed {
            chain: files.join("chain.pem"),
            key: files.join("key.pem"),
        };
        std::fs::write(&signed.chain, certificate.pem()).unwrap();
        std::fs::write(&signed.key, key.serialize_pem()).unwrap();
        signed
    }
}

/// Writes a file anew, so that its time of modification shows it: two writes may
/// fall into one tick of the file system.
pub(crate) fn rewrite(path: impl AsRef<Path>, text: impl AsRef<[u8]>) {
    let modified = || path.as_ref().metadata().and_then(|it| it.modified()).ok();
    let before = modified();
    loop {
        std::fs::write(&path, &text).unwrap();
        if modified() != before {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    rewrite(to, std::fs::read(from).unwrap());
}
