//! With the feature `tracing`.

use std::io::ErrorKind;
use std::sync::LazyLock;
use std::time::Duration;

use kvquorum_core::{EventLimit, WithCauses};
use tracing::{error, info};

use crate::compaction::Compaction;
use crate::error::{OpenError, RedbStoreError};

/// Who opens a store is told what is wrong with the call; here it is told what is
/// wrong with the place.
pub(crate) fn not_opened(error: &OpenError) {
    let is_the_callers = matches!(
        error,
        OpenError::Locked { .. }
            | OpenError::Missing { .. }
            | OpenError::Exists { .. }
            | OpenError::NoRuntime
    );
    if is_the_callers {
        return;
    }
    error!(error = %WithCauses(error), "the store could not be opened");
}

/// No other write is tried after it, so it is told once.
pub(crate) fn write_failed(error: &redb::Error) {
    let is_full = matches!(error, redb::Error::Io(error) if error.kind() == ErrorKind::StorageFull);
    let error = WithCauses(error).to_string();
    match is_full {
        true => error!(error, "the disk is full: the store takes no more writes"),
        false => error!(error, "a write failed: the store takes no more writes"),
    }
}

/// Damage names the key, and so that is not told here.
pub(crate) fn read_failed(error: &RedbStoreError) {
    static LIMIT: LazyLock<EventLimit> = LazyLock::new(EventLimit::default);
    let error = match error {
        RedbStoreError::Damaged { .. } => "a record does not match its checksum".to_owned(),
        RedbStoreError::UnknownRecord { .. } => "a record is not one that is known".to_owned(),
        other => WithCauses(other).to_string(),
    };
    if let Some(held_back) = LIMIT.pass() {
        error!(error, held_back, "a read failed");
    }
}

pub(crate) fn reopened(result: Result<(), &RedbStoreError>) {
    match result {
        Ok(()) => info!("the store was opened again, and takes writes"),
        Err(error) => error!(
            error = %WithCauses(error),
            "the store could not be opened again"
        ),
    }
}

/// All reads and writes waited for it.
pub(crate) fn compacted(compaction: &Compaction, took: Duration) {
    let given_back = compaction.given_back();
    info!(given_back, ?took, "the file was compacted");
}
