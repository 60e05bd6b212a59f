//! The directory: its lock, the file of records, and the trace that a store was
//! created there.
//!
//! A new store starts empty where that is meant, and nowhere else. So a creation
//! leaves a trace beside the file of records, for good: where the trace is and
//! the file is not, records are lost. A creation takes these steps, each flushed
//! before the next:
//!
//! 1. the file of records, complete and empty, under another name;
//! 2. the trace;
//! 3. its own name for the file.
//!
//! One that was cut short before 2 is begun anew; one that was cut short before
//! 3 is finished, since nothing can have been stored yet.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::error::{OpenError, damaged};

/// The file of records, which is the engine's.
const RECORDS: &str = "entries.redb";
/// The same until it is complete.
const UNFINISHED: &str = "entries.redb.new";
/// The trace.
const CREATED: &str = "created";
/// Locked for as long as a store is open. It is never removed: a file that
/// comes and goes can be locked by two.
const LOCK: &str = "lock";

const TRACE: &str = "\
A store of kvquorum-redb was created in this directory. It holds its records in
the file entries.redb; where that is missing, they are lost, and no new store is
started here in its place.
";

/// How long to wait for a lock. A process that starts another shares its files
/// with that for a moment, and so its locks.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// What is meant by opening a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    Existing,
    New,
    Either,
}

/// A directory that this process holds.
pub(crate) struct Directory {
    /// As the caller named it.
    named: PathBuf,
    /// Where that led. What the name leads to later may be another's.
    path: PathBuf,
    /// The file of records, opened a second time and before the engine writes to
    /// it: the system tells each opening of a file once of a flush that failed.
    witness: Option<File>,
    _lock: File,
}

impl Directory {
    /// Locks the directory. Where a store is to be created it is made, with all
    /// above it that is missing.
    pub(crate) fn hold(path: &Path, opening: Opening) -> Result<Self, OpenError> {
        if opening == Opening::Existing {
            // Nothing is left behind in a directory that is none of ours.
            if !exists(&path.join(CREATED))? && !exists(&path.join(RECORDS))? {
                return Err(OpenError::Missing { path: path.into() });
            }
        } else {
            create_directories(path)?;
        }
        let named = path.to_owned();
        let path = fs::canonicalize(path).map_err(at(path))?;
        Ok(Self {
            _lock: lock(&path, &named)?,
            named,
            path,
            witness: None,
        })
    }

    /// Makes a directory, with all above it that is missing; `false` where there is
    /// something of its name.
    pub(crate) fn make(path: &Path) -> Result<bool, OpenError> {
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => create_directories(parent)?,
            _ => {}
        }
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            made => made.map(|()| true).map_err(at(path)),
        }
    }

    /// Creates the file of records where that is meant. `fill` makes a whole store
    /// of an empty file.
    pub(crate) fn prepare<E: From<OpenError>>(
        &self,
        opening: Opening,
        fill: impl FnOnce(File) -> Result<(), E>,
    ) -> Result<(), E> {
        let path = || self.named.clone();
        let unfinished = self.path.join(UNFINISHED);
        let created = exists(&self.path.join(CREATED))?;
        let begun = exists(&unfinished)?;
        if !created && begun {
            // It may be half a file; beside a trace it would pass for a whole one.
            fs::remove_file(&unfinished).map_err(at(&unfinished))?;
        }
        if exists(&self.path.join(RECORDS))? {
            return match opening {
                Opening::New => Err(OpenError::Exists { path: path() }.into()),
                Opening::Existing | Opening::Either => Ok(()),
            };
        }
        match (created, begun) {
            (true, true) => Ok(self.finish()?),
            (true, false) => Err(self.lost().into()),
            (false, _) if opening == Opening::Existing => {
                Err(OpenError::Missing { path: path() }.into())
            }
            (false, _) => {
                flush_upwards(&self.path, sync_directory)?;
                let mut options = OpenOptions::new();
                options.create_new(true).read(true).write(true);
                let file = options.open(&unfinished).map_err(at(&unfinished))?;
                let flushed = file.try_clone().map_err(at(&unfinished))?;
                fill(file)?;
                flushed.sync_all().map_err(at(&unfinished))?;
                sync_directory(&self.path)?;
                self.leave_trace()?;
                Ok(self.finish()?)
            }
        }
    }

    fn finish(&self) -> Result<(), OpenError> {
        let records = self.path.join(RECORDS);
        fs::rename(self.path.join(UNFINISHED), &records).map_err(at(&records))?;
        sync_directory(&self.path)
    }

    /// Leaves the trace, where it is missing: someone may have brought the file
    /// of records alone.
    pub(crate) fn leave_trace(&self) -> Result<(), OpenError> {
        let path = self.path.join(CREATED);
        if exists(&path)? {
            return Ok(());
        }
        let mut options = OpenOptions::new();
        let mut trace = options
            .create_new(true)
            .write(true)
            .open(&path)
            .map_err(at(&path))?;
        trace.write_all(TRACE.as_bytes()).map_err(at(&path))?;
        trace.sync_all().map_err(at(&path))?;
        sync_directory(&self.path)
    }

    /// Opens the file of records for the engine.
    ///
    /// Where it was open before, all that was written to it is flushed first. A
    /// flush that failed may have left a part of the file in the system's memory
    /// alone, marked as safe: the engine would read it, find it whole, and build
    /// on it.
    ///
    /// Another file that took its name since lacks what was acked.
    pub(crate) fn open_records(&mut self) -> Result<File, OpenError> {
        let path = self.path.join(RECORDS);
        let witness = match &self.witness {
            None => self.open(&path)?,
            Some(before) => {
                before.sync_all().map_err(|source| OpenError::Unflushed {
                    path: path.clone(),
                    source,
                })?;
                let witness = self.open(&path)?;
                let now = witness.metadata().map_err(at(&path))?;
                if !is_same(&before.metadata().map_err(at(&path))?, &now) {
                    return Err(self.lost());
                }
                witness
            }
        };
        self.witness = Some(witness);
        self.open(&path)
    }

    fn open(&self, path: &Path) -> Result<File, OpenError> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).open(path);
        let file = file.map_err(|error| match error.kind() {
            // A link may lead nowhere.
            io::ErrorKind::NotFound => self.lost(),
            _ => at(path)(error),
        })?;
        // The engine would take it for a new one.
        if file.metadata().map_err(at(path))?.len() == 0 {
            return Err(damaged("the file is empty"));
        }
        Ok(file)
    }

    /// Whether what is written to the file can be found again. Where it was
    /// removed, renamed or replaced, writing to it goes on without an error.
    pub(crate) fn check_linked(&self) -> io::Result<()> {
        let gone = || {
            let gone = "the file was removed, renamed or replaced while it was open";
            io::Error::new(io::ErrorKind::NotFound, gone)
        };
        let Some(witness) = self.witness.as_ref().filter(|_| cfg!(unix)) else {
            return Ok(());
        };
        match fs::metadata(self.path.join(RECORDS)) {
            Ok(found) if is_same(&witness.metadata()?, &found) => Ok(()),
            Ok(_) => Err(gone()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(gone()),
            Err(error) => Err(error),
        }
    }

    /// How long the file of records is, once it was opened.
    pub(crate) fn len(&self) -> io::Result<u64> {
        let witness = self.witness.as_ref();
        witness.map_or(Ok(0), |witness| Ok(witness.metadata()?.len()))
    }

    /// As the caller named it.
    pub(crate) fn named(&self) -> &Path {
        &self.named
    }

    fn lost(&self) -> OpenError {
        OpenError::Lost {
            path: self.named.clone(),
        }
    }
}

/// Whether these are of one file, where the system tells.
fn is_same(one: &Metadata, other: &Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        (one.dev(), one.ino()) == (other.dev(), other.ino())
    }
    #[cfg(not(unix))]
    {
        let _ = (one, other);
        true
    }
}

fn lock(directory: &Path, named: &Path) -> Result<File, OpenError> {
    let path = directory.join(LOCK);
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    let lock = options.open(&path).map_err(at(&path))?;
    let start = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::Error(error)) => return Err(at(&path)(error)),
            Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_TIMEOUT => {
                sleep(Duration::from_millis(10));
            }
            Err(TryLockError::WouldBlock) => {
                let path = named.to_owned();
                return Err(OpenError::Locked { path });
            }
        }
    }
}

/// Whether anything has this name, a link that leads nowhere included.
fn exists(path: &Path) -> Result<bool, OpenError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(at(path)(error)),
    }
}

fn create_directories(path: &Path) -> Result<(), OpenError> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => return Err(at(path)(io::ErrorKind::NotADirectory.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(at(path)(error)),
    }
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => create_directories(parent)?,
        _ => {}
    }
    match fs::create_dir(path) {
        // Somebody else may have been quicker. A link that leads nowhere is no
        // directory.
        Err(_) if path.is_dir() => Ok(()),
        made => made.map_err(at(path)),
    }
}

/// Flushes a directory, and those above it on the same file system: a name is on
/// disk only once the directory that it is in is. Which of them are new is not
/// known after a creation that was cut short.
fn flush_upwards(
    path: &Path,
    mut sync: impl FnMut(&Path) -> Result<(), OpenError>,
) -> Result<(), OpenError> {
    let path = fs::canonicalize(path).map_err(at(path))?;
    let device = device(&path)?;
    for directory in path.ancestors() {
        if self::device(directory)? != device {
            break;
        }
        match sync(directory) {
            // One that may not be read was not made here.
            Err(OpenError::Io { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied && directory != path =>
            {
                break;
            }
            synced => synced?,
        }
    }
    Ok(())
}

/// The file system that a directory is on.
fn device(path: &Path) -> Result<u64, OpenError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        Ok(fs::metadata(path).map_err(at(path))?.dev())
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        Ok(0)
    }
}

fn sync_directory(path: &Path) -> Result<(), OpenError> {
    if cfg!(unix) {
        let synced = File::open(path).and_then(|directory| directory.sync_all());
        synced.map_err(at(path))?;
    }
    Ok(())
}

fn at(path: &Path) -> impl Fn(io::Error) -> OpenError {
    move |source| OpenError::Io {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bugs: a directory that was made is not flushed, or the one that it was
    /// made in is not; a link hides which one that is.
    #[cfg(unix)]
    #[test]
    fn every_directory_that_was_made_is_flushed() {
        let root = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(root.path()).unwrap();
        fs::create_dir(root.join("there")).unwrap();
        std::os::unix::fs::symlink(root.join("there"), root.join("link")).unwrap();
        let path = root.join("link/a/b");
        create_directories(&path).unwrap();
        let mut flushed = Vec::new();
        let sync = |path: &Path| {
            flushed.push(path.to_owned());
            sync_directory(path)
        };
        flush_upwards(&path, sync).unwrap();
        let expected = ["there/a/b", "there/a", "there", ""].map(|path| root.join(path));
        assert_eq!(flushed[..4], expected);
    }
}
