//! Records in a directory, a file for each key.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvquorum_core::{Bytes, ConditionalWrite, Key, ScanLimit, StoreError};
use rustix::fs::{FlockOperation, flock};
use xxhash_rust::xxh3::xxh3_128;

use super::{Held, Range, off_thread, page};

/// A file is named by its key's hash, since keys can be longer than names, and holds a
/// version, the key's length, the key, and the record. It is replaced by
/// `rename`, and so is always whole.
///
/// The file `lock` keeps processes and threads apart, and holds the last version that
/// was given out: one counter for the directory, so that no version comes twice when a
/// key is removed and written again. Readers lock it too, so that they see nothing
/// that has not been flushed.
#[derive(Clone)]
pub(crate) struct Files {
    directory: Arc<Path>,
    /// Bug: it replaces whatever is held.
    pub(crate) ignores_tags: bool,
}

const LOCK: &str = "lock";
const TEMPORARY: &str = "temporary";

/// What is in a file.
struct Kept {
    version: u64,
    key: Key,
    record: Bytes,
}

impl Kept {
    fn read(path: &Path) -> io::Result<Option<Self>> {
        let mut bytes = match fs::read(path) {
            Ok(bytes) => Bytes::from(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a damaged file");
        let mut number = || {
            let (head, rest) = bytes.split_first_chunk().ok_or_else(damaged)?;
            let (number, rest) = (u64::from_be_bytes(*head), bytes.slice_ref(rest));
            bytes = rest;
            io::Result::Ok(number)
        };
        let (version, key_len) = (number()?, number()?);
        let key_len = usize::try_from(key_len).map_err(|_| damaged())?;
        if bytes.len() < key_len {
            return Err(damaged());
        }
        let record = bytes.split_off(key_len);
        Ok(Some(Self {
            version,
            key: bytes.into(),
            record,
        }))
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(&self.version.to_be_bytes())?;
        file.write_all(&(self.key.len() as u64).to_be_bytes())?;
        file.write_all(self.key.as_bytes())?;
        file.write_all(&self.record)?;
        file.sync_all()
    }
}

impl Files {
    pub(crate) fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into().into(),
            ignores_tags: false,
        }
    }

    fn path(&self, key: &Key) -> PathBuf {
        let name = format!("{:032x}", xxh3_128(key.as_bytes()));
        self.directory.join(name)
    }

    /// Locked until it is closed.
    fn lock(&self, operation: FlockOperation) -> io::Result<File> {
        let path = self.directory.join(LOCK);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)?;
        flock(&file, operation)?;
        Ok(file)
    }

    fn read(&self, key: &Key) -> io::Result<Option<(Bytes, u64)>> {
        let _locked = self.lock(FlockOperation::LockShared)?;
        let kept = Kept::read(&self.path(key))?;
        Ok(kept.map(|kept| (kept.record, kept.version)))
    }

    fn replace(&self, key: Key, expected: Option<u64>, record: Option<Bytes>) -> io::Result<bool> {
        let mut counter = self.lock(FlockOperation::LockExclusive)?;
        let path = self.path(&key);
        let held = Kept::read(&path)?.map(|kept| kept.version);
        if held != expected && !self.ignores_tags {
            return Ok(false);
        }
        match record {
            Some(record) => {
                let version = next(&mut counter)?;
                let temporary = self.directory.join(TEMPORARY);
                let kept = Kept {
                    version,
                    key,
                    record,
                };
                kept.write(&temporary)?;
                fs::rename(temporary, path)?;
            }
            None => fs::remove_file(path)?,
        }
        File::open(&self.directory)?.sync_all()?;
        Ok(true)
    }

    fn list(&self, range: &Range) -> io::Result<Vec<Held>> {
        let _locked = self.lock(FlockOperation::LockShared)?;
        let mut all = Vec::new();
        for file in fs::read_dir(&self.directory)? {
            let file = file?;
            if [LOCK, TEMPORARY]
                .iter()
                .any(|name| file.file_name() == *name)
            {
                continue;
            }
            let kept = Kept::read(&file.path())?;
            all.extend(kept.map(|kept| (kept.key, kept.record)));
        }
        all.retain(|(key, _)| range.contains(key));
        all.sort_by(|(key, _), (other, _)| key.cmp(other));
        Ok(all)
    }
}

/// Counts on. What is counted need not be flushed: versions are compared with those
/// that processes remember, and none of these outlives the machine.
fn next(counter: &mut File) -> io::Result<u64> {
    let mut bytes = [0; 8];
    let last = match counter.read_exact(&mut bytes) {
        Ok(()) => u64::from_be_bytes(bytes),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
        Err(error) => return Err(error),
    };
    counter.seek(SeekFrom::Start(0))?;
    counter.write_all(&(last + 1).to_be_bytes())?;
    Ok(last + 1)
}

impl ConditionalWrite for Files {
    type Tag = u64;

    async fn load(&self, key: &Key) -> Result<Option<(Bytes, u64)>, StoreError> {
        let (files, key) = (self.clone(), key.clone());
        off_thread(move || files.read(&key).map_err(StoreError::new)).await
    }

    async fn swap(
        &self,
        key: &Key,
        expected: Option<u64>,
        record: Option<Bytes>,
    ) -> Result<bool, StoreError> {
        let (files, key) = (self.clone(), key.clone());
        off_thread(move || {
            let swapped = files.replace(key, expected, record);
            swapped.map_err(StoreError::new)
        })
        .await
    }

    async fn scan(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        limit: ScanLimit,
    ) -> Result<Vec<Held>, StoreError> {
        let (files, range) = (self.clone(), (range.0.cloned(), range.1.cloned()));
        off_thread(move || {
            let all = files.list(&range).map_err(StoreError::new)?;
            page(all.into_iter().map(Ok), limit)
        })
        .await
    }
}
