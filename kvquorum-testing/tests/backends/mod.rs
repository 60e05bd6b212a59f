//! Two backends that have a conditional write.

pub(crate) mod files;
pub(crate) mod sqlite;

use std::ops::Bound;

use kvquorum_core::{Bytes, Key, ScanLimit, StoreError};

/// A key, and the bytes of its record.
pub(crate) type Held = (Key, Bytes);

pub(crate) type Range = (Bound<Key>, Bound<Key>);

/// Work that blocks, off the async threads.
pub(crate) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let running = tokio::task::spawn_blocking(work);
    running.await.map_err(StoreError::new)?
}

/// The first of these that the limit allows.
pub(crate) fn page(
    records: impl IntoIterator<Item = Result<Held, StoreError>>,
    limit: ScanLimit,
) -> Result<Vec<Held>, StoreError> {
    let (mut page, mut bytes) = (Vec::new(), 0_usize);
    for record in records {
        let (key, record) = record?;
        bytes = bytes.saturating_add(key.len() + record.len());
        if !limit.allows(page.len(), bytes) {
            break;
        }
        page.push((key, record));
    }
    Ok(page)
}
