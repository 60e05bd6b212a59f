//! One connection to a replica, for one call at a time.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::body::{BodyError, read_whole};
use crate::wire::Message;

/// A connection, and hyper's machine that moves its bytes.
///
/// The machine runs inside the call that uses it, not in a task of its own: a
/// call then costs no hand-over between tasks, and dropping it closes the
/// connection. An idle connection is not run at all, so that it does not
/// notice the peer's close before it [is asked](Self::is_live).
pub(crate) struct Connection {
    sender: http1::SendRequest<Message>,
    /// `None` once it has come to its end.
    machine: Option<Pin<Box<Machine>>>,
}

type Machine = http1::Connection<TokioIo<TcpStream>, Message>;

/// A connection that ended before an answer began.
pub(crate) struct Lost {
    pub(crate) error: hyper::Error,
    /// Whether the request may have reached the peer.
    pub(crate) maybe_sent: bool,
}

/// What the peer answered.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Result<Bytes, BodyError<hyper::Error>>,
}

impl Connection {
    pub(crate) async fn open(socket: TcpStream) -> Result<Self, hyper::Error> {
        let (sender, machine) = http1::handshake(TokioIo::new(socket)).await?;
        Ok(Self {
            sender,
            machine: Some(Box::pin(machine)),
        })
    }

    /// Whether the connection can take a request, as far as can be known
    /// without trying.
    pub(crate) fn is_live(&mut self, cx: &mut Context<'_>) -> bool {
        run(&mut self.machine, cx);
        self.sender.is_ready()
    }

    /// Sends a request and reads the whole answer, of whose body `max` bytes
    /// are taken.
    pub(crate) async fn call(
        &mut self,
        request: Request<Message>,
        max: usize,
    ) -> Result<Answer, Lost> {
        let sent = self.sender.try_send_request(request);
        let exchange = async {
            let response: Response<Incoming> = sent.await.map_err(|lost| Lost {
                maybe_sent: lost.message().is_none(),
                error: lost.into_error(),
            })?;
            let (head, mut body) = response.into_parts();
            Ok(Answer {
                status: head.status,
                body: read_whole(&mut body, max).await,
            })
        };
        alongside(&mut self.machine, exchange).await
    }
}

/// Runs the machine until the exchange that depends on it is done.
async fn alongside<T>(
    machine: &mut Option<Pin<Box<Machine>>>,
    exchange: impl Future<Output = T>,
) -> T {
    let mut exchange = pin!(exchange);
    poll_fn(|cx| {
        // Twice, because that is what a small answer takes once it is there:
        // its head, and then, when the exchange asks for it, its body.
        for _ in 0..2 {
            if let Poll::Ready(output) = exchange.as_mut().poll(cx) {
                return Poll::Ready(output);
            }
            run(machine, cx);
        }
        exchange.as_mut().poll(cx)
    })
    .await
}

fn run(machine: &mut Option<Pin<Box<Machine>>>, cx: &mut Context<'_>) {
    if let Some(running) = machine
        && running.as_mut().poll(cx).is_ready()
    {
        // Its error, if any, reaches the exchange by way of hyper; dropping
        // the machine makes sure that nobody waits for it any longer.
        *machine = None;
    }
}
