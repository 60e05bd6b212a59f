//! What is read from files, and read again when they change.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How long files are taken to be what they were: what is asked for more often
/// costs no look at the disk.
const FRESH: Duration = Duration::from_secs(1);

/// A value made of files. It is made anew when one of them changes, by its time
/// of modification or its length.
///
/// Looking at the files blocks the thread, once in a while, for as long as the
/// file system takes to say when they changed.
pub(crate) struct Reloaded<T, E> {
    /// `None` where the value never changes.
    files: Option<Files<T, E>>,
    state: Mutex<State<T>>,
}

struct Files<T, E> {
    paths: Vec<PathBuf>,
    load: Box<dyn Fn() -> Result<T, E> + Send + Sync>,
}

struct State<T> {
    value: T,
    /// Of the files that the value was made of.
    stamps: Vec<Stamp>,
    looked: Instant,
}

/// When a file was changed, and its length; `None` for one that is not there.
type Stamp = Option<(SystemTime, u64)>;

impl<T: Clone, E> Reloaded<T, E> {
    /// Makes the value of these files.
    pub(crate) fn new(
        paths: Vec<PathBuf>,
        load: impl Fn() -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Self, E> {
        // First: what is written while the files are read is then noticed.
        let stamps = stamps(&paths);
        let state = State::new(load()?, stamps);
        let load = Box::new(load);
        Ok(Self {
            files: Some(Files { paths, load }),
            state: Mutex::new(state),
        })
    }

    /// A value of no files.
    pub(crate) fn fixed(value: T) -> Self {
        Self {
            files: None,
            state: Mutex::new(State::new(value, Vec::new())),
        }
    }

    /// The value. It is the last good one where the files cannot be used, and
    /// they are tried again.
    pub(crate) fn get(&self) -> T {
        let mut state = self.state();
        if let Some(files) = &self.files
            && state.looked.elapsed() >= FRESH
        {
            let _ = files.look(&mut state);
        }
        state.value.clone()
    }

    /// Looks at the files now, and says why they cannot be used.
    pub(crate) fn refresh(&self) -> Result<(), E> {
        match &self.files {
            Some(files) => files.look(&mut self.state()),
            None => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        // No panic can leave it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T, E> Files<T, E> {
    fn look(&self, state: &mut State<T>) -> Result<(), E> {
        state.looked = Instant::now();
        let stamps = stamps(&self.paths);
        if stamps != state.stamps {
            state.value = (self.load)()?;
            state.stamps = stamps;
        }
        Ok(())
    }
}

impl<T> State<T> {
    fn new(value: T, stamps: Vec<Stamp>) -> Self {
        let looked = Instant::now();
        Self {
            value,
            stamps,
            looked,
        }
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Stamp> {
    paths.iter().map(|path| stamp(path)).collect()
}

fn stamp(path: &Path) -> Stamp {
    let metadata = path.metadata().ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
