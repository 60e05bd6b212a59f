//! Chromium without a window.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const FLAGS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    // For a certificate of nobody whom it knows.
    "--ignore-certificate-errors",
    "--host-resolver-rules=MAP evil.example 127.0.0.1",
];

/// A browser to be started.
pub(crate) struct Chromium;

/// A browser that runs until this is dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    _profile: Profile,
}

impl Chromium {
    /// Says so where there is none.
    pub(crate) fn find() -> Option<Self> {
        if !is_there() && std::env::var_os("KVQUORUM_INSTALL_CHROMIUM").is_some() {
            install();
        }
        if is_there() {
            return Some(Self);
        }
        println!("skipped: there is no chromium, see KVQUORUM_INSTALL_CHROMIUM");
        None
    }

    /// Starts it by a command that it completes with arguments, these the last.
    pub(crate) fn start(&self, by: &mut Command, arguments: &[&str]) -> Running {
        let profile = Profile::new();
        let command = by.args(FLAGS).args(arguments);
        let command = command.arg(format!("--user-data-dir={}", profile.0.display()));
        Running {
            child: command.stderr(Stdio::null()).spawn().unwrap(),
            _profile: profile,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory of its own.
struct Profile(PathBuf);

impl Profile {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap().keep())
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        // Its processes may be writing there for a moment after the first of
        // them has ended.
        for _ in 0..500 {
            if std::fs::remove_dir_all(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn is_there() -> bool {
    let mut version = Command::new("chromium");
    let version = version.arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}

fn install() {
    for arguments in [
        &["update"][..],
        &["install", "-y", "--no-install-recommends", "chromium"],
    ] {
        let mut apt = Command::new("apt-get");
        let _ = apt.args(arguments).stdout(Stdio::null()).status();
    }
}
