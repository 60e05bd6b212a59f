//! How a process is asked to end.

use std::io;

/// Waits for Ctrl-C, for SIGTERM, or for SIGHUP, which comes when the terminal
/// is closed.
#[cfg(unix)]
pub(crate) async fn interrupted() -> io::Result<()> {
    use std::future::pending;
    use tokio::signal::unix::{SignalKind, signal};

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = match hangup_is_ignored() {
        true => None,
        false => Some(signal(SignalKind::hangup())?),
    };
    let hangup = async {
        match &mut hangup {
            Some(hangup) => hangup.recv().await,
            None => pending().await,
        }
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup => {}
    }
    Ok(())
}

/// SIGUSR1, which asks for a backup. From when this is made it does not end the
/// process any more.
#[cfg(unix)]
pub(crate) struct BackupAsked(tokio::signal::unix::Signal);

#[cfg(unix)]
impl BackupAsked {
    pub(crate) fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self(signal(SignalKind::user_defined1())?))
    }

    pub(crate) async fn next(&mut self) {
        self.0.recv().await;
    }
}

/// Nothing asks for one here.
#[cfg(not(unix))]
pub(crate) struct BackupAsked;

#[cfg(not(unix))]
impl BackupAsked {
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self)
    }

    pub(crate) async fn next(&mut self) {
        std::future::pending().await
    }
}

/// Whether this process was started to ignore SIGHUP, as by `nohup`. Linux
/// tells; elsewhere the answer is no.
#[cfg(unix)]
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // Signal n is bit n - 1, and SIGHUP is signal 1.
    ignored.is_some_and(|mask| mask & 1 == 1)
}

/// Waits for Ctrl-C.
#[cfg(not(unix))]
pub(crate) async fn interrupted() -> io::Result<()> {
    tokio::signal::ctrl_c().await
}
