//! Registers: typed values whose operations are linearizable.

mod result;

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use result::{Swap, Updated};

use crate::coordinator::{Bounds, Coordinator, Done, Edit, Left, UpdateError, is_overtaken};
use crate::entry::{Entry, Key, Version};
use crate::map::{Codec, Json, Map, MapError};
use crate::transport::Transport;

#[doc = include_str!("registers.md")]
pub struct Registers<
    K: ?Sized,
    V,
    const N: usize,
    const W: usize,
    const R: usize,
    T = Arc<dyn Transport>,
    C = Json,
> {
    map: Map<K, V, N, W, R, T, C>,
    bounds: Bounds,
}

impl<const N: usize, const W: usize, const R: usize, T: Transport> Coordinator<N, W, R, T> {
    /// The registers of this name, in JSON: the keys of [`map`](Self::map) of the same
    /// name, with operations that are linearizable.
    ///
    /// It does not compile without `R + W > N` and `2 W > N`.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use kvquorum_core::{Coordinator, Registers, Transport};
    /// fn hits(replicas: [Arc<dyn Transport>; 3]) -> Registers<str, u64, 3, 2, 2> {
    ///     Coordinator::new(replicas).registers("hits")
    /// }
    /// ```
    #[cfg(feature = "json")]
    pub fn registers<K: ?Sized, V>(&self, name: &str) -> Registers<K, V, N, W, R, T> {
        let () = Self::UPDATES_ARE_SAFE;
        self.registers_with(name, Json)
    }

    /// The registers of this name, with another codec: see
    /// [`registers`](Self::registers) and [`map_with`](Self::map_with).
    pub fn registers_with<K: ?Sized, V, C: Codec>(
        &self,
        name: &str,
        codec: C,
    ) -> Registers<K, V, N, W, R, T, C> {
        let () = Self::UPDATES_ARE_SAFE;
        Registers {
            map: self.map_with(name, codec),
            bounds: Bounds::DEFAULT,
        }
    }

    /// Updates a key of the coordinator's own by its bytes: what
    /// [`Registers::update`] is for values of a type, with the same promises, and the
    /// default bounds. Of a change that keeps what there is comes a linearizable read.
    ///
    /// It does not compile without `R + W > N` and `2 W > N`.
    ///
    /// ```
    /// # use kvquorum_core::{Coordinator, Edit, Replica, UpdateError};
    /// # use kvquorum_mem::MemStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), UpdateError> {
    /// # let replicas = [(); 3].map(|()| Replica::new(MemStore::new()));
    /// let map = Coordinator::<3, 2, 2, _>::new(replicas);
    /// let taken = map.update("lock", |held| match held {
    ///     None => Edit::Put("mine".into()),
    ///     Some(_) => Edit::Keep,
    /// });
    /// assert_eq!(taken.await?.before(), None);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`UpdateError`] says whether it may have been applied.
    pub fn update(
        &self,
        key: impl Into<Key>,
        mut change: impl FnMut(Option<&Bytes>) -> Edit<Bytes>,
    ) -> impl Future<Output = Result<Updated<Bytes>, UpdateError>> {
        // Not in the future, so that the compiler names the line that calls it.
        let () = Self::UPDATES_ARE_SAFE;
        let key = key.into();
        async move {
            let edit = |held: Option<&Entry>| {
                let held = self.live(held);
                let before = held.and_then(|held| held.value.as_ref());
                let edit = change(before);
                (edit.clone().leaves(held), (before.cloned(), edit))
            };
            let done = self.update_within(key, Bounds::DEFAULT, edit);
            let (done, (before, edit)) = done.await?;
            Ok(Updated::new(before, edit, done.entry, done.attempts))
        }
    }

    /// An entry, unless it has expired (rule X-HIDE).
    fn live<'a>(&self, entry: Option<&'a Entry>) -> Option<&'a Entry> {
        entry.filter(|entry| !entry.has_expired(self.now_millis()))
    }
}

impl<K: ?Sized, V, const N: usize, const W: usize, const R: usize, T, C>
    Registers<K, V, N, W, R, T, C>
{
    /// How many attempts an update makes at the most, the first included, when others
    /// overtake it, or when it has to find out what became of it. 100 by default; 0
    /// is taken for 1.
    #[must_use]
    pub fn with_max_attempts(mut self, max: u32) -> Self {
        self.bounds.max_attempts = max.max(1);
        self
    }

    /// For how long an update begins further attempts, the wait for its turn (L-FAIR)
    /// included. 10 seconds by default. The last of them may take two
    /// [time limits](crate::CoordinatorBuilder::time_limit) of a call longer. Between
    /// attempts it waits for a time that is drawn at random, of which the bound
    /// doubles each time, up to a quarter of a second.
    #[must_use]
    pub fn with_time_limit(mut self, time_limit: Duration) -> Self {
        self.bounds.time_limit = time_limit;
        self
    }

    /// The map of the same name: the same keys, with operations that are cheaper and
    /// promise less.
    pub fn map(&self) -> &Map<K, V, N, W, R, T, C> {
        &self.map
    }
}

impl<K, V, const N: usize, const W: usize, const R: usize, T, C> Registers<K, V, N, W, R, T, C>
where
    K: Serialize + Ord + ToOwned<Owned: DeserializeOwned> + ?Sized,
    V: Serialize + DeserializeOwned + PartialEq,
    T: Transport,
    C: Codec,
{
    /// Reads the value of a register; `None` where there is none.
    ///
    /// One round trip where W of the R replicas that answer first hold the same, and
    /// else another one, to bring it to W; or three, where the promise of an update
    /// that never came to its end is in the way.
    ///
    /// # Errors
    ///
    /// [`MapError::Read`] where too few replicas answered, or could be brought to
    /// hold what was found; [`MapError::EncodeKey`] and [`MapError::Decode`] as
    /// [`Map::get`].
    pub async fn get<Q>(&self, key: &Q) -> Result<Option<V>, MapError>
    where
        K: Borrow<Q>,
        Q: Serialize + Ord + ?Sized,
    {
        Ok(self.get_with_version(key).await?.0)
    }

    /// As [`get`](Self::get), with the version under which the value is held (rule
    /// L-VERSION); `None` where the register was never written.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn get_with_version<Q>(
        &self,
        key: &Q,
    ) -> Result<(Option<V>, Option<Version>), MapError>
    where
        K: Borrow<Q>,
        Q: Serialize + Ord + ?Sized,
    {
        let coordinator = self.map.coordinator();
        let entry = match coordinator.get_agreed(self.map.encode_key(key)?).await {
            Ok(entry) => entry,
            Err(error) if is_overtaken(&error) => {
                // What is rare is kept out of the way of what is usual: to clone the key
                // before, and to have room for an update, costs each get.
                let key = self.map.encode_key(key)?;
                Box::pin(coordinator.settle(key, self.bounds, error)).await?
            }
            Err(error) => return Err(error.into()),
        };
        let version = entry.as_ref().map(|entry| entry.version);
        let live = coordinator.live(entry.as_ref());
        let value = live.and_then(|entry| entry.value.as_ref());
        Ok((self.decode(value)?, version))
    }

    /// Writes a value, whatever there was, and returns its version: two round trips.
    ///
    /// # Errors
    ///
    /// [`MapError::Update`]; [`MapError::EncodeKey`] and [`MapError::EncodeValue`] as
    /// [`Map::put`].
    pub async fn put<Q>(&self, key: &Q, value: &V) -> Result<Version, MapError>
    where
        K: Borrow<Q>,
        Q: Serialize + Ord + ?Sized,
    {
        let value = Bytes::from(self.map.encode_value(value)?);
        self.write(self.map.encode_key(key)?, Some(value)).await
    }

    /// Deletes a value, whether or not there is one, and returns the version of the
    /// tombstone: two round trips.
    ///
    /// # Errors
    ///
    /// [`MapError::Update`]; [`MapError::EncodeKey`] as [`Map::put`].
    pub async fn delete<Q>(&self, key: &Q) -> Result<Version, MapError>
    where
        K: Borrow<Q>,
        Q: Serialize + Ord + ?Sized,
    {
        self.write(self.map.encode_key(key)?, None).await
    }

    async fn write(&self, key: Key, value: Option<Bytes>) -> Result<Version, MapError> {
        let coordinator = self.map.coordinator();
        let left = Left {
            value,
            expires_millis: None,
        };
        let edit = |_: Option<&Entry>| (Some(left.clone()), ());
        let (done, ()) = coordinator.update_within(key, self.bounds, edit).await?;
        Ok(done.ballot)
    }

    /// Changes a value by what it is: a counter, a flag, a list that grows. Two round
    /// trips, and more where others update the same register at the same time.
    ///
    /// `change` is told the value, or `None` where there is none, and says what
    /// becomes of it. It may run several times, each time with another value, and its
    /// last run need not be the one that counts: it should do nothing else. What it
    /// found and left in the one that counts is in the [`Updated`].
    ///
    /// A value that is put in place of one that
    /// [expires](crate::Coordinator::put_with_ttl) does so at the same time. One that has
    /// expired, by this coordinator's clock, is none.
    ///
    /// ```
    /// # use kvquorum_core::{Coordinator, Edit, MapError, Replica};
    /// # use kvquorum_mem::MemStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), MapError> {
    /// # let replicas = [(); 3].map(|()| Replica::new(MemStore::new()));
    /// let hits = Coordinator::<3, 2, 2, _>::new(replicas).registers::<str, u64>("hits");
    /// let count = |old: Option<&u64>| Edit::Put(old.map_or(1, |old| old + 1));
    /// hits.update("home", count).await?;
    /// let updated = hits.update("home", count).await?;
    /// assert_eq!((updated.before(), updated.after()), (Some(&1), Some(&2)));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`MapError::Update`]; [`MapError::EncodeKey`] and [`MapError::EncodeValue`] as
    /// [`Map::put`]; [`MapError::Decode`] where what is stored is no such value. But
    /// for the first, it was not applied.
    pub async fn update<Q>(
        &self,
        key: &Q,
        mut change: impl FnMut(Option<&V>) -> Edit<V>,
    ) -> Result<Updated<V>, MapError>
    where
        K: Borrow<Q>,
        Q: Serialize + Ord + ?Sized,
    {
        self.update_with(key, |before| {
            let edit = change(before.as_ref());
            let encoded = match &edit {
                Edit::Put(value) => Edit::Put(self.map.encode_value(value)?.into()),
                Edit::Delete => Edit::Delete,
                Edit::Keep => Edit::Keep,
            };
            Ok((encoded, (before, edit)))
        })
        .await
        .map(|(done, (before, edit))| Updated::new(before, edit, done.entry, done.attempts))
    }

    /// Writes `new` if the value equals `expected`, where `None` means that there is
    /// none; else it changes nothing, and tells what there is.
    ///
    /// ```
    /// # use kvquorum_core::{Coordinator, MapError, Replica, Swap};
    /// # use kvquorum_mem::MemStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), MapError> {
    /// # let replicas = [(); 3].map(|()| Replica::new(MemStore::new()));
    /// let ages = Coordinator::<3, 2, 2, _>::new(replicas).registers::<str, u8>("ages");
    /// ages.put("alice", &34).await?;
    /// assert!(ages.compare_and_set("alice", Some(&34), &35).await?.is_swapped());
    /// let swap = ages.compare_and_set("alice", Some(&34), &35).await?;
    /// assert!(matches!(swap, Swap::Differs { current: Some(35), .. }));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`update`](Self::update).
    pub async fn compare_and_set<Q>(
        &self,
        key: &Q,
        expected: Option<&V>,
        new: &V,
    ) -> Result<Swap<V>, MapError>
    where
        K: Borrow<Q>,
        Q: Serialize + Ord + ?Sized,
    {
        let new = Bytes::from(self.map.encode_value(new)?);
        let swapped = self.update_with(key, |before| {
            Ok(if before.as_ref() == expected {
                (Edit::Put(new.clone()), None)
            } else {
                (Edit::Keep, Some(before))
            })
        });
        let (done, differs) = swapped.await?;
        Ok(match differs {
            None => Swap::Swapped {
                version: done.ballot,
            },
            Some(current) => Swap::Differs {
                current,
                version: done.entry.map(|entry| entry.version),
            },
        })
    }

    /// Writes a value only where there is none:
    /// [`compare_and_set`](Self::compare_and_set) of `None`.
    ///
    /// # Errors
    ///
    /// As [`update`](Self::update).
    pub async fn create<Q>(&self, key: &Q, value: &V) -> Result<Swap<V>, MapError>
    where
        K: Borrow<Q>,
        Q: Serialize + Ord + ?Sized,
    {
        self.compare_and_set(key, None, value).await
    }

    /// An update of the value. What `edit` tells besides is that of the attempt that
    /// counts; where it fails, the value is kept, and so the update is not half done.
    async fn update_with<Q, O>(
        &self,
        key: &Q,
        mut edit: impl FnMut(Option<V>) -> Result<(Edit<Bytes>, O), MapError>,
    ) -> Result<(Done, O), MapError>
    where
        K: Borrow<Q>,
        Q: Serialize + Ord + ?Sized,
    {
        let key = self.map.encode_key(key)?;
        let coordinator = self.map.coordinator();
        let edit = |held: Option<&Entry>| {
            let held = coordinator.live(held);
            let value = held.and_then(|held| held.value.as_ref());
            match self.decode(value).and_then(&mut edit) {
                Ok((edit, told)) => (edit.leaves(held), Ok(told)),
                Err(error) => (None, Err(error)),
            }
        };
        let (done, told) = coordinator.update_within(key, self.bounds, edit).await?;
        Ok((done, told?))
    }

    fn decode(&self, value: Option<&Bytes>) -> Result<Option<V>, MapError> {
        value.map(|value| self.map.decode_value(value)).transpose()
    }
}

impl<K: ?Sized, V, const N: usize, const W: usize, const R: usize, T, C: Clone> Clone
    for Registers<K, V, N, W, R, T, C>
{
    fn clone(&self) -> Self {
        Self {
            map: self.map.clone(),
            bounds: self.bounds,
        }
    }
}

impl<K: ?Sized, V, const N: usize, const W: usize, const R: usize, T, C> fmt::Debug
    for Registers<K, V, N, W, R, T, C>
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registers")
            .field("map", &self.map)
            .field("bounds", &self.bounds)
            .finish()
    }
}
