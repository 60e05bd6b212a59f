//! A server's side of a connection.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop::unconstrained;
use tokio::time::sleep;

use super::budget::Budget;
use super::connection::Activity;
use super::request_line::RequestLine;

/// As much as is read while the first line of a request is looked for: more
/// than most requests have.
const HEAD: usize = 8 * 1024;

/// A socket that does what hyper does not: writing fails when an answer takes
/// too long to be read, and a fragment in a request's target is noticed.
pub(super) struct Socket {
    inner: TokioIo<TcpStream>,
    timeout: Duration,
    activity: Arc<Activity>,
    answers: Arc<Budget>,
    /// The number of the answer that is being written.
    answer: usize,
    /// How long that has waited before the wait under way.
    waited: Duration,
    wait: Option<Wait>,
    /// How many exchanges there were before the request that is being read.
    exchanges: usize,
    line: RequestLine,
}

/// A wait for the client to read.
struct Wait {
    since: Instant,
    /// Returns when it has lasted for too long.
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Socket {
    pub(super) fn new(
        stream: TcpStream,
        timeout: Duration,
        activity: Arc<Activity>,
        answers: Arc<Budget>,
    ) -> Self {
        Self {
            inner: TokioIo::new(stream),
            timeout,
            activity,
            answers,
            answer: 0,
            waited: Duration::ZERO,
            wait: None,
            exchanges: 0,
            line: RequestLine::default(),
        }
    }

    /// Whether the first line of a request comes next. Of requests that are sent
    /// before the last one was answered, that is not known.
    fn reads_request_line(&mut self) -> bool {
        let exchanges = self.activity.exchanges();
        if exchanges != self.exchanges {
            self.exchanges = exchanges;
            self.line = if self.activity.is_idle() {
                RequestLine::default()
            } else {
                RequestLine::Over
            };
        }
        self.line != RequestLine::Over
    }

    /// The outcome of a write, given that its time is limited.
    fn in_time(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_pending() {
            ready!(self.poll_wait(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if let Some(wait) = self.wait.take() {
            self.waited = self.waited.saturating_add(wait.since.elapsed());
            self.activity.set_unread(false);
        }
        written
    }

    /// Ready once the client has kept this answer waiting for too long.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let answer = self.activity.answer();
        if answer != self.answer {
            self.answer = answer;
            self.waited = Duration::ZERO;
            self.wait = None;
        }
        let wait = self.wait.get_or_insert_with(|| {
            self.activity.set_unread(true);
            let left = self.timeout.saturating_sub(self.waited);
            let (answers, waited) = (Arc::clone(&self.answers), self.waited);
            let end = async move {
                tokio::select! {
                    () = sleep(left) => {}
                    () = answers.evicted(waited) => {}
                }
            };
            Wait {
                since: Instant::now(),
                // The client may read just enough for each poll to use up the
                // task's cooperative budget before it comes to this.
                end: Box::pin(unconstrained(end)),
            }
        });
        wait.end.as_mut().poll(cx)
    }
}

impl Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.reads_request_line() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        // hyper's buffer does not show what has been read into it.
        let mut bytes = [const { MaybeUninit::uninit() }; HEAD];
        let mut read = ReadBuf::uninit(&mut bytes);
        let mut read = read.take(buf.remaining());
        ready!(Pin::new(self.inner.inner_mut()).poll_read(cx, &mut read))?;
        if self.line.has_fragment(read.filled()) {
            self.activity.set_fragment();
        }
        buf.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

impl Write for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.in_time(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.in_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
