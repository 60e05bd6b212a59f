//! A client's side of a connection, which does not read for ever before an
//! answer begins.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream::Stream;

/// A socket on which reading fails when too much comes before an answer begins.
///
/// hyper bounds one head, but not how many interim ones (statuses of the 100s)
/// come before it.
pub(crate) struct Socket {
    inner: Stream,
    allowance: Allowance,
}

/// How many bytes may still be read.
#[derive(Clone)]
pub(crate) struct Allowance(Arc<AtomicUsize>);

impl Socket {
    /// With an allowance that has no bounds.
    pub(crate) fn new(inner: Stream) -> (Self, Allowance) {
        let allowance = Allowance(Arc::new(AtomicUsize::new(usize::MAX)));
        let socket = Self {
            inner,
            allowance: allowance.clone(),
        };
        (socket, allowance)
    }
}

impl Allowance {
    pub(crate) fn set(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    /// What a read may be too much for is the next one: the last bytes of a head
    /// may come together with any part of the body.
    fn is_used_up(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    fn use_up(&self, bytes: usize) {
        let left = self.0.load(Ordering::Relaxed);
        // One task at a time reads and sets it.
        self.set(left.saturating_sub(bytes));
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.allowance.is_used_up() {
            let error = io::Error::other("too much came before the answer began");
            return Poll::Ready(Err(error));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        let count = buf.filled().len().saturating_sub(before);
        self.allowance.use_up(count);
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
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
