//! An application that hosts a copy of its map in its own process, and reaches
//! the other two over HTTP.
//!
//! Its own copy is a function call away, and its peers reach that same copy
//! over HTTP. Here all three applications are in one process, so that one
//! command shows it; each would be in its own.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use kvquorum_core::{Coordinator, Replica, Transport};
use kvquorum_http::{AddressError, HttpTransport, Server};
use kvquorum_mem::MemStore;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (mine, my_server) = host("mine").await?;
    let (hers, her_server) = host("hers").await?;
    let (_his, his_server) = host("his").await?;
    let [me, her, him] = [&my_server, &her_server, &his_server].map(Server::local_addr);

    let my_map = map(mine, [her, him])?;
    let her_map = map(hers, [me, him])?;

    let receipt = my_map.put("greeting", "hello").await?.settled().await;
    for (replica, outcome) in my_map.transports().iter().zip(receipt.replicas()) {
        let acked = if outcome.answer().is_some() {
            "acked"
        } else {
            "no ack"
        };
        println!("{:>15}: {acked}", replica.name());
    }
    let greeting = her_map.get("greeting").await?.unwrap_or_default();
    println!("she reads: {}", greeting.escape_ascii());
    Ok(())
}

/// A replica in this process, and a server through which peers reach it.
async fn host(name: &str) -> std::io::Result<(Replica<MemStore>, Server)> {
    let replica = Replica::new(MemStore::new()).with_name(name);
    let server = Server::bind("127.0.0.1:0", replica.clone()).await?;
    Ok((replica, server))
}

/// The map, as one application sees it: transports of different kinds stand
/// side by side.
fn map(
    own: Replica<MemStore>,
    [one, other]: [SocketAddr; 2],
) -> Result<Coordinator<3, 2, 2, Arc<dyn Transport>>, AddressError> {
    Ok(Coordinator::new([
        Arc::new(own),
        Arc::new(HttpTransport::new(one)?),
        Arc::new(HttpTransport::new(other)?),
    ]))
}
