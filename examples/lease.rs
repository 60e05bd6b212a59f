//! A lock among several processes, as a lease: it ends by itself where its holder
//! is gone. What it protects refuses a holder who slept past its end, by the
//! register's version, which rises with each holder: a fencing token.

use std::error::Error;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kvquorum_core::{Coordinator, Edit, MapError, Registers, Replica, Version};
use kvquorum_mem::MemStore;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Lease {
    holder: String,
    until_millis: u64,
}

type Leases = Registers<str, Lease, 3, 2, 2, Replica<MemStore>>;

const LENGTH: Duration = Duration::from_millis(200);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let replicas = [(); 3].map(|()| Replica::new(MemStore::new()));
    let leases: Leases = Coordinator::new(replicas).registers("leases");
    let mut printer = Printer { greatest: None };

    let alice = acquire(&leases, "alice").await?;
    println!("alice prints: {}", printer.print(alice, "hello"));
    // Now alice sleeps, and does not notice that her lease ends.
    let bob = acquire(&leases, "bob").await?;
    println!("bob prints: {}", printer.print(bob, "good morning"));
    println!("alice prints: {}", printer.print(alice, "where was I?"));

    println!("alice gives it back: {}", release(&leases, "alice").await?);
    println!("bob gives it back: {}", release(&leases, "bob").await?);
    Ok(())
}

/// Waits for the lease, and returns the fencing token.
async fn acquire(leases: &Leases, holder: &str) -> Result<Version, MapError> {
    loop {
        let lease = Lease {
            holder: holder.to_owned(),
            until_millis: now().saturating_add(LENGTH.as_millis() as u64),
        };
        let taken = leases.update("printer", |held| match held {
            Some(held) if held.until_millis > now() => Edit::Keep,
            _ => Edit::Put(lease.clone()),
        });
        let taken = taken.await?;
        if let (true, Some(token)) = (taken.after() == Some(&lease), taken.version()) {
            return Ok(token);
        }
        sleep(LENGTH / 10).await;
    }
}

/// Gives the lease back, if it is still the holder's, and tells whether it was.
async fn release(leases: &Leases, holder: &str) -> Result<bool, MapError> {
    let given = leases.update("printer", |held| match held {
        Some(held) if held.holder == holder => Edit::Delete,
        _ => Edit::Keep,
    });
    let was = given.await?;
    Ok(was.before().is_some_and(|held| held.holder == holder))
}

/// What the lease protects. It keeps the greatest token that it has seen.
struct Printer {
    greatest: Option<Version>,
}

impl Printer {
    fn print(&mut self, token: Version, text: &str) -> String {
        if Some(token) < self.greatest {
            return "refused, somebody else has the lease".to_owned();
        }
        self.greatest = Some(token);
        text.to_owned()
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis() as u64)
}
