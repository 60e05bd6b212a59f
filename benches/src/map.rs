//! What every way of keeping a map does, so that each is measured by the same
//! code.

use kvquorum_core::{Bytes, Coordinator, Key, Transport};

/// A map with N copies. It panics where an operation fails: a benchmark has no
/// use for what did not happen.
pub trait Map: Send + Sync + 'static {
    /// Writes a value, and returns at a quorum.
    fn put(&self, key: &Key, value: &Bytes) -> impl Future<Output = ()> + Send;

    /// Reads a value that exists from a quorum.
    fn get(&self, key: &Key) -> impl Future<Output = Bytes> + Send;
}

impl<const N: usize, const W: usize, const R: usize, T: Transport> Map for Coordinator<N, W, R, T> {
    async fn put(&self, key: &Key, value: &Bytes) {
        self.put(key, value.clone()).await.unwrap();
    }

    async fn get(&self, key: &Key) -> Bytes {
        self.get(key).await.unwrap().unwrap()
    }
}
