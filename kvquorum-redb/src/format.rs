//! What lies in the engine's tables, byte by byte.
//!
//! An entry is stored as a checksum, the version, whether there is a value,
//! and the value:
//!
//! ```text
//! 8 bytes    XXH3 of the key's length, the key, and all that follows here
//! 8 bytes    timestamp     \
//! 8 bytes    writer         } little endian
//! 1 byte     0: tombstone, 1: value
//! the rest   the value
//! ```
//!
//! The engine checks its pages when it opens a file, not when it reads one. The
//! checksum is what keeps a page that changed since from being served; it
//! covers the key, so that no entry is served under another's.

use bytes::Bytes;
use kvquorum_core::{Entry, Key, Timestamp, Version, WriterId};
use redb::TableDefinition;
use xxhash_rust::xxh3::Xxh3;

/// The format that this version writes, and the only one that it reads.
pub(crate) const FORMAT: u64 = 2;

/// Keys to records.
pub(crate) const RECORDS: TableDefinition<'static, &[u8], &[u8]> =
    TableDefinition::new("kvquorum.records");

/// What is known of the whole store.
pub(crate) const META: TableDefinition<'static, &str, u64> = TableDefinition::new("kvquorum.meta");

/// In [`META`]: the format.
pub(crate) const META_FORMAT: &str = "format";

const TOMBSTONE: u8 = 0;
const VALUE: u8 = 1;
const CHECKSUM_LEN: usize = size_of::<u64>();
const HEAD_LEN: usize = CHECKSUM_LEN + 8 + 8 + 1;

/// The bytes of an entry stored under a key.
pub(crate) fn encode(key: &Key, entry: &Entry) -> Bytes {
    let value = entry.value.as_deref();
    let len = HEAD_LEN.saturating_add(value.map_or(0, <[u8]>::len));
    let mut bytes = Vec::with_capacity(len);
    bytes.extend_from_slice(&[0; CHECKSUM_LEN]);
    bytes.extend_from_slice(&entry.version.timestamp.to_bits().to_le_bytes());
    bytes.extend_from_slice(&entry.version.writer.get().to_le_bytes());
    bytes.push(if value.is_some() { VALUE } else { TOMBSTONE });
    bytes.extend_from_slice(value.unwrap_or_default());
    if let Some((room, rest)) = bytes.split_first_chunk_mut::<CHECKSUM_LEN>() {
        *room = checksum(key.as_bytes(), rest).to_le_bytes();
    }
    bytes.into()
}

/// An entry where the engine has it.
pub(crate) struct Stored<'a> {
    pub(crate) version: Version,
    value: Option<&'a [u8]>,
}

impl<'a> Stored<'a> {
    /// The entry stored under a key; `None` where the bytes are damaged.
    pub(crate) fn decode(key: &[u8], stored: &'a [u8]) -> Option<Self> {
        let (expected, rest) = stored.split_first_chunk()?;
        if u64::from_le_bytes(*expected) != checksum(key, rest) {
            return None;
        }
        let (timestamp, rest) = rest.split_first_chunk()?;
        let (writer, rest) = rest.split_first_chunk()?;
        let (kind, value) = rest.split_first()?;
        let value = match *kind {
            VALUE => Some(value),
            TOMBSTONE if value.is_empty() => None,
            _ => return None,
        };
        Some(Self {
            version: Version {
                timestamp: Timestamp::from_bits(u64::from_le_bytes(*timestamp)),
                writer: WriterId::new(u64::from_le_bytes(*writer)),
            },
            value,
        })
    }

    pub(crate) fn to_entry(&self) -> Entry {
        Entry {
            version: self.version,
            value: self.value.map(Bytes::copy_from_slice),
        }
    }
}

/// The key's length comes first, so that no byte can move from the key to the
/// entry unseen.
fn checksum(key: &[u8], rest: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(rest);
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> [Entry; 4] {
        let version = Version {
            timestamp: Timestamp::from_bits(u64::MAX - 1),
            writer: WriterId::new(1 << 63),
        };
        [
            Entry::new(version, ""),
            Entry::new(version, "value"),
            Entry::new(version, vec![0; 5_000]),
            Entry::tombstone(version),
        ]
    }

    #[test]
    fn entries_come_back_as_they_went_in() {
        for key in ["", "k"].map(Key::from) {
            for entry in entries() {
                let bytes = encode(&key, &entry);
                let stored = Stored::decode(key.as_bytes(), &bytes).unwrap();
                assert_eq!(stored.to_entry(), entry);
            }
        }
    }

    /// Bug: a checksum that leaves out a field, the key, or the tail.
    #[test]
    fn no_changed_bit_or_lost_byte_or_other_key_goes_unseen() {
        for entry in entries() {
            let bytes = encode(&Key::from("key"), &entry);
            for bit in 0..bytes.len() * 8 {
                let mut changed = bytes.to_vec();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert!(Stored::decode(b"key", &changed).is_none(), "bit {bit}");
            }
            for len in 0..bytes.len() {
                assert!(Stored::decode(b"key", &bytes[..len]).is_none(), "{len}");
            }
            assert!(Stored::decode(b"kez", &bytes).is_none());
            assert!(Stored::decode(b"ke", &bytes).is_none());
        }
    }
}
