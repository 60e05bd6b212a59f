//! Reading ranges: rule R-RANGE.

mod error;
mod page;
mod permits;
mod repairs;
mod tally;

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::vec;

use bytes::Bytes;
use futures_core::Stream;

pub use error::{ScanError, ScanReport};

use super::operation::decide_while_wanted;
use super::{Coordinator, CoordinatorBuilder};
use crate::entry::Key;
use crate::range::KeyRange;
use crate::store::ScanLimit;
use crate::telemetry::{Ended, Kind, OperationSpan, Stopwatch};
use crate::transport::Transport;
use page::{PageRead, read_page};
use permits::Permits;

/// See [`CoordinatorBuilder::page`].
pub(super) const DEFAULT_PAGE: ScanLimit = ScanLimit::keys(1024).with_max_bytes(1024 * 1024);

impl<const N: usize, const W: usize, const R: usize, T: Transport> Coordinator<N, W, R, T> {
    /// Reads the keys of a range and their values, in the order of the keys' bytes,
    /// page by page.
    ///
    /// - **R-RANGE.** Each page is decided by R answers, as far as all of them go:
    ///   of each key the greatest entry counts, and a tombstone hides it. So each
    ///   key comes at most once, with a value that a [`get`](Self::get) at some time
    ///   during its page would have returned; and where `R + W > N`, a key that was
    ///   acknowledged before, and is not deleted, comes.
    ///
    /// It is no snapshot: what is written while it goes on may come or not, each key
    /// for itself. Replicas that a page finds behind are repaired, as by `get`
    /// (R-REPAIR), within the time limit of one call for each page and replica.
    ///
    /// ```
    /// # use kvquorum_core::{Coordinator, KeyRange, Replica};
    /// # use kvquorum_mem::MemStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let replicas = [(); 3].map(|()| Replica::new(MemStore::new()));
    /// let map = Coordinator::<3, 2, 2, _>::new(replicas);
    /// for (key, value) in [("tea/green", "3"), ("tea/black", "2"), ("water", "1")] {
    ///     map.put(key, value).await?;
    /// }
    /// let mut teas = map.scan(KeyRange::prefix("tea/"));
    /// let mut found = Vec::new();
    /// while let Some(entry) = teas.next().await {
    ///     let (key, value) = entry?;
    ///     found.push(format!("{key}: {}", value.escape_ascii()));
    /// }
    /// assert_eq!(found, ["tea/black: 2", "tea/green: 3"]);
    /// # Ok(()) }
    /// ```
    ///
    /// To delete what begins with a prefix is a loop. Keys that are written meanwhile
    /// may stay:
    ///
    /// ```
    /// use kvquorum_core::{Coordinator, KeyRange, Transport};
    ///
    /// async fn delete_all<T: Transport>(
    ///     map: &Coordinator<3, 2, 2, T>,
    ///     prefix: &str,
    /// ) -> Result<(), Box<dyn std::error::Error>> {
    ///     let mut entries = map.scan(KeyRange::prefix(prefix));
    ///     while let Some(entry) = entries.next().await {
    ///         let (key, _) = entry?;
    ///         map.delete(key).await?;
    ///     }
    ///     Ok(())
    /// }
    /// # use kvquorum_core::Replica;
    /// # use kvquorum_mem::MemStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let replicas = [(); 3].map(|()| Replica::new(MemStore::new()));
    /// # let map = Coordinator::<3, 2, 2, _>::new(replicas);
    /// # for key in ["a", "b/1", "b/2", "c"] {
    /// #     map.put(key, "").await?;
    /// # }
    /// # delete_all(&map, "b/").await?;
    /// # let mut left = Vec::new();
    /// # let mut entries = map.scan(..);
    /// # while let Some(entry) = entries.next().await {
    /// #     left.push(entry?.0.to_string());
    /// # }
    /// # assert_eq!(left, ["a", "c"]);
    /// # Ok(()) }
    /// ```
    ///
    /// # Bounds
    ///
    /// A page is asked of all replicas, and of each when that is through with the
    /// page before. So a scan has at most one [page](CoordinatorBuilder::page) of each
    /// replica under way and in memory, and a replica that is slow, or far behind,
    /// holds up a page only where the others are fewer than R. A page takes a few
    /// [time limits](CoordinatorBuilder::time_limit) at the most. No page is read
    /// ahead of the one that is handed out.
    ///
    /// # Errors
    ///
    /// The scan ends with the first page that cannot be read: with fewer than R
    /// answers (R-FAIL), or, where repair is
    /// [blocking](CoordinatorBuilder::repair_blocking), where fewer than W replicas
    /// can be brought to hold what it found. [`Scan::rest`] is where to go on.
    pub fn scan(&self, range: impl Into<KeyRange>) -> Scan {
        let coordinator = self.clone();
        let permits = Permits::new();
        let read = move |range| -> Reading {
            let (coordinator, permits) = (coordinator.clone(), permits.clone());
            Box::pin(async move { coordinator.read_page(&permits, range).await })
        };
        let range = range.into();
        Scan {
            read: Box::new(read),
            reading: None,
            page: Vec::new().into_iter(),
            last: None,
            began: range.clone(),
            rest: (!range.is_empty()).then_some(range),
            failed: false,
        }
    }

    async fn read_page(&self, permits: &Permits<N>, range: KeyRange) -> Result<Page, ScanError> {
        let inner = &self.inner;
        let span = OperationSpan::new(Kind::Scan);
        let waited = Stopwatch::started();
        let mut asked_again = 0;
        let (read, ended) = loop {
            let reading = read_page(Arc::clone(inner), permits, range.clone(), R, W);
            let read = decide_while_wanted(&inner.background, span.clone(), reading).await;
            let ended = match read.not_held {
                _ if !read.answered => Ended::Unanswered,
                Some(_) => Ended::NotRepaired,
                None => Ended::Done,
            };
            let asked = Some(read.era);
            if ended == Ended::Done
                || !(inner.asks_again(asked, &read.outcomes, &mut asked_again)).await
            {
                break (read, ended);
            }
        };
        let PageRead {
            values,
            rest,
            answered,
            not_held,
            outcomes,
            ..
        } = read;
        inner.telemetry.end(Kind::Scan, ended, &waited);
        let report = || Box::new(ScanReport::new(R, self.names(), outcomes));
        match not_held {
            _ if !answered => Err(ScanError::Failed(report())),
            Some((key, holders)) => Err(ScanError::NotRepaired {
                key,
                holders,
                needed: W,
                report: report(),
            }),
            None => Ok((values, rest)),
        }
    }
}

/// Values, and what of the range is left.
type Page = (Vec<(Key, Bytes)>, Option<KeyRange>);
type Reading = Pin<Box<dyn Future<Output = Result<Page, ScanError>> + Send>>;

/// A range being read: what [`Coordinator::scan`] returns.
///
/// It is a [`Stream`] of keys and values, and needs no more than its own methods to
/// be read. Nothing is asked of replicas before it is polled. Dropped, it asks for no
/// further page.
///
/// # A cursor
///
/// [`rest`](Self::rest) is what is left of the range at any time: a [`KeyRange`],
/// which can be kept as serde has it, and be scanned by any coordinator of the same
/// replicas. [`next_page`](Self::next_page) reads a page at a time, for a server that
/// hands out pages itself:
///
/// ```
/// use kvquorum_core::{Bytes, Coordinator, Key, KeyRange, ScanError, Transport};
///
/// /// Some entries, and where the next ones begin.
/// async fn list<T: Transport>(
///     map: &Coordinator<3, 2, 2, T>,
///     from: KeyRange,
/// ) -> Result<(Vec<(Key, Bytes)>, Option<KeyRange>), ScanError> {
///     let mut scan = map.scan(from);
///     let page = scan.next_page().await.transpose()?;
///     Ok((page.unwrap_or_default(), scan.rest()))
/// }
/// ```
pub struct Scan {
    read: Box<dyn FnMut(KeyRange) -> Reading + Send>,
    reading: Option<Reading>,
    /// What is to be handed out.
    page: vec::IntoIter<(Key, Bytes)>,
    /// Which key of the page was handed out last.
    last: Option<Key>,
    /// What was left when the page began.
    began: KeyRange,
    /// What is left after the page.
    rest: Option<KeyRange>,
    failed: bool,
}

impl Scan {
    /// The next key and its value; `None` at the end of the range, and after an
    /// error.
    ///
    /// It reads as many pages as it takes to come to a value. That is one or two,
    /// unless there are a great many tombstones: see [`next_page`](Self::next_page).
    /// A replica that makes up tombstones can keep it going for ever; each page is
    /// bounded all the same.
    /// It can be dropped and called again: what is [left](Self::rest) then begins
    /// after the last page that was read.
    ///
    /// # Errors
    ///
    /// As [`Coordinator::scan`].
    pub async fn next(&mut self) -> Option<Result<(Key, Bytes), ScanError>> {
        poll_fn(|cx| self.poll_entry(cx)).await
    }

    /// The keys and values of the next page, or what is left of this one; `None` at
    /// the end of the range, and after an error.
    ///
    /// A page may be empty, and not be the last: where all of its keys are deleted.
    /// So it takes no longer over a million tombstones than over one.
    ///
    /// # Errors
    ///
    /// As [`Coordinator::scan`].
    pub async fn next_page(&mut self) -> Option<Result<Vec<(Key, Bytes)>, ScanError>> {
        if self.page.len() == 0
            && let Err(error) = poll_fn(|cx| self.poll_page(cx)).await?
        {
            return Some(Err(error));
        }
        Some(Ok(std::mem::take(&mut self.page).collect()))
    }

    /// What of the range is left: the keys after the last one that was handed out,
    /// or after the last page, where all of that was. After an error it begins with
    /// the page that could not be read. `None` at the end of the range.
    pub fn rest(&self) -> Option<KeyRange> {
        match &self.last {
            _ if self.page.len() == 0 => self.rest.clone(),
            Some(last) => Some(self.began.after(last)),
            None => Some(self.began.clone()),
        }
    }

    fn poll_entry(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<(Key, Bytes), ScanError>>> {
        if self.page.len() == 0 {
            match ready!(self.poll_page(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(())) => {}
            }
        }
        let Some((key, value)) = self.page.next() else {
            // However many pages are empty, others get to go on in between.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        };
        self.last = Some(key.clone());
        Poll::Ready(Some(Ok((key, value))))
    }

    /// Reads the next page.
    fn poll_page(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<(), ScanError>>> {
        let reading = match (&mut self.reading, &self.rest) {
            (Some(reading), _) => reading,
            (None, Some(rest)) if !self.failed => self.reading.insert((self.read)(rest.clone())),
            (None, _) => return Poll::Ready(None),
        };
        let read = ready!(reading.as_mut().poll(cx));
        self.reading = None;
        Poll::Ready(Some(match read {
            Ok((values, rest)) => {
                let began = std::mem::replace(&mut self.rest, rest);
                self.began = began.unwrap_or_else(|| self.began.clone());
                self.last = None;
                self.page = values.into_iter();
                Ok(())
            }
            Err(error) => {
                self.failed = true;
                Err(error)
            }
        }))
    }
}

impl Stream for Scan {
    type Item = Result<(Key, Bytes), ScanError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_entry(cx)
    }
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scan")
            .field("rest", &self.rest())
            .finish_non_exhaustive()
    }
}

impl<const N: usize, const W: usize, const R: usize, T: Transport> CoordinatorBuilder<N, W, R, T> {
    /// How much a [scan](Coordinator::scan) asks of each replica at a time. 1,024
    /// keys and 1 MiB by default. Replicas have
    /// [limits](crate::Limits::max_scan_keys) of their own.
    pub fn page(mut self, limit: ScanLimit) -> Self {
        self.settings.page = limit;
        self
    }
}
