//! Chromium without a window.

use std::io::{Read, Seek};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::until;

/// A browser to be started.
pub(crate) struct Chromium;

/// A browser that runs until this is dropped.
pub(crate) struct Running {
    child: Child,
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

    /// Opens a page.
    pub(crate) fn open(&self, url: &str) -> Running {
        Running::start(&[url], Stdio::null())
    }

    /// What a page comes to, as HTML.
    pub(crate) async fn shows(&self, url: &str) -> String {
        // A file: whatever the browser leaves behind may hold a pipe open.
        let mut html = tempfile::tempfile().unwrap();
        let into = html.try_clone().unwrap().into();
        let mut browser = Running::start(&["--dump-dom", url], into);
        until(async || browser.child.try_wait().unwrap().is_some()).await;
        let mut shown = String::new();
        html.rewind().unwrap();
        html.read_to_string(&mut shown).unwrap();
        shown
    }
}

impl Running {
    fn start(arguments: &[&str], stdout: Stdio) -> Self {
        let profile = Profile::new();
        let child = command(&profile)
            .args(arguments)
            .stdout(stdout)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            child,
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

fn command(profile: &Profile) -> Command {
    let mut command = Command::new("chromium");
    command
        .args([
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
        ])
        .arg(format!("--user-data-dir={}", profile.0.display()));
    command
}
