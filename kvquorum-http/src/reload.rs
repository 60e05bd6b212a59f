//! What is read from files, and read again when they change.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant, SystemTime};

/// How long files are taken to be what they were: what is asked for more often
/// costs no look at the disk.
const FRESH: Duration = Duration::from_secs(1);

/// How often files are read that change while they are read.
const READS: usize = 3;

/// A value made of files. It is made anew when one of them changes, by its time
/// of modification or its length. What was read of files that changed meanwhile
/// is not used: it may be half of what is being written.
///
/// Looking at the files blocks the thread, once in a while, for as long as the
/// file system takes to say when they changed. It blocks one thread at a time,
/// and the others go on with what there is.
pub(crate) struct Reloaded<T, E> {
    /// Held for as long as it takes to clone or to replace it.
    value: Mutex<T>,
    /// `None` where the value never changes.
    files: Option<Files<T, E>>,
}

struct Files<T, E> {
    paths: Vec<PathBuf>,
    load: Load<T, E>,
    changing: fn() -> E,
    /// Held for as long as the file system takes.
    seen: Mutex<Seen>,
}

type Load<T, E> = Box<dyn Fn() -> Result<T, E> + Send + Sync>;

/// What was seen of files.
struct Seen {
    /// Of the files that the value was made of.
    stamps: Vec<Stamp>,
    looked: Instant,
}

/// When a file was changed, and its length; `None` for one that is not there.
type Stamp = Option<(SystemTime, u64)>;

impl<T: Clone, E> Reloaded<T, E> {
    /// Makes the value of these files. `changing` is the error where they do not
    /// stay as they are while they are read.
    pub(crate) fn new(
        paths: Vec<PathBuf>,
        load: impl Fn() -> Result<T, E> + Send + Sync + 'static,
        changing: fn() -> E,
    ) -> Result<Self, E> {
        let load: Load<T, E> = Box::new(load);
        let (value, stamps) = read(&paths, &load, changing)?;
        let looked = Instant::now();
        Ok(Self {
            value: Mutex::new(value),
            files: Some(Files {
                paths,
                load,
                changing,
                seen: Mutex::new(Seen { stamps, looked }),
            }),
        })
    }

    /// A value of no files.
    pub(crate) fn fixed(value: T) -> Self {
        Self {
            value: Mutex::new(value),
            files: None,
        }
    }

    /// The value. It is the last good one where the files cannot be used, and
    /// they are tried again, and while another thread looks at them.
    pub(crate) fn get(&self) -> T {
        if let Some(files) = &self.files
            && let Some(mut seen) = try_lock(&files.seen)
            && seen.looked.elapsed() >= FRESH
        {
            let _ = self.look(files, &mut seen);
        }
        lock(&self.value).clone()
    }

    /// Looks at the files now, and says why they cannot be used.
    pub(crate) fn refresh(&self) -> Result<(), E> {
        match &self.files {
            Some(files) => self.look(files, &mut lock(&files.seen)),
            None => Ok(()),
        }
    }

    fn look(&self, files: &Files<T, E>, seen: &mut Seen) -> Result<(), E> {
        seen.looked = Instant::now();
        if stamps(&files.paths) != seen.stamps {
            let (value, stamps) = read(&files.paths, &files.load, files.changing)?;
            *lock(&self.value) = value;
            seen.stamps = stamps;
        }
        Ok(())
    }
}

/// What is made of the files, and their stamps before and after they were read.
fn read<T, E>(
    paths: &[PathBuf],
    load: &Load<T, E>,
    changing: fn() -> E,
) -> Result<(T, Vec<Stamp>), E> {
    for _ in 0..READS {
        let before = stamps(paths);
        let value = load();
        if stamps(paths) == before {
            return Ok((value?, before));
        }
    }
    Err(changing())
}

/// No panic can leave half changed what is locked here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `None` while another thread has it.
fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Stamp> {
    paths.iter().map(|path| stamp(path)).collect()
}

fn stamp(path: &Path) -> Stamp {
    let metadata = path.metadata().ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    /// Catches a file system that hangs and takes every thread along, rather than
    /// the one that looks.
    #[test]
    fn those_who_do_not_look_go_on_while_the_file_system_hangs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let (hangs, hanging) = channel();
        let (end, ended) = channel::<()>();
        let ended = Mutex::new(ended);
        let loads = AtomicU32::new(0);
        let load = move || {
            let nth = loads.fetch_add(1, Ordering::Relaxed);
            if nth > 0 {
                hangs.send(()).unwrap();
                let _ = lock(&ended).recv();
            }
            Ok::<_, Infallible>(nth)
        };
        let changing = || unreachable!();
        let reloaded = Arc::new(Reloaded::new(vec![path.clone()], load, changing).unwrap());
        std::fs::write(&path, "changed").unwrap();
        let get = || {
            let (got, gets) = channel();
            let reloaded = Arc::clone(&reloaded);
            thread::spawn(move || got.send(reloaded.get()).unwrap());
            gets
        };
        set_stale(&reloaded);
        let looks = get();
        hanging.recv_timeout(LIMIT).unwrap();
        assert_eq!(get().recv_timeout(LIMIT), Ok(0));
        drop(end);
        assert_eq!(looks.recv_timeout(LIMIT), Ok(1));
    }

    /// Catches the half of a file that was read while it was being written.
    #[test]
    fn what_changes_while_it_is_read_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "old").unwrap();
        let rest = Arc::new(Mutex::new(VecDeque::<&str>::new()));
        let (file, to_come) = (path.clone(), Arc::clone(&rest));
        let load = move || {
            let text = std::fs::read_to_string(&file).unwrap();
            if let Some(more) = lock(&to_come).pop_front() {
                std::fs::write(&file, format!("{text}{more}")).unwrap();
            }
            Ok(text)
        };
        let reloaded = Reloaded::new(vec![path.clone()], load, || "changing").unwrap();
        std::fs::write(&path, "newer").unwrap();
        lock(&rest).extend([" and", " whole"]);
        reloaded.refresh().unwrap();
        assert_eq!(reloaded.get(), "newer and whole");

        // One that does not end is waited for no longer.
        lock(&rest).extend(["!"; READS]);
        std::fs::write(&path, "endless").unwrap();
        assert_eq!(reloaded.refresh(), Err("changing"));
        assert_eq!(reloaded.get(), "newer and whole");
        reloaded.refresh().unwrap();
        assert_eq!(reloaded.get(), "endless!!!");
    }

    /// As though the last look had been a while ago.
    fn set_stale<T, E>(reloaded: &Reloaded<T, E>) {
        let files = reloaded.files.as_ref().unwrap();
        lock(&files.seen).looked -= FRESH;
    }
}
