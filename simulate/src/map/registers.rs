//! Registers: what is asked of them, and what they say.

use std::sync::Arc;

use kvquorum_core::{
    Codec, CodecError, Edit, MapError, Swap, Transport, UpdateError, Updated, Version,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Under the keys of [`key`](crate::oracle::key), with values of eight bytes.
pub type Registers<const N: usize, const W: usize, const R: usize> =
    kvquorum_core::Registers<u8, [u8; 8], N, W, R, Arc<dyn Transport>, Raw>;

/// Bytes are themselves, and an array of them is no more than they are.
#[derive(Clone, Copy)]
pub struct Raw;

impl Codec for Raw {
    fn encode<T: Serialize + ?Sized>(&self, decoded: &T) -> Result<Vec<u8>, CodecError> {
        postcard::to_stdvec(decoded).map_err(CodecError::new)
    }

    fn decode<T: DeserializeOwned>(&self, encoded: &[u8]) -> Result<T, CodecError> {
        match postcard::take_from_bytes(encoded) {
            Ok((decoded, [])) => Ok(decoded),
            Ok(_) => Err(CodecError::new("there are bytes after the end")),
            Err(error) => Err(CodecError::new(error)),
        }
    }
}

/// What is asked of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    Get,
    Put,
    Delete,
    /// An update that puts a value, and tells what it found.
    Update,
    /// An update that deletes a value, if there is one.
    Take,
    /// An update that changes nothing.
    Keep,
    CompareAndSet(Option<u64>),
    Create,
}

impl std::fmt::Display for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::CompareAndSet(Some(value)) => {
                write!(f, "CompareAndSet #{}", value.reverse_bits())
            }
            ask => write!(f, "{ask:?}"),
        }
    }
}

impl Ask {
    /// What an update makes of what it finds.
    pub fn edit(self, found: Option<u64>, own: u64) -> Edit<u64> {
        match self {
            Self::Put | Self::Update => Edit::Put(own),
            Self::Delete => Edit::Delete,
            Self::Take if found.is_some() => Edit::Delete,
            Self::CompareAndSet(expected) if found == expected => Edit::Put(own),
            Self::Create if found.is_none() => Edit::Put(own),
            _ => Edit::Keep,
        }
    }
}

/// What an operation on a register came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It found this, under this version, and changed nothing.
    Found(Option<u64>, Option<Version>),
    /// It left this under this version, and found what it tells.
    Left {
        found: Option<Option<u64>>,
        left: Option<u64>,
        version: Version,
    },
    NotApplied,
    MaybeApplied,
    /// A get that failed.
    NotRead,
    ClockExhausted,
    /// There is no such value, or no register at all.
    Undecodable,
}

pub(super) async fn ask<const N: usize, const W: usize, const R: usize>(
    registers: &Registers<N, W, R>,
    register: usize,
    ask: Ask,
    own: u64,
) -> Told {
    let (key, own) = (&(b'0' + register as u8), own.to_be_bytes());
    let put = |version| Told::Left {
        found: None,
        left: Some(u64::from_be_bytes(own)),
        version,
    };
    let told = match ask {
        Ask::Get => {
            let got = registers.get_with_version(key).await;
            got.map(|(value, version)| Told::Found(number(value.as_ref()), version))
        }
        Ask::Put => registers.put(key, &own).await.map(put),
        Ask::Delete => registers.delete(key).await.map(|version| Told::Left {
            found: None,
            left: None,
            version,
        }),
        Ask::Update => {
            let updated = registers.update(key, |_| Edit::Put(own)).await;
            updated.map(|updated| changed(&updated))
        }
        Ask::Take => {
            let take = |held: Option<&_>| held.map_or(Edit::Keep, |_| Edit::Delete);
            let updated = registers.update(key, take).await;
            updated.map(|updated| match updated.before() {
                Some(_) => changed(&updated),
                None => kept(&updated),
            })
        }
        Ask::Keep => {
            let updated = registers.update(key, |_| Edit::Keep).await;
            updated.map(|updated| kept(&updated))
        }
        Ask::CompareAndSet(expected) => {
            let bytes = expected.map(u64::to_be_bytes);
            let swap = registers.compare_and_set(key, bytes.as_ref(), &own).await;
            swap.map(|swap| swapped(&swap, expected, put))
        }
        Ask::Create => {
            let swap = registers.create(key, &own).await;
            swap.map(|swap| swapped(&swap, None, put))
        }
    };
    told.unwrap_or_else(|error| failed(&error))
}

fn number(value: Option<&[u8; 8]>) -> Option<u64> {
    value.copied().map(u64::from_be_bytes)
}

fn changed(updated: &Updated<[u8; 8]>) -> Told {
    let Some(version) = updated.version() else {
        return Told::Undecodable;
    };
    Told::Left {
        found: Some(number(updated.before())),
        left: number(updated.after()),
        version,
    }
}

fn kept(updated: &Updated<[u8; 8]>) -> Told {
    Told::Found(number(updated.before()), updated.version())
}

fn swapped(swap: &Swap<[u8; 8]>, expected: Option<u64>, put: impl FnOnce(Version) -> Told) -> Told {
    match swap {
        Swap::Swapped { version } => match put(*version) {
            Told::Left { left, version, .. } => Told::Left {
                found: Some(expected),
                left,
                version,
            },
            told => told,
        },
        Swap::Differs { current, version } => Told::Found(number(current.as_ref()), *version),
    }
}

fn failed(error: &MapError) -> Told {
    match error {
        MapError::Read(_) => Told::NotRead,
        MapError::Update(UpdateError::NotApplied(_) | UpdateError::Contended(_)) => {
            Told::NotApplied
        }
        MapError::Update(UpdateError::MaybeApplied(_)) => Told::MaybeApplied,
        MapError::Update(UpdateError::Clock(_)) => Told::ClockExhausted,
        _ => Told::Undecodable,
    }
}
