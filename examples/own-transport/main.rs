//! A transport of one's own, in `channel.rs`: all that a coordinator needs to
//! reach a replica by other means than HTTP.
//!
//! `tests/own_transport.rs` holds it to the contract, with the suite that holds
//! every other transport to it.

mod channel;

use std::error::Error;

use channel::ChannelTransport;
use kvquorum_core::{Coordinator, Replica};
use kvquorum_mem::MemStore;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // One of them will never be there to find all three new.
    let new = || Replica::new(MemStore::new()).of_new_cluster();
    let [(a, a_task), (b, b_task), (c, c_task)] =
        ["a", "b", "c"].map(|name| ChannelTransport::new(name, new()));
    tokio::spawn(a_task);
    tokio::spawn(b_task);
    // This replica never runs, as though its machine had burned down.
    drop(c_task);

    let map = Coordinator::<3, 2, 2, _>::new([a, b, c]);
    let receipt = map.put("greeting", "hello").await?.settled().await;
    for (replica, outcome) in ["a", "b", "c"].iter().zip(receipt.replicas()) {
        match outcome.failure() {
            Some(failure) => println!("{replica}: {failure}"),
            None => println!("{replica}: acked"),
        }
    }
    let greeting = map.get("greeting").await?.unwrap_or_default();
    println!(
        "two of three are enough to read: {}",
        greeting.escape_ascii()
    );
    Ok(())
}
