//! What can go wrong with an operation on a typed map.

use super::CodecError;
use crate::coordinator::{ReadError, ScanError, UpdateError, WriteError};
use crate::entry::Key;

/// Any operation that failed, on a [`Map`](crate::Map), on
/// [`Registers`](crate::Registers) or on a [`Coordinator`](crate::Coordinator): `?`
/// turns the errors of all into this one.
///
/// ```
/// use kvquorum_core::{Map, MapError, WriteError};
///
/// async fn rename(users: &Map<u64, String, 3, 2, 2>, id: u64, name: String) -> Result<(), MapError> {
///     if users.get(&id).await?.is_some() {
///         users.put(&id, &name).await?;
///     }
///     Ok(())
/// }
///
/// /// The HTTP status that says what happened.
/// fn status(error: &MapError) -> u16 {
///     match error {
///         MapError::EncodeKey(_) | MapError::EncodeValue(_) => 400,
///         MapError::Read(_) | MapError::Scan(_) | MapError::Write(WriteError::NotApplied(_)) => 503,
///         MapError::Write(_) => 504, // it may have been applied
///         _ => 500,
///     }
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// The read failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A page of a scan failed.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The write failed.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The update of a register failed.
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// The key has no encoding that decodes to an equal key (rule M-EXACT).
    /// Nothing was sent.
    #[error("the key has no exact encoding, and nothing was sent")]
    EncodeKey(#[source] CodecError),
    /// The value has no encoding that decodes to an equal value (rule M-EXACT).
    /// Nothing was sent.
    #[error("the value has no exact encoding, and nothing was sent")]
    EncodeValue(#[source] CodecError),
    /// What is stored is no key, or no value, of this map.
    #[error("what is stored is not of this map's types")]
    Decode(#[source] CodecError),
    /// A scan came to an entry that is not one of this map. It goes on after it.
    #[error("the entry under {key} is not of this map's types")]
    #[non_exhaustive]
    DecodeEntry {
        /// Under which key it is stored.
        key: Key,
        /// What is wrong with the key, or with the value.
        source: CodecError,
    },
}

/// Why an encoding is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Inexact {
    #[error("its encoding cannot be decoded")]
    Undecodable(#[source] CodecError),
    #[error("its encoding decodes to something else")]
    Changed,
    #[error("an equal key has another encoding")]
    NotTheOnly,
}

/// Why a stored key is not one of the map's.
#[derive(Debug, thiserror::Error)]
#[error("the key does not begin with the map's name and a slash")]
pub(super) struct OtherMap;
