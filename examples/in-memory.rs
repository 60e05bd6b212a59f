//! A replicated map in memory: three replicas, one process, no network.

use std::error::Error;

use kvquorum_core::{Coordinator, Replica};
use kvquorum_mem::MemStore;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let replicas = [(); 3].map(|()| Replica::new(MemStore::new()));

    // Three replicas; a write waits for two acks, a read for two answers.
    let coordinator = Coordinator::<3, 2, 2, _>::new(replicas);
    let cups = coordinator.map::<str, u32>("cups");

    let receipt = cups.put("tea", &2).await?;
    println!("{} of 3 replicas hold it", receipt.acked());
    println!("cups of tea: {:?}", cups.get("tea").await?);

    cups.delete("tea").await?;
    println!("once deleted: {:?}", cups.get("tea").await?);
    Ok(())
}
