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
use tokio::task::coop::unconstrained;
use tokio::time::sleep;

use super::budget::Budget;
use super::connection::Activity;
use super::refused::TLS_BEGINS;
use super::request_line::RequestLine;
use crate::stream::Stream;

/// As much as is read while the first line of a request is looked for: more
/// than most requests have.
const HEAD: usize = 8 * 1024;

/// A socket that does what hyper does not: writing fails when an answer takes
/// too long to be read, and a fragment in a request's target is noticed.
pub(super) struct Socket {
    inner: TokioIo<Stream>,
    timeout: Duration,
    activity: Arc<Activity>,
    bodies: Arc<Budget>,
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
    end: End,
    /// Returns when others need the memory of the request's body. `None` while
    /// that is not held.
    body_end: Option<End>,
}

type End = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Socket {
    pub(super) fn new(
        stream: Stream,
        timeout: Duration,
        activity: Arc<Activity>,
        bodies: Arc<Budget>,
        answers: Arc<Budget>,
    ) -> Self {
        Self {
            inner: TokioIo::new(stream),
            timeout,
            activity,
            bodies,
            answers,
            answer: 0,
            waited: Duration::ZERO,
            wait: None,
            exchanges: 0,
            line: RequestLine::default(),
        }
    }

    /// Whether the first line of a request comes next. Of requests that are sent
    /// before the last one was answered, or together with the end of its body, that
    /// is not known.
    fn reads_request_line(&mut self) -> bool {
        if self.activity.is_body_left() {
            // It may still come when the answer has been written.
            return false;
        }
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
    fn in_time<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
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
                body_end: None,
            }
        });
        if self.activity.holds_body() {
            let body_end = wait.body_end.get_or_insert_with(|| {
                let bodies = Arc::clone(&self.bodies);
                let waited = self.waited.saturating_add(wait.since.elapsed());
                Box::pin(async move { bodies.evicted(waited).await })
            });
            if body_end.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
        } else {
            // Another is asked instead.
            wait.body_end = None;
        }
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
        let is_first = self.exchanges == 0 && self.line == RequestLine::default();
        if is_first && read.filled().first() == Some(&TLS_BEGINS) {
            self.activity.set_began_tls();
        }
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
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.in_time(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut_down = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.in_time(cx, shut_down)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use hyper::rt::ReadBuf;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// Catches a fragment that is looked for in the rest of a body, and not in the
    /// request after it.
    #[tokio::test]
    async fn the_line_after_the_rest_of_a_body_is_looked_at_and_the_rest_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (accepted, connected) = tokio::join!(listener.accept(), connecting);
        let (stream, mut client) = (Stream::Plain(accepted.unwrap().0), connected.unwrap());
        let activity = Arc::new(Activity::default());
        let budget = || Arc::new(Budget::new(0));
        let limit = Duration::from_secs(20);
        let mut socket = Socket::new(stream, limit, Arc::clone(&activity), budget(), budget());

        for (is_body, bytes, is_found) in [
            (true, "A #b", false),
            (true, "{}", false),
            (false, "GET /read/a#b HTTP/1.1\r\n", true),
            (false, "#", false),
        ] {
            activity.set_body_left(is_body);
            client.write_all(bytes.as_bytes()).await.unwrap();
            let mut room = [0; 64];
            let mut read = ReadBuf::new(&mut room);
            poll_fn(|cx| Pin::new(&mut socket).poll_read(cx, read.unfilled()))
                .await
                .unwrap();
            assert_eq!(read.filled(), bytes.as_bytes());
            assert_eq!(activity.take_fragment(), is_found, "{bytes}");
        }
    }
}

#[cfg(all(test, feature = "tls"))]
mod tls_tests {
    use std::future::poll_fn;

    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::*;
    use crate::tls::{ClientTls, ServerTls};

    /// Catches an answer whose last bytes TLS has taken in, and that waits for
    /// ever for the client to read what comes before them.
    #[tokio::test]
    async fn what_tls_holds_back_is_not_waited_for_either() {
        let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let [chain, key] = ["chain.pem", "key.pem"].map(|name| directory.path().join(name));
        std::fs::write(&chain, signed.cert.pem()).unwrap();
        std::fs::write(&key, signed.signing_key.serialize_pem()).unwrap();
        let server = ServerTls::from_pem(&chain, key).unwrap();
        let client = ClientTls::from_pem(chain).unwrap();

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (accepted, connected) = tokio::join!(listener.accept(), connecting);
        let name = "localhost".try_into().unwrap();
        let (accepted, _deaf) = tokio::join!(
            server.accept(accepted.unwrap().0),
            client.connect(name, connected.unwrap())
        );
        let stream = accepted.map_err(|(error, _)| error).unwrap();
        let budget = || Arc::new(Budget::new(0));
        let limit = Duration::from_millis(50);
        let mut socket = Socket::new(stream, limit, Arc::default(), budget(), budget());
        let answer = async {
            loop {
                poll_fn(|cx| Pin::new(&mut socket).poll_write(cx, &[0; 4096])).await?;
                poll_fn(|cx| Pin::new(&mut socket).poll_flush(cx)).await?;
            }
        };
        let answered: Result<io::Result<()>, _> = timeout(limit * 400, answer).await;
        let error = answered.expect("it waits for ever").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
