//! What becomes of a write while replicas go away one by one, and what an
//! application does about each way to fail.

use std::error::Error;
use std::io;
use std::net::SocketAddr;

use kvquorum_core::{Coordinator, Replica, WriteError};
use kvquorum_http::{HttpTransport, Server};
use kvquorum_mem::MemStore;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let servers = [server().await?, server().await?, server().await?];
    let addresses = servers.each_ref().map(Server::local_addr);
    let mut running = servers.len();
    for server in servers {
        save(addresses, running).await?;
        server.shutdown().await;
        running = running.saturating_sub(1);
    }
    save(addresses, running).await
}

async fn server() -> io::Result<Server> {
    Server::bind("127.0.0.1:0", Replica::new(MemStore::new())).await
}

async fn save([a, b, c]: [SocketAddr; 3], running: usize) -> Result<(), Box<dyn Error>> {
    let map = Coordinator::<3, 2, 2, _>::new([
        HttpTransport::new(a)?,
        HttpTransport::new(b)?,
        HttpTransport::new(c)?,
    ]);
    print!("{running} of 3 replicas run: ");
    // `settled` waits for the replicas that have not answered when the write is
    // decided. Only a report needs that.
    let error = match map.put("tea", "green").await {
        Ok(receipt) => {
            let acked = receipt.settled().await.acked();
            println!("stored, acked by {acked}");
            return Ok(());
        }
        Err(error) => error.settled().await,
    };
    match &error {
        // Every replica refused it or was not reached. To try again, or to do
        // something else instead, is safe.
        WriteError::NotApplied(_) => println!("not stored, and it never will be"),
        // Some replicas may hold it, so reads may return it, now or later. To do
        // it again with the same map settles it: the new entry is greater.
        WriteError::MaybeApplied(report) => {
            println!("not known to be stored, acked by {}", report.acked());
        }
        // Another writer's entry is greater.
        WriteError::Superseded { by, .. } => println!("overwritten already, by {by}"),
        // The clock has no timestamps left. Nothing was sent.
        other => println!("{other}"),
    }
    // Which replica failed, and why.
    for replica in error.report().map_or(&[][..], |report| report.replicas()) {
        if let Some(failure) = replica.outcome().failure() {
            println!("    {}: {failure}", replica.name());
        }
    }
    Ok(())
}
