//! The node side: the one door to a store.

mod fingerprints;
mod known;
mod limits;
mod marks;
mod records;
mod scan;
mod sweep;

use std::sync::Arc;

use known::{Known, State};
pub use limits::Limits;
pub use marks::Readiness;
use records::Work;

use crate::clock::{SystemClock, WallClock, whole_millis};
use crate::coordinator::PassReport;
use crate::entry::{Entry, Key, Timestamp, Version};
use crate::identity::ReplicaId;
use crate::marks::Era;
use crate::record::Record;
use crate::request::{Held, Refusal, Request, RequestKind, Response};
use crate::rules::{Ahead, Change, Floors, MarksChange};
use crate::store::{Store, StoreError};
use crate::told::LastPass;
use crate::transport::{Call, Transport, TransportError};

/// The node side of the map: admits requests and applies them to its store.
///
/// It is itself a [`Transport`], so that an application which hosts its own
/// copy hands it to a coordinator beside links to remote replicas: the call is
/// then just a function call. Clones share the store.
///
/// ```
/// # use kvquorum_core::{Coordinator, Limits, Replica, Store};
/// # async fn example<S: Store + Default>() -> Result<(), Box<dyn std::error::Error>> {
/// let small = Limits::default().max_value_len(1024);
/// let replicas = ["a", "b", "c"]
///     .map(|name| Replica::new(S::default()).with_name(name).with_limits(small));
/// let map = Coordinator::<3, 2, 2, _>::new(replicas.clone());
/// map.put("greeting", "hello").await?;
/// let [own, ..] = &replicas;
/// println!("{} holds {:?}", own.name(), own.store().get(&"greeting".into()).await?);
/// # Ok(()) }
/// # use kvquorum_core::Transport;
/// ```
pub struct Replica<S> {
    store: Arc<S>,
    limits: Limits,
    /// That of the limits.
    max_drift_millis: u64,
    wall: Arc<dyn WallClock>,
    name: Arc<str>,
    cluster: Option<Arc<str>>,
    new_id: Option<ReplicaId>,
    is_new_cluster: bool,
    known: Arc<Known>,
    /// Those of [`Known`].
    floors: Arc<Floors>,
}

impl<S: Store> Replica<S> {
    /// A replica over a store, with the default [`Limits`] and the system's
    /// clock, named `"local"`. Where one process has several, give them
    /// [names](Self::with_name) to be told apart by.
    pub fn new(store: S) -> Self {
        let (limits, floors) = (Limits::default(), Arc::default());
        Self {
            store: Arc::new(store),
            limits,
            max_drift_millis: whole_millis(limits.max_drift),
            wall: Arc::new(SystemClock),
            name: "local".into(),
            cluster: None,
            new_id: None,
            is_new_cluster: false,
            known: Arc::new(Known::new(&floors)),
            floors,
        }
    }

    /// Sets what the replica admits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self.max_drift_millis = whole_millis(limits.max_drift);
        self
    }

    /// Sets the clock that entries are held against (rule C-DRIFT).
    #[must_use]
    pub fn with_wall_clock(mut self, wall: impl WallClock) -> Self {
        self.wall = Arc::new(wall);
        self
    }

    /// Sets the name that a coordinator in this process reports it by.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into().into();
        self
    }

    /// Sets the name of the cluster that the replica belongs to. A coordinator that
    /// was given [another](crate::CoordinatorBuilder::cluster) does not count it.
    #[must_use]
    pub fn with_cluster(mut self, name: impl Into<String>) -> Self {
        self.cluster = Some(name.into().into());
        self
    }

    /// Sets the id that the replica takes where its store keeps none yet. Random by
    /// default.
    #[must_use]
    pub fn with_id(mut self, id: ReplicaId) -> Self {
        self.new_id = Some(id);
        self
    }

    /// Says that the cluster is new, and an empty store has lost nothing: the replica
    /// answers at once. Else it waits until all replicas of a coordinator find each other
    /// new, or until one has it [rejoin](crate::Coordinator::rejoin). Said of a replica
    /// that lost its data, it breaks the promises of the map.
    #[must_use]
    pub fn of_new_cluster(mut self) -> Self {
        self.is_new_cluster = true;
        self
    }

    /// The replica as it is when its process has started again: over the same store, and
    /// with nothing else but its settings. If the store has been emptied meanwhile, its
    /// data are lost, whatever was [said](Self::of_new_cluster) of the cluster before.
    #[must_use]
    pub fn restarted(&self) -> Self {
        let floors = Arc::default();
        Self {
            is_new_cluster: false,
            known: Arc::new(Known::new(&floors)),
            floors,
            ..self.clone()
        }
    }

    /// The replica's store. What is applied to it directly bypasses all checks.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// What this replica admits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Tells the replica that a read or a write came, so that passes and collections give
    /// way to it, whoever's they are. It is for servers. What a coordinator in this process
    /// sends to the replica, that coordinator gives way to by itself.
    pub fn count_served(&self) {
        self.known.count_served();
    }

    /// Tells the replica that a pass has ended beside it, for who
    /// [asks](RequestKind::Status).
    pub fn tell_pass(&self, report: &PassReport) {
        let ended_millis = self.wall.now_millis();
        self.known.tell_pass(LastPass {
            ended_millis,
            keys: report.progress.keys,
            differing: report.progress.differing,
            repaired: report.progress.repaired.clone(),
            is_complete: report.is_complete(),
        });
        if let Some(collection) = &report.collection {
            let failure = collection.as_ref().err();
            self.known.tell_collection(failure, ended_millis);
        }
    }

    #[inline(always)]
    fn read(&self, key: &Key, state: State) -> Call {
        if let Err(refusal) = self.admit_key(key) {
            return refused(refusal);
        }
        let collected = self.floors.collected();
        if let Some(result) = self.store.try_get(key) {
            if !self.known.is_still(state) {
                return self.too_late();
            }
            // Else what was read may be from before what is collected now.
            if self.floors.collected() == collected {
                return Call::Ready(held(result, collected));
            }
        }
        self.read_later(key.clone(), state)
    }

    fn read_later(&self, key: Key, state: State) -> Call {
        let replica = self.clone();
        self.later(state, async move {
            let (record, collected) = replica.as_collected(|| replica.store.get(&key)).await;
            held(record, collected)
        })
    }

    /// What reading brings back, and the mark that was in force all the time: what was
    /// read before a collection must not be told under the mark of that, nor what was
    /// read after it without.
    async fn as_collected<A, F: Future<Output = A>>(&self, read: impl Fn() -> F) -> (A, Timestamp) {
        loop {
            let collected = self.floors.collected();
            let it = read().await;
            if self.floors.collected() == collected {
                return (it, collected);
            }
        }
    }

    #[inline(always)]
    fn write(&self, key: &Key, entry: &Entry, state: State) -> Call {
        if let Err(refusal) = self.admit(key, entry) {
            return refused(refusal);
        }
        let ahead = self.ahead(entry.version);
        let change = Change::write_within(entry, ahead).under(&self.floors);
        self.change(key, change, state)
    }

    fn repair(&self, key: &Key, entry: &Entry, state: State) -> Call {
        if let Err(refusal) = self.admit(key, entry) {
            return refused(refusal);
        }
        let ahead = self.ahead(entry.version);
        let change = Change::repair(entry, ahead).under(&self.floors);
        self.change(key, change, state)
    }

    /// What is copied to a replica that is joining.
    fn copy(&self, key: &Key, record: &Record, era: Era, state: State) -> Call {
        let admitted = match record.entry() {
            Some(entry) => self.admit(key, &entry),
            None => self.admit_key(key),
        };
        if let Err(refusal) = admitted {
            return refused(refusal);
        }
        let change = Change::copy(record.clone(), era).under(&self.floors);
        self.change(key, change, state)
    }

    fn prepare(&self, key: &Key, ballot: Version, state: State) -> Call {
        if let Err(refusal) = self.admit_key(key) {
            return refused(refusal);
        }
        let ahead = self.ahead(ballot);
        let change = Change::prepare_within(ballot, ahead).under(&self.floors);
        self.change(key, change, state)
    }

    // In place: it moves the change in and the response out.
    #[inline(always)]
    fn change(&self, key: &Key, change: Change<'_>, state: State) -> Call {
        let change = match self.store.try_apply(key, change) {
            Ok(result) => {
                if !self.known.is_still(state) {
                    return self.too_late();
                }
                return Call::Ready(result.map_err(TransportError::Store));
            }
            Err(change) => change.into_owned(),
        };
        let (store, key) = (Arc::clone(&self.store), key.clone());
        self.later(state, async move {
            let result = store.apply(&key, change).await;
            result.map_err(TransportError::Store)
        })
    }

    /// Does what is asked.
    #[inline(always)]
    fn serve(&self, request: &Request, state: State) -> Call {
        match &request.kind {
            RequestKind::Read { key } => self.read(key, state),
            RequestKind::Write { key, entry } => self.write(key, entry, state),
            RequestKind::Repair { key, entry } => self.repair(key, entry, state),
            RequestKind::Prepare { key, ballot } => self.prepare(key, *ballot, state),
            RequestKind::Identify { quorums } => self.identify(*quorums),
            RequestKind::Status => self.status(),
            RequestKind::Scan {
                range,
                max_keys,
                max_bytes,
            } => self.scan(range.clone(), self.page(*max_keys, *max_bytes), state),
            RequestKind::Records {
                range,
                max_keys,
                max_bytes,
            } => self.records(range.clone(), self.page(*max_keys, *max_bytes), state),
            RequestKind::Fingerprint(asked) => self.fingerprint((**asked).clone(), state),
            RequestKind::Versions(asked) => self.versions((**asked).clone(), state),
            RequestKind::Announce { era } => self.change_marks(MarksChange::Announce(*era)),
            RequestKind::Forget { .. }
            | RequestKind::Join { .. }
            | RequestKind::Copy { .. }
            | RequestKind::Open { .. } => self.join(request, state),
            RequestKind::Seal { to } => self.seal(*to),
            RequestKind::Collect { to, boot } => self.collect(*to, *boot),
            RequestKind::Sweep {
                range,
                max_keys,
                expired_by,
            } => {
                let work = Work::new(&self.limits, *max_keys, u64::MAX);
                self.sweep(range.clone(), work, *expired_by, state)
            }
        }
    }

    fn admit(&self, key: &Key, entry: &Entry) -> Result<(), Refusal> {
        self.admit_key(key).and_then(|()| self.admit_value(entry))
    }

    fn admit_key(&self, key: &Key) -> Result<(), Refusal> {
        if key.is_empty() {
            return Err(Refusal::EmptyKey);
        }
        if key.len() > self.limits.max_key_len {
            return Err(Refusal::KeyTooLong {
                len: key.len() as u64,
                max: self.limits.max_key_len as u64,
            });
        }
        Ok(())
    }

    fn admit_value(&self, entry: &Entry) -> Result<(), Refusal> {
        let len = entry.value.as_ref().map_or(0, |value| value.len());
        if len > self.limits.max_value_len {
            return Err(Refusal::ValueTooLarge {
                len: len as u64,
                max: self.limits.max_value_len as u64,
            });
        }
        Ok(())
    }

    /// If a version is further ahead than this replica admits: by how much it may be,
    /// and what the clock reads.
    #[inline(always)]
    fn ahead(&self, version: Version) -> Option<Ahead> {
        self.ahead_of(version.timestamp)
    }

    #[inline(always)]
    fn ahead_of(&self, timestamp: Timestamp) -> Option<Ahead> {
        let max_drift_millis = self.max_drift_millis;
        let millis = timestamp.millis();
        let is_admitted_at = |now: u64| millis <= now.saturating_add(max_drift_millis);
        // What was admitted a moment ago is admitted now.
        if is_admitted_at(self.wall.lately_millis()) {
            return None;
        }
        let now_millis = self.wall.now_millis();
        (!is_admitted_at(now_millis)).then_some(Ahead {
            timestamp,
            now_millis,
            max_drift_millis,
        })
    }
}

#[inline(always)]
fn held(
    result: Result<Option<Record>, StoreError>,
    collected: Timestamp,
) -> Result<Response, TransportError> {
    let record = result.map_err(TransportError::Store)?;
    let record = match record {
        Some(record) if !record.is_only_value() => record.counting(collected),
        record => record,
    };
    let entry = record.and_then(Record::into_entry);
    Ok(Response::Entry(Held { entry, collected }))
}

fn refused(refusal: Refusal) -> Call {
    Call::Ready(Ok(Response::Refused(refusal)))
}

impl<S: Store> Transport for Replica<S> {
    fn call(&self, request: &Request) -> Call {
        match self.known.state().admits(request.era) {
            Some(state) if self.known.is(request.to) => self.serve(request, state),
            _ => self.call_otherwise(request),
        }
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl<S> Clone for Replica<S> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            limits: self.limits,
            max_drift_millis: self.max_drift_millis,
            wall: Arc::clone(&self.wall),
            name: Arc::clone(&self.name),
            cluster: self.cluster.clone(),
            new_id: self.new_id,
            is_new_cluster: self.is_new_cluster,
            known: Arc::clone(&self.known),
            floors: Arc::clone(&self.floors),
        }
    }
}

impl<S> std::fmt::Debug for Replica<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica")
            .field("name", &self.name)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
