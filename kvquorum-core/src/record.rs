//! What a store keeps under a key, and the bytes that it is on disk.

use bytes::{Buf, BufMut, Bytes};

use crate::entry::{Entry, Timestamp, Version, WriterId};

/// What a [`Store`](crate::Store) keeps under a key. Stores keep it as it is,
/// and never look into it: which record follows which is decided by
/// [`Change::decide`](crate::Change::decide).
///
/// A store in memory keeps the value itself. One on disk keeps the bytes of
/// [`encode`](Self::encode), which are the same for every store:
///
/// | bytes | meaning |
/// |---|---|
/// | 1 | the format of what follows: 1 |
/// | 1 | what it is: 0 for a value, 1 for a tombstone |
/// | 8 | the version's timestamp, most significant byte first |
/// | 8 | the version's writer, most significant byte first |
/// | the rest | the value |
///
/// A later release may write another format. It will read this one.
///
/// ```
/// use kvquorum_core::{Entry, Record, Timestamp, Version, WriterId};
///
/// let version = Version { timestamp: Timestamp::MIN, writer: WriterId::new(1) };
/// let record = Record::from(Entry::new(version, "tea"));
/// let mut encoded = Vec::new();
/// record.encode(&mut encoded);
/// assert_eq!(encoded.len(), record.encoded_len());
/// assert_eq!(Record::decode(encoded.into())?, record);
/// # Ok::<(), kvquorum_core::RecordError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    entry: Entry,
}

/// Bytes are not the encoding of a [`Record`]: they are damaged, or of a later
/// release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The bytes end within the record's head.
    #[error("a record of {len} bytes, shorter than any")]
    Short {
        /// How many bytes there are.
        len: usize,
    },
    /// The record's format is not known here. A later release may have written
    /// it.
    #[error("a record of format {format}, which is not known")]
    Format {
        /// The first byte.
        format: u8,
    },
    /// What the record is said to be makes no sense.
    #[error("a record of kind {kind}, which makes no sense here")]
    Kind {
        /// The second byte.
        kind: u8,
    },
}

const FORMAT: u8 = 1;
const VALUE: u8 = 0;
const TOMBSTONE: u8 = 1;
const HEAD_LEN: usize = 18;

impl Record {
    /// The entry in it.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// The entry in it, without a copy.
    pub fn into_entry(self) -> Entry {
        self.entry
    }

    /// How many bytes [`encode`](Self::encode) appends.
    pub fn encoded_len(&self) -> usize {
        let value = self.entry.value.as_ref().map_or(0, Bytes::len);
        value.saturating_add(HEAD_LEN)
    }

    /// Appends the record's bytes.
    pub fn encode(&self, to: &mut Vec<u8>) {
        to.reserve(self.encoded_len());
        let Entry { version, value } = &self.entry;
        to.put_u8(FORMAT);
        to.put_u8(if value.is_some() { VALUE } else { TOMBSTONE });
        to.put_u64(version.timestamp.to_bits());
        to.put_u64(version.writer.get());
        to.put_slice(value.as_deref().unwrap_or_default());
    }

    /// The record of these bytes. Its value is a slice of them.
    ///
    /// # Errors
    ///
    /// Where the bytes are not those of a record. A checksum is the store's part:
    /// damage within a value is not noticed here.
    pub fn decode(mut encoded: Bytes) -> Result<Self, RecordError> {
        let len = encoded.len();
        if let Some(format) = encoded.first()
            && *format != FORMAT
        {
            return Err(RecordError::Format { format: *format });
        }
        if len < HEAD_LEN {
            return Err(RecordError::Short { len });
        }
        encoded.advance(1);
        let kind = encoded.get_u8();
        let version = Version {
            timestamp: Timestamp::from_bits(encoded.get_u64()),
            writer: WriterId::new(encoded.get_u64()),
        };
        let entry = match kind {
            VALUE => Entry::new(version, encoded),
            TOMBSTONE if encoded.is_empty() => Entry::tombstone(version),
            _ => return Err(RecordError::Kind { kind }),
        };
        Ok(Self { entry })
    }
}

impl From<Entry> for Record {
    fn from(entry: Entry) -> Self {
        Self { entry }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn records() -> impl Strategy<Value = Record> {
        let value = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40));
        (any::<u64>(), any::<u64>(), value).prop_map(|(bits, writer, value)| {
            let version = Version {
                timestamp: Timestamp::from_bits(bits),
                writer: WriterId::new(writer),
            };
            Record::from(Entry {
                version,
                value: value.map(Bytes::from),
            })
        })
    }

    fn encoded(record: &Record) -> Vec<u8> {
        let mut encoded = Vec::new();
        record.encode(&mut encoded);
        encoded
    }

    proptest! {
        /// Bugs: an empty value comes back as a tombstone; a field in the other
        /// order of bytes; a length that is not that of the bytes.
        #[test]
        fn records_come_back_as_they_were(record in records()) {
            let encoded = encoded(&record);
            prop_assert_eq!(encoded.len(), record.encoded_len());
            prop_assert_eq!(Record::decode(encoded.into()), Ok(record));
        }

        /// Bugs: a panic, or two encodings of one record.
        #[test]
        fn other_bytes_are_refused(bytes in proptest::collection::vec(0..3_u8, 0..24)) {
            if let Ok(record) = Record::decode(bytes.clone().into()) {
                prop_assert_eq!(encoded(&record), bytes);
            }
        }
    }

    /// Bug: what lies on disks changes without another format.
    #[test]
    fn the_format_is_as_documented() {
        let version = Version {
            timestamp: Timestamp::from_bits(0x0102_0304_0506_0708),
            writer: WriterId::new(9),
        };
        let value = encoded(&Record::from(Entry::new(version, "tea")));
        let head = [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 9];
        assert_eq!(value, [&[1, 0], &head[..], b"tea"].concat());
        let tombstone = encoded(&Record::from(Entry::tombstone(version)));
        assert_eq!(tombstone, [&[1, 1], &head[..]].concat());
        let decode = |bytes: &[u8]| Record::decode(Bytes::copy_from_slice(bytes)).unwrap_err();
        assert_eq!(decode(&[2]), RecordError::Format { format: 2 });
        assert_eq!(decode(&value[..17]), RecordError::Short { len: 17 });
        let with_value = [&tombstone[..], b"tea"].concat();
        assert_eq!(decode(&with_value), RecordError::Kind { kind: 1 });
    }
}
