//! Deleting all keys that begin with a prefix: a range is read page by page at the
//! read quorum, and each key that comes is deleted.

use std::error::Error;

use kvquorum_core::{Coordinator, KeyRange, Replica, ScanLimit};
use kvquorum_mem::MemStore;

type Map = Coordinator<3, 2, 2, Replica<MemStore>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let replicas = [(); 3].map(|()| Replica::new(MemStore::new()));
    // Pages of two keys, so that there are some. By default they have 1024.
    let map = Map::builder(replicas).page(ScanLimit::keys(2)).build();
    for key in ["cart", "cart/1", "cart/2", "cart/3", "carton", "user/1"] {
        map.put(key, "").await?;
    }
    println!("deleted: {}", delete_prefix(&map, "cart/").await?);

    let mut left = map.scan(..);
    while let Some(entry) = left.next().await {
        let (key, _) = entry?;
        println!("left: {key}");
    }
    Ok(())
}

/// Deletes what begins with a prefix, and tells how many keys that were.
///
/// It is no transaction. A key that is written meanwhile may stay or go. Where it
/// fails, what was deleted stays deleted, and doing it again does the rest.
async fn delete_prefix(map: &Map, prefix: &str) -> Result<usize, Box<dyn Error>> {
    let mut deleted = 0;
    let mut entries = map.scan(KeyRange::prefix(prefix));
    while let Some(entry) = entries.next().await {
        let (key, _) = entry?;
        map.delete(key).await?;
        deleted += 1;
    }
    Ok(deleted)
}
