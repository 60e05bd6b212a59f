//! What waits for the writer.
//!
//! A request lies here for as long as its caller waits: a caller that leaves
//! takes its request along, unless the writer has taken it already. So the queue
//! holds nothing but what live callers hold anyway, and needs no bound of its
//! own; and nothing is granted to a caller that may not be polled: the writer
//! takes what is first, whatever its caller does meanwhile.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub(crate) struct Queue<T> {
    waiting: Mutex<Waiting<T>>,
    changed: Condvar,
}

struct Waiting<T> {
    /// By their numbers, in the order in which they came.
    items: BTreeMap<u64, T>,
    next: u64,
    closed: bool,
}

/// What the writer is to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<T> {
    Item(T),
    TimedOut,
    /// The queue is closed, and nothing is left in it.
    Closed,
}

/// An item's place in the queue. Dropping it takes the item back, where the
/// writer does not have it yet.
pub(crate) struct Ticket<'a, T> {
    queue: &'a Queue<T>,
    number: u64,
}

impl<T> Drop for Ticket<'_, T> {
    fn drop(&mut self) {
        let item = self.queue.lock().items.remove(&self.number);
        // Not under the lock: it may be long.
        drop(item);
    }
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        let waiting = Waiting {
            items: BTreeMap::new(),
            next: 0,
            closed: false,
        };
        Self {
            waiting: Mutex::new(waiting),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an item last; `None` where the queue is closed.
    pub(crate) fn push(&self, item: T) -> Option<Ticket<'_, T>> {
        let mut waiting = self.lock();
        if waiting.closed {
            return None;
        }
        let number = waiting.next;
        waiting.next = number.wrapping_add(1);
        waiting.items.insert(number, item);
        drop(waiting);
        self.changed.notify_one();
        Some(Ticket {
            queue: self,
            number,
        })
    }

    /// Takes the first item, where there is one and it is wanted.
    pub(crate) fn take_if(&self, wanted: impl FnOnce(&T) -> bool) -> Option<T> {
        let mut waiting = self.lock();
        let first = waiting.items.first_entry()?;
        wanted(first.get()).then(|| first.remove())
    }

    /// Waits for an item, until this time at the latest.
    pub(crate) fn next(&self, deadline: Option<Instant>) -> Next<T> {
        let mut waiting = self.lock();
        loop {
            if let Some((_, item)) = waiting.items.pop_first() {
                return Next::Item(item);
            }
            if waiting.closed {
                return Next::Closed;
            }
            waiting = match deadline {
                None => self.changed.wait(waiting),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Next::TimedOut;
                    }
                    let waited = self.changed.wait_timeout(waiting, left);
                    Ok(waited.unwrap_or_else(PoisonError::into_inner).0)
                }
            }
            .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets nothing more in. What waits stays.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().items.is_empty()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Lets nothing more in, and drops what waits.
    pub(crate) fn close_and_clear(&self) {
        self.close();
        let items = std::mem::take(&mut self.lock().items);
        drop(items);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bugs: items change their order; one whose caller has left is made, or
    /// stays in memory; a caller that leaves late takes another's.
    #[test]
    fn items_come_in_order_without_those_taken_back() {
        let queue = Queue::new();
        let tickets: Vec<_> = (0..4).map(|item| queue.push(item)).collect();
        let mut tickets = tickets.into_iter();
        let (first, second) = (tickets.next(), tickets.next());
        drop(second);
        assert_eq!(queue.next(None), Next::Item(0));
        drop(first);
        assert_eq!(queue.take_if(|item| *item == 3), None);
        assert_eq!(queue.take_if(|item| *item == 2), Some(2));
        drop(tickets);
        assert_eq!(queue.next(Some(Instant::now())), Next::TimedOut);
    }

    /// Bugs: what waits when the queue is closed is lost; something comes in
    /// after that.
    #[test]
    fn a_closed_queue_gives_out_what_it_has() {
        let queue = Queue::new();
        let ticket = queue.push(1);
        queue.close();
        assert!(queue.push(2).is_none());
        assert_eq!(queue.next(None), Next::Item(1));
        assert_eq!(queue.next(None), Next::Closed);
        drop(ticket);
    }
}
