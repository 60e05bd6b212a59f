//! What the engine reads and writes, and reads that must not wait for it.
//!
//! The engine keeps pages in memory, and its caller cannot tell whether a read
//! will find all it needs there. An error of the backend would be no way out: it
//! is for good, and for all that comes after. So a read that would have to wait
//! unwinds out of the engine, as a panic does, from the one place where it holds
//! no lock that others could find poisoned. (Salsa ends queries that way.)

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use crate::error::{OpenError, open_error};

/// What takes longer to read than this many bytes, of memory, is not worth to
/// hold up an async thread for: the way to another thread is shorter.
pub(crate) const LONG: usize = 64 << 10;

thread_local! {
    /// Whether what this thread does in the engine must not wait.
    static AT_ONCE: Cell<bool> = const { Cell::new(false) };
}

/// What a read unwinds with.
struct WouldWait;

/// Runs reads in the engine that do not wait for its backend; `None` where they
/// would have to, and in a program that is built to abort on panics.
pub(crate) fn at_once<T>(read: impl FnOnce() -> T) -> Option<T> {
    if cfg!(not(panic = "unwind")) {
        return None;
    }
    AT_ONCE.set(true);
    // What it leaves behind is as whole as after a read that failed.
    let done = catch_unwind(AssertUnwindSafe(read));
    AT_ONCE.set(false);
    match done {
        Ok(found) => Some(found),
        Err(panic) if panic.is::<WouldWait>() => None,
        Err(panic) => resume_unwind(panic),
    }
}

/// Where what this thread does in the engine must not wait, leaves it.
pub(crate) fn would_wait() {
    if AT_ONCE.get() {
        resume_unwind(Box::new(WouldWait));
    }
}

/// Any backend, for reads at once too.
#[derive(Debug)]
pub(crate) struct Backend {
    inner: Box<dyn StorageBackend>,
    /// The file behind it, of which the system may have the wanted part in
    /// memory.
    file: Option<File>,
}

impl Backend {
    pub(crate) fn new(inner: impl StorageBackend) -> Self {
        Self {
            inner: Box::new(inner),
            file: None,
        }
    }

    pub(crate) fn of_file(file: File) -> Result<Self, OpenError> {
        // Without it there are fewer reads at once, and nothing else.
        let again = file.try_clone().and_then(without_access_time).ok();
        let inner = FileBackend::new(file).map_err(open_error)?;
        Ok(Self {
            inner: Box::new(inner),
            file: again,
        })
    }

    /// Whether the file's part is in memory, and was read from there.
    fn read_from_memory(&self, offset: u64, out: &mut [u8]) -> bool {
        let Some(file) = &self.file else { return false };
        let wanted = out.len();
        wanted <= LONG && read_no_wait(file, offset, out).is_ok_and(|read| read == wanted)
    }
}

/// Has the system not note when a file was read, which can wait for its journal.
/// Only the owner of a file may ask for that.
#[cfg(target_os = "linux")]
fn without_access_time(file: File) -> io::Result<File> {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    fcntl_setfl(&file, fcntl_getfl(&file)? | OFlags::NOATIME)?;
    Ok(file)
}

#[cfg(target_os = "linux")]
fn read_no_wait(file: &File, offset: u64, out: &mut [u8]) -> io::Result<usize> {
    use rustix::io::{ReadWriteFlags, preadv2};
    let mut parts = [io::IoSliceMut::new(out)];
    Ok(preadv2(file, &mut parts, offset, ReadWriteFlags::NOWAIT)?)
}

#[cfg(not(target_os = "linux"))]
fn without_access_time(_file: File) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
fn read_no_wait(_file: &File, _offset: u64, _out: &mut [u8]) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

impl StorageBackend for Backend {
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if AT_ONCE.get() && self.read_from_memory(offset, out) {
            return Ok(());
        }
        would_wait();
        self.inner.read(offset, out)
    }

    /// A read may want to make room with it for what it read. Where that fails
    /// the engine makes room in another way, and thinks no worse of the backend.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if AT_ONCE.get() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.inner.write(offset, data)
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Bugs: a part of what is wanted is taken for all of it; a read that may
    /// wait does not, since one before it on the thread might not.
    #[test]
    fn what_is_not_there_in_full_is_waited_for() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"abc").unwrap();
        let backend = Backend::of_file(file).unwrap();
        let read = |len| {
            let mut bytes = vec![0; len];
            backend.read(0, &mut bytes).map(|()| bytes)
        };
        assert!(at_once(|| read(4)).is_none());
        let error = read(4).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read(3).unwrap(), b"abc");
    }

    /// Bug: a read writes, to make room for what it read.
    #[test]
    fn nothing_is_written_at_once() {
        let backend = Backend::of_file(tempfile::tempfile().unwrap()).unwrap();
        let error = at_once(|| backend.write(0, b"abc")).unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(backend.len().unwrap(), 0);
        backend.write(0, b"abc").unwrap();
        assert_eq!(backend.len().unwrap(), 3);
    }

    /// Bug: a panic is taken for a read that would wait.
    #[test]
    #[should_panic(expected = "of the engine's own")]
    fn panics_go_on() {
        at_once(|| panic!("of the engine's own"));
    }
}
