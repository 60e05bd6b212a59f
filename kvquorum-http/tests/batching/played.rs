//! A replica that the test plays, exchange by exchange.

use super::*;

pub(crate) type Called = Result<Response, TransportError>;
pub(crate) use kvquorum_core::Call;

/// The reply to a request that is refused: the key is empty.
pub(crate) const REFUSED: &[u8] = b"\x00\x02\x00";

/// A replica that the test plays, exchange by exchange.
pub(crate) struct Played {
    pub(crate) replica: HttpTransport,
    pub(crate) exchanges: mpsc::UnboundedReceiver<Exchange>,
}

pub(crate) struct Exchange {
    /// The keys of its requests.
    pub(crate) keys: Vec<String>,
    /// The number of its connection.
    pub(crate) connection: usize,
    pub(crate) stream: TcpStream,
    pub(crate) exchanges: mpsc::UnboundedSender<Exchange>,
}

impl Played {
    /// One whose transport queues calls for as long as it takes.
    pub(crate) async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    pub(crate) async fn with(
        set: impl FnOnce(HttpTransportBuilder) -> HttpTransportBuilder,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let builder = HttpTransport::builder(listener.local_addr().unwrap());
        let builder = builder.batch_wait(NEVER);
        let (sender, exchanges) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            for connection in 0.. {
                let stream = listener.accept().await.unwrap().0;
                tokio::spawn(Exchange::read(stream, connection, sender.clone()));
            }
        });
        Self {
            replica: set(builder).build().unwrap(),
            exchanges,
        }
    }

    /// The next exchange.
    pub(crate) async fn exchange(&mut self) -> Exchange {
        in_time(self.exchanges.recv()).await.unwrap()
    }

    /// The next exchange, which comes while this call goes on without an answer.
    pub(crate) async fn exchange_beside(&mut self, call: &mut Call) -> Exchange {
        tokio::select! {
            called = call => panic!("{called:?}"),
            exchange = in_time(self.exchanges.recv()) => exchange.unwrap(),
        }
    }

    /// The exchange that this call has to itself.
    pub(crate) async fn single(&mut self, call: &mut Call) -> Exchange {
        let exchange = self.exchange_beside(call).await;
        assert_eq!(exchange.keys.len(), 1);
        exchange
    }

    /// Nothing is sent as things are.
    pub(crate) async fn is_silent(&mut self) {
        let sent = tokio::time::timeout(SHORT, self.exchanges.recv()).await;
        assert!(sent.is_err(), "{:?}", sent.unwrap().unwrap().keys);
    }
}

impl Exchange {
    pub(crate) async fn read(
        mut stream: TcpStream,
        connection: usize,
        to: mpsc::UnboundedSender<Self>,
    ) {
        if let Some(body) = read_body(&mut stream).await {
            let mut keys = Vec::new();
            let mut rest = &body[..];
            while let Some((len, after)) = rest.split_first_chunk() {
                let (request, after) = after.split_at(u32::from_le_bytes(*len) as usize);
                // To whichever replica, of whichever era, a kind of request, and its key.
                let key = &request[4..4 + usize::from(request[3])];
                keys.push(String::from_utf8(key.to_vec()).unwrap());
                rest = after;
            }
            let exchanges = to.clone();
            let _ = to.send(Self {
                keys,
                connection,
                stream,
                exchanges,
            });
        }
    }

    pub(crate) async fn writes(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Answers, and takes the connection's next request.
    pub(crate) async fn answers(mut self, bytes: impl AsRef<[u8]>) {
        self.writes(bytes).await;
        tokio::spawn(Self::read(self.stream, self.connection, self.exchanges));
    }

    /// Answers each request with the entry that has its key as the value, the
    /// last one first.
    pub(crate) async fn answers_all(self) {
        let answers = self.keys.iter().enumerate().rev();
        let body = answers.flat_map(|(at, key)| reply(at as u32, value_reply(key)));
        let body: Vec<u8> = body.collect();
        self.answers(answer("200 OK", body)).await;
    }

    /// Begins an answer in chunks.
    pub(crate) async fn begins(&mut self) {
        self.writes("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
    }

    pub(crate) async fn chunk(&mut self, chunk: impl AsRef<[u8]>) {
        let chunk = chunk.as_ref();
        self.writes(format!("{:x}\r\n", chunk.len())).await;
        self.writes(chunk).await;
        self.writes("\r\n").await;
    }

    /// Returns once the client has closed the connection.
    pub(crate) async fn closed(&mut self) {
        let rest = in_time(self.stream.read_to_end(&mut Vec::new())).await;
        assert_eq!(rest.unwrap_or(0), 0);
    }
}

/// The reply to a get that finds the key as the value.
pub(crate) fn value_reply(key: &str) -> Vec<u8> {
    let head = [0, 0, 0, 1, 0x80, 0x80, 0x04, 7, 0, 1, key.len() as u8];
    [&head, key.as_bytes()].concat()
}

pub(crate) fn found(key: &str) -> Response {
    Response::Entry(Some(Entry::new(version(1), key.to_owned())).into())
}

/// What one poll of this comes to.
pub(crate) async fn polled<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    poll_fn(|cx| match Pin::new(&mut *future).poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Fails unless the call brings back the entry of this key.
pub(crate) async fn finds(call: Call, key: &str) {
    assert_eq!(in_time(call).await.unwrap(), found(key));
}

pub(crate) fn no_answer(called: Called) -> HttpError {
    match called {
        Err(TransportError::NoAnswer(error)) => *error.downcast().unwrap(),
        other => panic!("{other:?}"),
    }
}
