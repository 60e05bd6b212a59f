//! Several operations on keys at the same time.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::iter;

use super::{Coordinator, CoordinatorBuilder, ReadError, WriteError, WriteReceipt};
use crate::entry::Key;
use crate::transport::Transport;

/// See [`CoordinatorBuilder::max_at_once`].
pub(super) const DEFAULT_AT_ONCE: usize = 64;

impl<const N: usize, const W: usize, const R: usize, T: Transport> Coordinator<N, W, R, T> {
    /// Reads several keys, each as [`get`](Self::get) does, and a
    /// [bounded number](CoordinatorBuilder::max_at_once) of them at the same time.
    /// There is a result for each key, in the order of the keys, and one that fails
    /// stops no other.
    ///
    /// They are not read at one moment: each is a `get` for itself.
    ///
    /// ```
    /// # use kvquorum_core::{Coordinator, Replica};
    /// # use kvquorum_mem::MemStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let replicas = [(); 3].map(|()| Replica::new(MemStore::new()));
    /// let map = Coordinator::<3, 2, 2, _>::new(replicas);
    /// for written in map.put_many([("a", "1"), ("b", "2")]).await {
    ///     written?;
    /// }
    /// let values = map.get_many(["b", "c", "a"]).await;
    /// let values: Vec<_> = values.into_iter().collect::<Result<_, _>>()?;
    /// assert_eq!(values, [Some("2".into()), None, Some("1".into())]);
    /// # Ok(()) }
    /// ```
    pub async fn get_many<K: Into<Key>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Vec<Result<Option<Bytes>, ReadError>> {
        let gets = keys.into_iter().map(|key| self.get(key));
        self.do_all(gets).await
    }

    /// Writes several values, each as [`put`](Self::put) does, and a
    /// [bounded number](CoordinatorBuilder::max_at_once) of them at the same time.
    /// There is a result for each key, in the order of the keys, and one that fails
    /// stops no other.
    ///
    /// Together they are not atomic: each is a `put` for itself. Where a key comes
    /// more than once, any of its values may be the one that stays. Dropping the
    /// returned future leaves those that were not begun undone.
    pub async fn put_many<K: Into<Key>, V: Into<Bytes>>(
        &self,
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Vec<Result<WriteReceipt<N>, WriteError>> {
        let puts = entries.into_iter().map(|(key, value)| self.put(key, value));
        self.do_all(puts).await
    }

    /// A bounded number at the same time. The results are in order.
    pub(crate) async fn do_all<F: Future>(
        &self,
        operations: impl IntoIterator<Item = F>,
    ) -> Vec<F::Output> {
        let at_once = self.inner.settings.max_at_once;
        iter(operations).buffered(at_once).collect().await
    }
}

impl<const N: usize, const W: usize, const R: usize, T: Transport> CoordinatorBuilder<N, W, R, T> {
    /// How many keys [`get_many`](Coordinator::get_many) and
    /// [`put_many`](Coordinator::put_many) have under way at the same time. 64 by
    /// default; 0 is taken for 1.
    pub fn max_at_once(mut self, max: usize) -> Self {
        self.settings.max_at_once = max.max(1);
        self
    }
}
