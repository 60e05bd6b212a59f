//! Several keys of a typed map at the same time.

use std::borrow::Borrow;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, Map, MapError};
use crate::coordinator::WriteReceipt;
use crate::transport::Transport;

impl<K, V, const N: usize, const W: usize, const R: usize, T, C> Map<K, V, N, W, R, T, C>
where
    K: Serialize + Ord + ToOwned<Owned: DeserializeOwned> + ?Sized,
    V: Serialize + DeserializeOwned + PartialEq,
    T: Transport,
    C: Codec,
{
    /// Reads several keys, each as [`get`](Self::get) does, a bounded number of them at
    /// the same time: [`Coordinator::get_many`](crate::Coordinator::get_many). There is a
    /// result for each key, in the order of the keys.
    ///
    /// ```
    /// # use kvquorum_core::{Coordinator, Replica};
    /// # use kvquorum_mem::MemStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let replicas = [(); 3].map(|()| Replica::new(MemStore::new()));
    /// # let coordinator = Coordinator::<3, 2, 2, _>::new(replicas);
    /// let ages = coordinator.map::<str, u8>("ages");
    /// for written in ages.put_many([("alice", &34), ("bob", &27)]).await {
    ///     written?;
    /// }
    /// let found = ages.get_many(["bob", "carol", "alice"]).await;
    /// let found: Vec<_> = found.into_iter().collect::<Result<_, _>>()?;
    /// assert_eq!(found, [Some(27), None, Some(34)]);
    /// # Ok(()) }
    /// ```
    pub async fn get_many<'a, Q>(
        &self,
        keys: impl IntoIterator<Item = &'a Q>,
    ) -> Vec<Result<Option<V>, MapError>>
    where
        K: Borrow<Q>,
        Q: Serialize + Ord + ?Sized + 'a,
    {
        let gets = keys.into_iter().map(|key| self.get(key));
        self.coordinator.do_all(gets).await
    }

    /// Writes several values, each as [`put`](Self::put) does, a bounded number of them
    /// at the same time: [`Coordinator::put_many`](crate::Coordinator::put_many). There
    /// is a result for each key, in the order of the keys. Together they are not atomic.
    pub async fn put_many<'a, Q>(
        &self,
        entries: impl IntoIterator<Item = (&'a Q, &'a V)>,
    ) -> Vec<Result<WriteReceipt<N>, MapError>>
    where
        K: Borrow<Q>,
        Q: Serialize + Ord + ?Sized + 'a,
        V: 'a,
    {
        let puts = entries.into_iter().map(|(key, value)| self.put(key, value));
        self.coordinator.do_all(puts).await
    }
}
