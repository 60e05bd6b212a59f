//! The directory: its lock, and the file in it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::error::OpenError;

/// The engine's file.
const ENTRIES: &str = "entries.redb";
/// The engine's file until it is complete.
const UNFINISHED: &str = "entries.redb.new";
/// Locked for as long as a store is open. It is never removed: a file that
/// comes and goes can be locked by two.
const LOCK: &str = "lock";

/// How long to wait for a lock: a store dropped a moment ago may have a read
/// under way that nobody waits for any more.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

/// A directory that this process holds.
pub(crate) struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Creates the directory where it is missing, and locks it.
    pub(crate) fn hold(path: &Path) -> Result<Self, OpenError> {
        if !path.is_dir() {
            fs::create_dir_all(path).map_err(at(path))?;
            if let Some(parent) = path.parent() {
                sync_directory(parent)?;
            }
        }
        let lock_path = path.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(at(&lock_path))?;
        let start = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(at(&lock_path)(error)),
                Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_PATIENCE => {
                    sleep(Duration::from_millis(10));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(OpenError::Locked {
                        path: path.to_owned(),
                    });
                }
            }
        }
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// The engine's file. Where there is none it is filled under another name
    /// first, so that under its own it is complete, whenever a crash comes.
    pub(crate) fn entries(
        &self,
        fill: impl FnOnce(File) -> Result<(), OpenError>,
    ) -> Result<File, OpenError> {
        let path = self.path.join(ENTRIES);
        if !path.try_exists().map_err(at(&path))? {
            let unfinished = self.path.join(UNFINISHED);
            let file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .read(true)
                .write(true)
                .open(&unfinished)
                .map_err(at(&unfinished))?;
            fill(file)?;
            fs::rename(&unfinished, &path).map_err(at(&path))?;
            sync_directory(&self.path)?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(at(&path))?;
        // The engine would take it for a new one.
        if file.metadata().map_err(at(&path))?.len() == 0 {
            return Err(OpenError::Damaged(format!("{} is empty", path.display())));
        }
        Ok(file)
    }
}

/// A new name is on disk only once its directory is.
fn sync_directory(path: &Path) -> Result<(), OpenError> {
    // A relative path of one component has the empty path for a parent.
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    if cfg!(unix) {
        File::open(path)
            .and_then(|directory| directory.sync_all())
            .map_err(at(path))?;
    }
    Ok(())
}

fn at(path: &Path) -> impl Fn(io::Error) -> OpenError {
    move |source| OpenError::Io {
        path: path.to_owned(),
        source,
    }
}
