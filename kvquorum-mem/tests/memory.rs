//! Memory that comes back. It is the only test of this file, as all share the
//! allocator.

use std::alloc::System;

use kvquorum_core::{Bytes, Change, Entry, Key, Store, Timestamp, Version, WriterId};
use kvquorum_mem::MemStore;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const KEYS: u64 = 250_000;
/// How many keys stay, and how much more they may take once others were there, in hundredths:
/// by how many they are, their room may have been just enough before.
const BASES: [(u64, usize); 2] = [(10_000, 10), (50_000, 25)];

/// How many bytes are allocated now.
fn live() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// Keys of 13 bytes, whose order is not that of their numbers.
fn key(number: u64) -> Key {
    let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 12;
    Key::from(format!("{number:013x}"))
}

async fn put(store: &MemStore, numbers: std::ops::Range<u64>) {
    let version = Version {
        timestamp: Timestamp::from_bits(1),
        writer: WriterId::new(1),
    };
    for number in numbers {
        let entry = Entry::new(version, Bytes::from(vec![1; 100]));
        let written = store.apply(&key(number), Change::write(entry)).await;
        written.unwrap();
    }
}

async fn remove(store: &MemStore, numbers: std::ops::Range<u64>) {
    for number in numbers {
        store.apply(&key(number), Change::remove()).await.unwrap();
    }
}

/// Bugs: what keys are found by stays as large as it was when they were most; room in
/// between those that stay is not given back.
#[tokio::test(flavor = "current_thread")]
async fn removed_keys_give_their_memory_back() {
    for (base, more) in BASES {
        let empty = live();
        let store = MemStore::new();
        put(&store, 0..base).await;
        let before = live() - empty;
        for _ in 0..2 {
            put(&store, base..base + KEYS).await;
            let most = live() - empty;
            remove(&store, base..base + KEYS).await;
            let after = live() - empty;
            println!("{before} bytes, {most} with {KEYS} keys more, {after} without them");
            assert!(
                after <= before + before * more / 100,
                "{after} after {before}"
            );
        }
        remove(&store, 0..base).await;
        let after = live() - empty;
        println!("{after} bytes with no key");
        assert!(after <= before / 10, "{after}");
    }
}
