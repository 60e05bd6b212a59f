//! From a host's name to its addresses, with one lookup at a time.
//!
//! The system's resolver blocks a thread for as long as it likes, and a lookup
//! that nobody waits for any longer cannot be called off. Were each call to
//! start its own, a resolver that hangs would soon hold every thread that the
//! runtime has for such work.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// What a lookup comes to, for all who wait for it.
type Found = Result<Vec<SocketAddr>, Arc<io::Error>>;

/// Knows where a host is, or finds out.
pub(crate) struct Resolver {
    host: String,
    port: u16,
    /// The last lookup. It is under way until it has a value.
    lookup: Mutex<Option<watch::Receiver<Option<Found>>>>,
}

impl Resolver {
    pub(crate) fn new(host: &str, port: u16) -> Self {
        Self {
            host: host.to_owned(),
            port,
            lookup: Mutex::default(),
        }
    }

    /// The host's addresses. A name is looked up anew, or together with those
    /// who wait for it already.
    pub(crate) async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, self.port)]);
        }
        let to = (self.host.clone(), self.port);
        self.look_up(move || to.to_socket_addrs().map(Iterator::collect))
            .await
    }

    async fn look_up<F>(&self, blocking: F) -> io::Result<Vec<SocketAddr>>
    where
        F: FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
    {
        let mut lookup = self.join_or_start(blocking);
        let found = lookup.wait_for(Option::is_some).await;
        match found.as_deref() {
            Ok(Some(Ok(addresses))) => Ok(addresses.clone()),
            Ok(Some(Err(error))) => Err(io::Error::new(error.kind(), Arc::clone(error))),
            // The lookup panicked, or the runtime is about to end.
            Ok(None) | Err(_) => Err(io::Error::other("the lookup was cut short")),
        }
    }

    fn join_or_start<F>(&self, blocking: F) -> watch::Receiver<Option<Found>>
    where
        F: FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
    {
        // No panic can leave it half changed.
        let mut lookup = self.lookup.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(under_way) = &*lookup
            && under_way.has_changed().is_ok()
            && under_way.borrow().is_none()
        {
            return under_way.clone();
        }
        let (found, waiting) = watch::channel(None);
        tokio::task::spawn_blocking(move || {
            found.send_replace(Some(blocking().map_err(Arc::new)));
        });
        *lookup = Some(waiting.clone());
        waiting
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;
    use std::task::{Context, Waker};

    use super::*;

    #[tokio::test]
    async fn an_address_needs_no_lookup() {
        for (host, address) in [("127.0.0.1", "127.0.0.1:80"), ("::1", "[::1]:80")] {
            let resolver = Resolver::new(host, 80);
            let addresses = resolver.addresses().await.unwrap();
            assert_eq!(addresses, [address.parse().unwrap()]);
            assert!(resolver.lookup.lock().unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn callers_share_one_lookup_even_when_none_of_them_waits_for_it() {
        let resolver = Resolver::new("replica.invalid", 80);
        let (answer, asked) = mpsc::channel::<io::Result<Vec<SocketAddr>>>();
        let asked = Arc::new(Mutex::new(asked));
        let begun = Arc::new(AtomicU32::new(0));
        let look_up = || {
            let (asked, begun) = (Arc::clone(&asked), Arc::clone(&begun));
            resolver.look_up(move || {
                begun.fetch_add(1, Ordering::SeqCst);
                asked.lock().unwrap().recv().unwrap()
            })
        };
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..100 {
            assert!(pin!(look_up()).poll(&mut cx).is_pending());
        }
        // Both wait before there is an answer: one that came later would ask
        // anew.
        let (mut one, mut other) = (pin!(look_up()), pin!(look_up()));
        assert!(one.as_mut().poll(&mut cx).is_pending());
        assert!(other.as_mut().poll(&mut cx).is_pending());
        let here: SocketAddr = "127.0.0.1:80".parse().unwrap();
        answer.send(Ok(vec![here])).unwrap();
        let (one, other) = tokio::join!(one, other);
        assert_eq!((one.unwrap(), other.unwrap()), (vec![here], vec![here]));
        assert_eq!(begun.load(Ordering::SeqCst), 1);

        // What was found is not kept: the next connection asks anew.
        answer.send(Err(io::ErrorKind::NotFound.into())).unwrap();
        let gone = look_up().await.unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
        assert_eq!(begun.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_lookup_that_panics_is_an_error_and_does_not_stay() {
        let resolver = Resolver::new("replica.invalid", 80);
        let error = resolver.look_up(|| panic!("on purpose")).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Other);
        assert!(resolver.look_up(|| Ok(Vec::new())).await.is_ok());
    }
}
