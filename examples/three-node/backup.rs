//! Backups of a node's directory, and the way back.

use std::collections::VecDeque;
use std::error::Error;
use std::fs::{self, File};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use kvquorum_core::{
    Change, Key, Record, Replica, Request, Response, ScanLimit, Store, StoreError, Timestamp, Told,
    Transport, TransportError, Version, WithCauses,
};
use kvquorum_redb::RedbStore;
use tokio::task::JoinSet;

#[derive(clap::Args)]
pub(crate) struct Backup {
    /// The directory of a node that is not running
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// The directory that the backup is made in, which must not exist
    to: PathBuf,
}

#[derive(clap::Args)]
pub(crate) struct Restore {
    /// The directory for the new node, which must not exist
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// Backups: of each key the greatest entry and promise among them are taken. What is
    /// older than the deletes that any of them has collected counts only from that one
    #[arg(required = true, value_name = "BACKUP")]
    from: Vec<PathBuf>,
}

pub(crate) async fn backup(arguments: Backup) -> Result<(), Box<dyn Error>> {
    let store = RedbStore::open(&arguments.data).await?;
    store.backup(&arguments.to).await?;
    Ok(store.close().await?)
}

/// Backs a store up that serves, under a name of its own.
pub(crate) async fn backup_into(store: &RedbStore, directory: &Path) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let name = now.map_or(0, |now| now.as_millis()).to_string();
    let path = directory.join(name);
    match store.backup(&path).await {
        Ok(()) => tracing::info!(path = %path.display(), "a backup was made"),
        Err(error) => {
            let error = WithCauses(&error).to_string();
            tracing::error!(path = %path.display(), error, "a backup was not made");
        }
    }
}

/// Fills a new replica from backups. It has an id of its own, and is joining: it copies what
/// its backups do not have before it answers.
pub(crate) async fn restore(arguments: Restore) -> Result<(), Box<dyn Error>> {
    let Restore { data, from } = arguments;
    if data.exists() {
        return Err(format!("there is something at {} already", data.display()).into());
    }
    let mut backups = Vec::new();
    for path in from {
        backups.push(Reading::new(RedbStore::open(path).await?).await?);
    }
    let collected = backups.iter().map(|it| it.collected).max();
    let collected = collected.unwrap_or(Timestamp::MIN);
    // Under another name until it is whole: a part of it is no replica.
    let unfinished = data.with_extension("unfinished");
    let store = Arc::new(RedbStore::create_new(&unfinished).await?);
    // Together, so that they share flushes.
    let mut changes = JoinSet::new();
    while let Some((key, records)) = next(&mut backups).await? {
        let store = Arc::clone(&store);
        changes.spawn(async move { put(&store, &key, &records, collected).await });
        if changes.len() >= AT_ONCE
            && let Some(put) = changes.join_next().await
        {
            put??;
        }
    }
    for put in changes.join_all().await {
        put?;
    }
    // What its store is to keep of it, is kept from here on: also where the first start
    // is one that would take an empty store for that of a new cluster.
    Replica::new(Arc::clone(&store)).readiness().await?;
    store.close().await?;
    fs::rename(&unfinished, &data)?;
    let parent = data.parent().filter(|it| !it.as_os_str().is_empty());
    // Where a directory cannot be flushed, as on Windows, the system sees to it.
    let _ = File::open(parent.unwrap_or(Path::new("."))).and_then(|it| it.sync_all());
    Ok(())
}

/// A page of a backup, in memory at once.
const PAGE: ScanLimit = ScanLimit::keys(1024).with_max_bytes(16 << 20);

/// How many keys are restored at the same time.
const AT_ONCE: usize = 1024;

/// A backup, read in the order of its keys.
struct Reading {
    store: Arc<RedbStore>,
    /// Up to when its replica has forgotten what was deleted.
    collected: Timestamp,
    page: VecDeque<(Key, Record)>,
    last: Key,
    is_read: bool,
}

impl Reading {
    async fn new(store: RedbStore) -> Result<Self, TransportError> {
        let store = Arc::new(store);
        Ok(Self {
            collected: collected(Arc::clone(&store)).await?,
            store,
            page: VecDeque::new(),
            // Under the empty key a replica keeps who it is, and that is not restored.
            last: Key::from(""),
            is_read: false,
        })
    }

    async fn key(&mut self) -> Result<Option<&Key>, StoreError> {
        if self.page.is_empty() && !self.is_read {
            let rest = (Bound::Excluded(&self.last), Bound::Unbounded);
            self.page = self.store.scan(rest, PAGE).await?.into();
            match self.page.back() {
                Some((key, _)) => self.last = key.clone(),
                None => self.is_read = true,
            }
        }
        Ok(self.page.front().map(|(key, _)| key))
    }
}

/// The mark that a replica has kept in its store.
async fn collected(store: Arc<RedbStore>) -> Result<Timestamp, TransportError> {
    // Else asking would have it begin.
    if store.get(&Key::from("")).await?.is_none() {
        return Ok(Timestamp::MIN);
    }
    let replica = Replica::new(store);
    Ok(match replica.call(&Request::status()).await? {
        Response::Told(told) => match *told {
            Told::Status(status) => status.marks.collected,
            _ => Timestamp::MIN,
        },
        _ => Timestamp::MIN,
    })
}

/// What a backup holds under a key, and what its replica has collected.
type Found = (Record, Timestamp);

/// The next key of all backups, and what each holds under it.
async fn next(backups: &mut [Reading]) -> Result<Option<(Key, Vec<Found>)>, StoreError> {
    let mut first: Option<Key> = None;
    for backup in &mut *backups {
        if let Some(key) = backup.key().await?
            && first.as_ref().is_none_or(|first| key < first)
        {
            first = Some(key.clone());
        }
    }
    let Some(first) = first else {
        return Ok(None);
    };
    let records = backups.iter_mut().filter_map(|backup| {
        backup.page.front().filter(|(key, _)| *key == first)?;
        let (_, record) = backup.page.pop_front()?;
        Some((record, backup.collected))
    });
    let records = records.collect();
    Ok(Some((first, records)))
}

/// Puts the greatest entry and the greatest promise there, of those that count: what is
/// older than what was collected may have been deleted, and forgotten (rule G-VOID). The
/// lesser of the two comes first, as each would keep a lesser one out.
async fn put(
    store: &RedbStore,
    key: &Key,
    records: &[Found],
    collected: Timestamp,
) -> Result<(), StoreError> {
    let counts =
        |version: Version, at: Timestamp| at == collected || version.timestamp >= collected;
    let entries = records.iter().filter_map(|(record, at)| {
        let entry = record.entry()?;
        counts(entry.version, *at).then_some(entry)
    });
    let promises = records.iter().filter_map(|(record, at)| {
        let promise = record.anchor()?;
        counts(promise, *at).then_some(promise)
    });
    let (entry, promise) = (entries.max(), promises.max());
    let is_promise_first = promise <= entry.as_ref().map(|entry| entry.version);
    let entry = entry.map(Change::write);
    let promise = promise.map(Change::prepare);
    let changes = match is_promise_first {
        true => [promise, entry],
        false => [entry, promise],
    };
    for change in changes.into_iter().flatten() {
        store.apply(key, change).await?;
    }
    Ok(())
}
