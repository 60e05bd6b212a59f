//! Where the engine has its file, and how it is opened there.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, StorageBackend, TableError};

use crate::backend::Shared;
use crate::directory::{Directory, Opening};
use crate::error::{OpenError, damaged, engine_error, open_error, panicked};
use crate::format::{FORMAT, META, META_FORMAT, RECORDS};

/// How the engine is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) max_page_cache: usize,
    pub(crate) verify: bool,
}

/// A place that this process holds, and where the engine can be opened as often
/// as is wanted, once at a time.
pub(crate) enum Place {
    Directory(Directory),
    Custom(CustomPlace),
}

pub(crate) struct CustomPlace {
    open: Box<dyn Fn() -> Result<Arc<dyn StorageBackend>, OpenError> + Send>,
    start: Start,
    /// The one that the engine has now.
    backend: Option<Weak<dyn StorageBackend>>,
}

/// What a store may start as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// An empty one, where nothing is there.
    New,
    /// What it was alone: an empty one would have lost what it acked.
    AsItWas,
}

impl Place {
    pub(crate) fn custom<B: StorageBackend>(
        backend: impl Fn() -> io::Result<B> + Send + 'static,
    ) -> Self {
        let open = move || -> Result<Arc<dyn StorageBackend>, OpenError> {
            // Its panic says nothing of the file.
            let backend = guarded(|| backend().map_err(io_error), OpenError::Engine)?;
            Ok(Arc::new(backend))
        };
        Self::Custom(CustomPlace {
            open: Box::new(open),
            start: Start::New,
            backend: None,
        })
    }

    /// Opens the engine.
    pub(crate) fn open(&mut self, settings: Settings) -> Result<Database, OpenError> {
        match self {
            Self::Custom(place) => {
                let start = std::mem::replace(&mut place.start, Start::AsItWas);
                let backend = (place.open)()?;
                place.backend = Some(Arc::downgrade(&backend));
                settings.open(Shared(backend), start)
            }
            Self::Directory(directory) => {
                let backend = FileBackend::new(directory.open_records()?).map_err(open_error)?;
                let opened = settings.open(backend, Start::AsItWas);
                opened.map_err(|error| match error {
                    OpenError::Engine(redb::Error::DatabaseAlreadyOpen) => OpenError::Locked {
                        path: directory.named().to_owned(),
                    },
                    other => other,
                })
            }
        }
    }

    /// How long the engine's file is, while the engine is open.
    pub(crate) fn len(&self) -> io::Result<u64> {
        match self {
            Self::Directory(directory) => directory.len(),
            Self::Custom(place) => {
                let backend = place.backend.as_ref().and_then(Weak::upgrade);
                backend.map_or(Ok(0), |backend| backend.len())
            }
        }
    }

    /// Whether what was written can be found again.
    pub(crate) fn check_linked(&self) -> io::Result<()> {
        match self {
            Self::Directory(directory) => directory.check_linked(),
            Self::Custom(_) => Ok(()),
        }
    }
}

impl Settings {
    /// Opens or creates a store in a directory.
    pub(crate) fn open_directory(
        self,
        path: &std::path::Path,
        opening: Opening,
    ) -> Result<(Place, Database), OpenError> {
        let directory = Directory::hold(path, opening)?;
        directory.prepare(opening, |file| {
            let backend = FileBackend::new(file).map_err(open_error)?;
            let database = self.open(backend, Start::New)?;
            database.close().map_err(open_error)
        })?;
        let mut place = Place::Directory(directory);
        let database = place.open(self)?;
        if let Place::Directory(directory) = &place {
            directory.leave_trace()?;
        }
        Ok((place, database))
    }

    pub(crate) fn open(
        self,
        backend: impl StorageBackend,
        start: Start,
    ) -> Result<Database, OpenError> {
        let opening = || {
            if start == Start::AsItWas && backend.len().map_err(io_error)? == 0 {
                return Err(damaged("the file is empty"));
            }
            let database = Database::builder()
                .set_cache_size(self.max_page_cache)
                .set_check_integrity_on_open(self.verify)
                .create_with_backend(backend)
                .map_err(open_error)?;
            check_tables(&database, start)?;
            Ok(database)
        };
        guarded(opening, engine_error)
    }
}

/// Checks that the tables are ours, and makes them where there are none at all and
/// the store may be a new one.
fn check_tables(database: &Database, start: Start) -> Result<(), OpenError> {
    let reading = database.begin_read().map_err(engine_error)?;
    let meta = match reading.open_table(META) {
        Ok(meta) => meta,
        Err(error @ TableError::TableDoesNotExist(_)) => {
            let mut tables = reading.list_tables().map_err(engine_error)?;
            let mut multimaps = reading.list_multimap_tables().map_err(engine_error)?;
            let none = tables.next().is_none() && multimaps.next().is_none();
            if !none || start == Start::AsItWas {
                return Err(OpenError::Foreign(error.into()));
            }
            return create_tables(database);
        }
        Err(error) => return Err(table_error(error)),
    };
    let format = meta.get(META_FORMAT).map_err(engine_error)?;
    match format.map(|format| format.value()) {
        None => Err(damaged("no format is named")),
        Some(found) if found != FORMAT => Err(OpenError::UnknownFormat {
            found,
            known: FORMAT,
        }),
        Some(_) => reading.open_table(RECORDS).map(drop).map_err(table_error),
    }
}

fn create_tables(database: &Database) -> Result<(), OpenError> {
    let writing = database.begin_write().map_err(engine_error)?;
    writing.open_table(RECORDS).map_err(engine_error)?;
    writing
        .open_table(META)
        .map_err(engine_error)?
        .insert(META_FORMAT, FORMAT)
        .map_err(engine_error)?;
    writing.commit().map_err(engine_error)
}

fn io_error(error: io::Error) -> OpenError {
    engine_error(redb::Error::Io(error))
}

fn table_error(error: TableError) -> OpenError {
    match error {
        TableError::Storage(error) => engine_error(error),
        other => OpenError::Foreign(other.into()),
    }
}

/// Runs something in the engine, which may panic over a file that was damaged
/// since it was checked, or in a backend of the caller's. What it leaves behind is the engine's, and is either
/// consistent or refuses service.
pub(crate) fn guarded<T, E>(
    run: impl FnOnce() -> Result<T, E>,
    error: impl FnOnce(redb::Error) -> E,
) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Err(error(panicked(&*panic))))
}
