//! One connection to a replica, for one exchange at a time.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;

use super::socket::{Allowance, Socket};
use crate::body::{BodyError, next_chunk, read_whole};
use crate::stream::Stream;
use crate::wire::NOTHING_STORED;
use crate::wire::frames::Frames;

/// A connection, and hyper's driver that moves its bytes.
///
/// The driver runs inside the future that uses it, not in a task of its own:
/// an exchange then costs no hand-over between tasks, and dropping it closes
/// the connection. An idle connection is not run at all, so that it does not
/// notice the peer's close before it [is asked](Self::is_live).
pub(crate) struct Connection {
    sender: http1::SendRequest<Frames>,
    driver: Driver,
    allowance: Allowance,
}

struct Driver {
    /// `None` once it has come to its end.
    running: Option<Pin<Box<Http>>>,
}

type Http = http1::Connection<TokioIo<Socket>, Frames>;

/// A connection that ended before an answer began.
pub(crate) struct Lost {
    pub(crate) error: hyper::Error,
    /// Whether the request may have reached the peer.
    pub(crate) maybe_sent: bool,
}

/// An answer that has begun, and the connection over which it comes.
pub(crate) struct Answer {
    connection: Connection,
    response: Response<Incoming>,
}

impl Connection {
    pub(crate) async fn open(stream: Stream) -> Result<Self, hyper::Error> {
        let (socket, allowance) = Socket::new(stream);
        let (sender, driver) = http1::handshake(TokioIo::new(socket)).await?;
        let running = Some(Box::pin(driver));
        Ok(Self {
            sender,
            driver: Driver { running },
            allowance,
        })
    }

    /// Whether the connection can take a request, as far as can be known
    /// without trying.
    pub(crate) fn is_live(&mut self, cx: &mut Context<'_>) -> bool {
        self.driver.run(cx);
        self.sender.is_ready()
    }

    /// Sends a request, and returns when the answer begins. More than
    /// `max_head_len` bytes before that are too many.
    pub(crate) fn send(
        mut self,
        request: Request<Frames>,
        max_head_len: usize,
    ) -> impl Future<Output = Result<Answer, Lost>> {
        let sent = self.sender.try_send_request(request);
        async move {
            self.allowance.set(max_head_len.max(1));
            match self.driver.run_until(pin!(sent)).await {
                Ok(response) => {
                    self.allowance.set(usize::MAX);
                    Ok(Answer {
                        connection: self,
                        response,
                    })
                }
                Err(lost) => Err(Lost {
                    maybe_sent: lost.message().is_none(),
                    error: lost.into_error(),
                }),
            }
        }
    }
}

impl Answer {
    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// Whether the replica's own server says that nothing was stored. Nobody
    /// between can say so: whoever answers in the replica's stead cannot know.
    pub(crate) fn says_nothing_was_stored(&self) -> bool {
        let said = || self.response.headers().get_all(NOTHING_STORED).iter();
        said().next().is_some() && said().all(|said| said == "1")
    }

    /// The next bytes of its body; `None` at the end.
    pub(crate) async fn next_chunk(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        let chunk = pin!(next_chunk(self.response.body_mut()));
        self.connection.driver.run_until(chunk).await
    }

    /// Whether its body has been read to the end, as far as is known.
    pub(crate) fn is_complete(&self) -> bool {
        self.response.body().is_end_stream()
    }

    /// The rest of its body, if that has at most `max` bytes.
    pub(crate) async fn rest(&mut self, max: usize) -> Result<Bytes, BodyError<hyper::Error>> {
        let rest = pin!(read_whole(self.response.body_mut(), max));
        self.connection.driver.run_until(rest).await
    }

    /// The connection, for another exchange. The body must have been read to
    /// its end.
    pub(crate) fn into_connection(self) -> Connection {
        self.connection
    }
}

impl Driver {
    /// Runs until the future that depends on it is done.
    async fn run_until<F: Future>(&mut self, mut exchange: Pin<&mut F>) -> F::Output {
        poll_fn(|cx| {
            // A second time, because what the driver has done may be all that
            // the exchange waits for, and may make it ask for more.
            for _ in 0..2 {
                if let Poll::Ready(output) = exchange.as_mut().poll(cx) {
                    return Poll::Ready(output);
                }
                self.run(cx);
            }
            exchange.as_mut().poll(cx)
        })
        .await
    }

    fn run(&mut self, cx: &mut Context<'_>) {
        if let Some(running) = &mut self.running
            && running.as_mut().poll(cx).is_ready()
        {
            // Its error, if any, reaches the exchange by way of hyper; dropping
            // the driver makes sure that nobody waits for it any longer.
            self.running = None;
        }
    }
}
