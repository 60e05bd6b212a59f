//! What lies in the engine's tables, byte by byte.
//!
//! A record is stored as a checksum and the bytes that core gives it:
//!
//! ```text
//! 8 bytes    XXH3 of the key's length, the key, and the record; little endian
//! the rest   the record, as `Record::encode` has it
//! ```
//!
//! The engine checks its pages when it opens a file, not when it reads one. The
//! checksum is what keeps a page that changed since from being served; it
//! covers the key, so that no record is served under another's.

use bytes::Bytes;
use kvquorum_core::{Key, Record};
use redb::TableDefinition;
use xxhash_rust::xxh3::Xxh3;

use crate::error::RedbStoreError;

/// The format that this version writes, and the only one that it reads.
pub(crate) const FORMAT: u64 = 2;

/// Keys to records.
pub(crate) const RECORDS: TableDefinition<'static, &[u8], &[u8]> =
    TableDefinition::new("kvquorum.records");

/// What is known of the whole store.
pub(crate) const META: TableDefinition<'static, &str, u64> = TableDefinition::new("kvquorum.meta");

/// In [`META`]: the format.
pub(crate) const META_FORMAT: &str = "format";

const CHECKSUM_LEN: usize = size_of::<u64>();

/// The bytes of a record stored under a key.
pub(crate) fn encode(key: &Key, record: &Record) -> Vec<u8> {
    let len = CHECKSUM_LEN.saturating_add(record.encoded_len());
    let mut bytes = Vec::with_capacity(len);
    bytes.extend_from_slice(&[0; CHECKSUM_LEN]);
    record.encode(&mut bytes);
    if let Some((room, rest)) = bytes.split_first_chunk_mut::<CHECKSUM_LEN>() {
        *room = checksum(key.as_bytes(), rest).to_le_bytes();
    }
    bytes
}

/// The record of these bytes, copied.
pub(crate) fn decode(key: &Key, stored: &[u8]) -> Result<Record, RedbStoreError> {
    let encoded = stored
        .split_first_chunk()
        .filter(|(expected, rest)| u64::from_le_bytes(**expected) == checksum(key.as_bytes(), rest))
        .map(|(_, rest)| Bytes::copy_from_slice(rest));
    let key = || key.clone();
    let encoded = encoded.ok_or_else(|| RedbStoreError::Damaged { key: key() })?;
    Record::decode(encoded).map_err(|source| RedbStoreError::UnknownRecord { key: key(), source })
}

/// How many bytes of a stored record are core's.
pub(crate) fn encoded_len(stored: &[u8]) -> usize {
    stored.len().saturating_sub(CHECKSUM_LEN)
}

/// The key's length comes first, so that no byte can move from the key to the
/// record unseen.
fn checksum(key: &[u8], rest: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(rest);
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use kvquorum_core::{Entry, Timestamp, Version, WriterId};

    use super::*;

    fn records() -> Vec<Record> {
        let version = Version {
            timestamp: Timestamp::from_bits(u64::MAX - 1),
            writer: WriterId::new(1 << 63),
        };
        let entries = [
            Entry::new(version, ""),
            Entry::new(version, "value"),
            Entry::new(version, vec![0; 5_000]),
            Entry::tombstone(version),
        ];
        entries.map(Record::from).into()
    }

    #[test]
    fn records_come_back_as_they_went_in() {
        for key in ["", "k"].map(Key::from) {
            for record in records() {
                let bytes = encode(&key, &record);
                assert_eq!(encoded_len(&bytes), record.encoded_len());
                assert_eq!(decode(&key, &bytes).unwrap(), record);
            }
        }
    }

    /// Bug: a checksum that leaves out a field, the key, or the tail.
    #[test]
    fn no_changed_bit_or_lost_byte_or_other_key_goes_unseen() {
        let is_damaged = |key: &str, bytes: &[u8]| {
            let error = decode(&Key::from(key), bytes).unwrap_err();
            assert!(matches!(error, RedbStoreError::Damaged { .. }), "{error}");
        };
        for record in records() {
            let bytes = encode(&Key::from("key"), &record);
            for bit in 0..bytes.len() * 8 {
                let mut changed = bytes.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                is_damaged("key", &changed);
            }
            for len in 0..bytes.len() {
                is_damaged("key", &bytes[..len]);
            }
            is_damaged("kez", &bytes);
            is_damaged("ke", &bytes);
        }
    }

    /// Bug: a record that a later release wrote is called damaged, and so given
    /// up.
    #[test]
    fn a_later_record_is_told_from_a_damaged_one() {
        let key = Key::from("key");
        let mut bytes = encode(&key, &records()[0]);
        bytes[CHECKSUM_LEN] = 99;
        let sum = checksum(b"key", &bytes[CHECKSUM_LEN..]);
        bytes[..CHECKSUM_LEN].copy_from_slice(&sum.to_le_bytes());
        let error = decode(&key, &bytes).unwrap_err();
        assert!(
            matches!(error, RedbStoreError::UnknownRecord { .. }),
            "{error}"
        );
    }
}
