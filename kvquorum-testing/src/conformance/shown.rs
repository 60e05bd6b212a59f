//! How what was observed is shown.

use std::error::Error;
use std::fmt::{self, Display};

use kvquorum_core::{Entry, Key, Record, Version};

/// A value or a key is shown up to this many bytes.
pub(super) const MAX_BYTES: usize = 40;

struct Cut<'a>(&'a [u8]);

impl Display for Cut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = self.0.get(..MAX_BYTES).unwrap_or(self.0).escape_ascii();
        let more = if self.0.len() > MAX_BYTES { "…" } else { "" };
        write!(f, "\"{start}{more}\"")
    }
}

/// An entry with its bytes, which [`Entry`]'s own `Debug` keeps to itself, and what
/// else belongs to its record.
pub(super) struct Shown {
    entry: Option<Entry>,
    anchor: Option<Version>,
}

impl Shown {
    pub(super) fn entry(entry: Option<&Entry>) -> Self {
        Self {
            entry: entry.cloned(),
            anchor: None,
        }
    }

    pub(super) fn record(record: Option<&Record>) -> Self {
        Self {
            entry: record.and_then(Record::entry),
            anchor: record.and_then(Record::anchor),
        }
    }
}

impl Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.entry {
            None => f.write_str("nothing"),
            Some(Entry {
                version,
                expires_millis,
                value,
            }) => match (value, expires_millis) {
                (None, _) => write!(f, "a tombstone of {version}"),
                (Some(value), expires) => {
                    let len = value.len();
                    write!(f, "{} ({len} bytes) of {version}", Cut(value))?;
                    match expires {
                        None => Ok(()),
                        Some(at) => write!(f, ", which expires at {at} ms"),
                    }
                }
            },
        }?;
        match self.anchor {
            None => Ok(()),
            Some(anchor) => write!(f, " below the promised {anchor}"),
        }
    }
}

/// A key, cut short.
pub(super) struct Named<'a>(pub(super) &'a Key);

impl Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {}", Cut(self.0.as_bytes()))
    }
}

/// An error and the whole chain of its causes.
pub(super) struct Causes<'a>(pub(super) &'a dyn Error);

impl Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut error = self.0;
        while let Some(cause) = error.source() {
            write!(f, "\n  caused by: {cause}")?;
            error = cause;
        }
        Ok(())
    }
}
