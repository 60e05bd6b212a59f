//! What the tests share: a store to look into, a server over it, and a client
//! that hides nothing of HTTP.

// Each test file uses its own part of this.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::ops::Bound;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvquorum_core::{
    Action, Change, Entry, Key, Record, Replica, Request, Response, ScanLimit, Store, StoreError,
    Timestamp, Transport, TransportError, Version, WriterId,
};
use kvquorum_http::{
    HttpError, HttpTransport, ReplicaService, ReplicaServiceBuilder, Server, ServerBuilder,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// What every wait of a test ends after: far more than it takes.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Short enough for a test to wait for, as a limit that is meant to be hit.
pub const SHORT: Duration = Duration::from_millis(200);

/// Long enough that a test which needs it to pass fails by [`LIMIT`].
pub const NEVER: Duration = Duration::from_secs(3600);

/// A store in one lock, which can be made to wait or to fail.
#[derive(Clone)]
pub struct TestStore {
    map: Arc<Mutex<BTreeMap<Key, Record>>>,
    /// What each call takes one of, and gives back.
    pub gate: Arc<Semaphore>,
    pub calls: Arc<Semaphore>,
}

#[derive(Debug, thiserror::Error)]
#[error("the disk is on fire")]
struct OnFire(#[source] NoWater);

#[derive(Debug, thiserror::Error)]
#[error("no water")]
struct NoWater;

impl TestStore {
    pub fn new() -> Self {
        Self {
            map: Arc::default(),
            gate: Arc::new(Semaphore::new(1000)),
            calls: Arc::new(Semaphore::new(0)),
        }
    }

    /// A store whose calls wait until the gate is given permits.
    pub fn gated() -> Self {
        Self {
            gate: Arc::new(Semaphore::new(0)),
            ..Self::new()
        }
    }

    /// Makes every later call fail.
    pub fn set_on_fire(&self) {
        self.gate.close();
    }

    /// Returns once a call has reached the store: once for each call.
    pub async fn called(&self) {
        in_time(self.calls.acquire()).await.unwrap().forget();
    }

    /// What requests have brought here.
    pub fn entries(&self) -> Vec<(Key, Entry)> {
        let map = self.map.lock().unwrap();
        // Under the empty key is what the replica knows of itself.
        let named = map.iter().filter(|(key, _)| !key.is_empty());
        named
            .filter_map(|(key, record)| Some((key.clone(), record.entry()?)))
            .collect()
    }

    pub fn insert(&self, key: &str, entry: Entry) {
        self.map.lock().unwrap().insert(key.into(), entry.into());
    }

    async fn enter(&self, key: &Key) -> Result<(), StoreError> {
        // What the replica keeps of itself is no call's.
        if key.is_empty() {
            return Ok(());
        }
        self.calls.add_permits(1);
        let permit = self.gate.acquire().await;
        permit
            .map(drop)
            .map_err(|_| StoreError::new(OnFire(NoWater)))
    }
}

impl Store for TestStore {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        self.enter(key).await?;
        Ok(self.map.lock().unwrap().get(key).cloned())
    }

    async fn apply(&self, key: &Key, change: Change<'_>) -> Result<Response, StoreError> {
        self.enter(key).await?;
        let mut map = self.map.lock().unwrap();
        let decision = change.decide(map.get(key));
        match decision.action {
            Action::Keep => None,
            Action::Replace(record) => map.insert(key.clone(), record),
            Action::Remove => map.remove(key),
        };
        Ok(decision.response)
    }

    async fn scan(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        limit: ScanLimit,
    ) -> Result<Vec<(Key, Record)>, StoreError> {
        Ok(limit.take(self.map.lock().unwrap().range::<Key, _>(range)))
    }
}

/// A store that hangs, or fails, where a key says so.
pub struct Picky(TestStore);

impl Picky {
    pub fn new() -> Self {
        Self(TestStore::new())
    }

    async fn look_at(&self, key: &Key) -> Result<(), StoreError> {
        match key.as_ref() {
            b"hangs" => std::future::pending().await,
            b"fails" => Err(StoreError::new(std::io::Error::other("no disk"))),
            _ => Ok(()),
        }
    }
}

impl Store for Picky {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        self.look_at(key).await?;
        self.0.get(key).await
    }

    async fn apply(&self, key: &Key, change: Change<'_>) -> Result<Response, StoreError> {
        self.look_at(key).await?;
        self.0.apply(key, change).await
    }

    async fn scan(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        limit: ScanLimit,
    ) -> Result<Vec<(Key, Record)>, StoreError> {
        self.0.scan(range, limit).await
    }
}

/// The body of a write on the plain face.
pub const WRITE: &str = r#"{"key":"k","value":1,"timestamp":1}"#;

pub fn version(millis: u64) -> Version {
    Version {
        timestamp: Timestamp::new(millis, 0).unwrap(),
        writer: WriterId::new(7),
    }
}

pub fn read(key: &str) -> Request {
    Request::read(key)
}

pub fn write(key: &str, millis: u64, value: &str) -> Request {
    Request::write(key, Entry::new(version(millis), value.to_owned()))
}

/// A server with default settings over a fresh store.
pub async fn serve() -> (Server, TestStore) {
    let store = TestStore::new();
    (serve_store(&store).await, store)
}

pub async fn serve_store(store: &TestStore) -> Server {
    Server::bind("127.0.0.1:0", Replica::new(store.clone()).of_new_cluster())
        .await
        .unwrap()
}

pub fn service(store: &TestStore) -> ReplicaService<TestStore> {
    ReplicaService::new(Replica::new(store.clone()).of_new_cluster())
}

pub async fn start(builder: ServerBuilder, store: &TestStore) -> Server {
    builder.bind("127.0.0.1:0", service(store)).await.unwrap()
}

/// Asserts that the server answers a newcomer, from its store.
pub async fn answers(to: SocketAddr) {
    let mut client = Raw::connect(to).await;
    let close = "GET /read/none HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n";
    assert_eq!(client.ask(close).await.status, 200);
}

/// The settings of a service over this store.
pub fn settings(store: &TestStore) -> ReplicaServiceBuilder<TestStore> {
    ReplicaService::builder(Replica::new(store.clone()).of_new_cluster())
}

pub fn transport(to: SocketAddr) -> HttpTransport {
    HttpTransport::new(to).unwrap()
}

/// A transport whose calls do not share exchanges.
pub fn unbatched(to: SocketAddr) -> HttpTransport {
    HttpTransport::builder(to).max_batch(1).build().unwrap()
}

pub async fn call(transport: &HttpTransport, request: Request) -> Result<Response, TransportError> {
    in_time(transport.call(&request)).await
}

/// The transport's own error inside core's.
pub fn cause(error: &TransportError) -> &HttpError {
    std::error::Error::source(error)
        .and_then(|cause| cause.downcast_ref())
        .unwrap_or_else(|| panic!("no HttpError in {error:?}"))
}

/// Fails the test where it would otherwise hang.
pub async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LIMIT, future)
        .await
        .expect("this takes no time, or it hangs")
}

/// Waits until something is so.
pub async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    in_time(async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// This test once more, in a process that may open so many files; `None` in that
/// process itself.
pub fn again_with_few_files(count: usize, this: &str) -> Option<Command> {
    const FEW_FILES: &str = "KVQUORUM_HTTP_TEST_WITH_FEW_FILES";
    if std::env::var_os(FEW_FILES).is_some() {
        return None;
    }
    let script = format!("ulimit -n {count} && exec \"$0\" --exact \"$1\" --nocapture");
    let mut again = Command::new("sh");
    again
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .arg(this)
        .env(FEW_FILES, "yes");
    Some(again)
}

/// An HTTP client of which every byte is in the test's hands.
pub struct Raw {
    pub stream: TcpStream,
    read: Vec<u8>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    head: String,
    pub body: String,
    /// Whether the body comes in chunks, and is still to be read.
    pub is_chunked: bool,
}

impl Raw {
    pub async fn connect(to: SocketAddr) -> Self {
        Self::new(TcpStream::connect(to).await.unwrap())
    }

    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            read: Vec::new(),
        }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        in_time(self.stream.write_all(bytes.as_ref()))
            .await
            .unwrap();
    }

    /// The next answer; `None` where the server closes instead.
    /// Of an answer in chunks, this is the head.
    pub async fn answer(&mut self) -> Option<Answer> {
        let head_len = self.message_head().await?;
        let head = String::from_utf8(self.read.drain(..head_len).collect()).unwrap();
        let status = head[9..12].parse().unwrap();
        let mut answer = Answer {
            status,
            head,
            body: String::new(),
            is_chunked: false,
        };
        answer.is_chunked = answer.header("transfer-encoding") == Some("chunked");
        let len: usize = answer
            .header("content-length")
            .map_or(0, |len| len.parse().unwrap());
        while self.read.len() < len {
            assert!(self.more().await, "the server broke off");
        }
        answer.body = String::from_utf8(self.read.drain(..len).collect()).unwrap();
        Some(answer)
    }

    /// The next chunk of an answer that comes in chunks; `None` at the end.
    pub async fn chunk(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = self.read.windows(2).position(|end| end == b"\r\n") {
                let len = std::str::from_utf8(&self.read[..end]).unwrap();
                let len = usize::from_str_radix(len, 16).unwrap();
                if self.read.len() >= end + 2 + len + 2 {
                    self.read.drain(..end + 2);
                    let chunk = self.read.drain(..len).collect();
                    self.read.drain(..2);
                    return (len > 0).then_some(chunk);
                }
            }
            assert!(self.more().await, "the server broke off");
        }
    }

    /// The head of the next answer, which has no body.
    pub async fn head(&mut self) -> String {
        let head_len = self.message_head().await.expect("an answer");
        String::from_utf8(self.read.drain(..head_len).collect()).unwrap()
    }

    /// Sends what is to be answered, and returns the answer.
    pub async fn ask(&mut self, bytes: impl AsRef<[u8]>) -> Answer {
        self.send(bytes).await;
        self.answer().await.expect("an answer")
    }

    /// Returns once the server has closed the connection, which it must do
    /// without another word.
    pub async fn closed(&mut self) {
        assert!(
            !self.more().await,
            "{:?}",
            String::from_utf8_lossy(&self.read)
        );
    }

    /// The length of the next message's head, once all of it is there.
    async fn message_head(&mut self) -> Option<usize> {
        loop {
            if let Some(at) = self.read.windows(4).position(|end| end == b"\r\n\r\n") {
                return Some(at + 4);
            }
            if !self.more().await {
                assert_eq!(self.read, b"", "the server broke off");
                return None;
            }
        }
    }

    async fn more(&mut self) -> bool {
        // A reset is a close.
        in_time(self.stream.read_buf(&mut self.read))
            .await
            .unwrap_or(0)
            > 0
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// The message of an error, which must be in JSON.
    pub fn error(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/json"));
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        body["error"].as_str().expect("an error").to_owned()
    }
}

pub fn post(path: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let len = body.len();
    let content_type = match path.starts_with("/v2/") {
        true => "application/octet-stream",
        // What curl says, whatever it is.
        false => "application/x-www-form-urlencoded",
    };
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: {content_type}\r\n\
         content-length: {len}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

pub fn get_path(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
}

/// The body of an exchange with these requests, to whichever replica it is, and of
/// whichever era.
pub fn requests<R: AsRef<[u8]>>(requests: impl IntoIterator<Item = R>) -> Vec<u8> {
    let frame = |asked: R| {
        let request = [b"\0\0", asked.as_ref()].concat();
        [&(request.len() as u32).to_le_bytes(), &request[..]].concat()
    };
    requests.into_iter().flat_map(frame).collect()
}

/// A frame that says that this is the reply to that request.
pub fn reply(which: u32, reply: impl AsRef<[u8]>) -> Vec<u8> {
    let reply = reply.as_ref();
    let len = (reply.len() as u32).to_le_bytes();
    [&which.to_le_bytes(), &len[..], reply].concat()
}

/// The frames of the body of an answer: which request, and its reply.
pub fn replies(mut body: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut replies = Vec::new();
    while let Some((which, rest)) = body.split_first_chunk() {
        let (len, rest) = rest.split_first_chunk().unwrap();
        let (reply, rest) = rest.split_at(u32::from_le_bytes(*len) as usize);
        replies.push((u32::from_le_bytes(*which), reply.to_vec()));
        body = rest;
    }
    assert_eq!(body, b"");
    replies
}

/// The reply to a merge that was applied.
pub const APPLIED: &[u8] = b"\x00\x01\x00";

/// The answer to a single merge that was applied.
pub fn applied() -> Vec<u8> {
    answer("200 OK", reply(0, APPLIED))
}

/// The answer to a single request that is refused: the key is empty.
pub fn refused() -> Vec<u8> {
    answer("200 OK", reply(0, b"\x00\x02\x00"))
}

/// A server that the test plays: each connection is handed to `play` once its
/// first request has been read.
pub struct Stub {
    pub addr: SocketAddr,
    /// One permit for each request that arrived.
    pub requests: Arc<Semaphore>,
    task: tokio::task::JoinHandle<()>,
}

impl Stub {
    pub async fn new<P, F>(play: P) -> Self
    where
        P: Fn(usize, TcpStream) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let requests = Arc::new(Semaphore::new(0));
        let arrived = requests.clone();
        let play = Arc::new(play);
        let task = tokio::spawn(async move {
            for nth in 0.. {
                let mut stream = listener.accept().await.unwrap().0;
                let (play, arrived) = (play.clone(), arrived.clone());
                tokio::spawn(async move {
                    if read_request(&mut stream).await {
                        arrived.add_permits(1);
                        play(nth, stream).await;
                    }
                });
            }
        });
        Self {
            addr,
            requests,
            task,
        }
    }

    /// A stub that answers every connection's first request with these bytes,
    /// and closes.
    pub async fn answering(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::new(move |_, mut stream| {
            let bytes = bytes.clone();
            async move {
                let _ = stream.write_all(&bytes).await;
                // Without this the client might see a reset before the bytes.
                let _ = stream.shutdown().await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        })
        .await
    }
}

/// A stub that answers the first connection's first request with an ack and
/// closes it on its second, and hands the connections after it to `play`.
pub async fn closes_on_second_request<P, F>(play: P) -> Stub
where
    P: Fn(TcpStream) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    Stub::new(move |nth, mut stream| {
        let play = play.clone();
        async move {
            if nth == 0 {
                stream.write_all(&applied()).await.unwrap();
                assert!(read_request(&mut stream).await);
            } else {
                play(stream).await;
            }
        }
    })
    .await
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A client to which an answer is being streamed.
pub async fn streamed(to: SocketAddr, store: &TestStore) -> Raw {
    let mut client = Raw::connect(to).await;
    let answer = client
        .ask(post("/v2/call", requests([b"\x00\x01k"; 2])))
        .await;
    assert!(answer.is_chunked);
    store.called().await;
    store.called().await;
    client
}

/// Reads one request with a `content-length`, and nothing after it.
pub async fn read_request(stream: &mut TcpStream) -> bool {
    read_body(stream).await.is_some()
}

/// Reads one request with a `content-length`, and returns its body; `None`
/// where the client closes instead.
pub async fn read_body(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read).to_lowercase();
        if let Some(head) = read.windows(4).position(|end| end == b"\r\n\r\n") {
            let len = text.split("content-length: ").nth(1).unwrap();
            let len: usize = len.split("\r\n").next().unwrap().parse().unwrap();
            if read.len() >= head + 4 + len {
                return Some(read.split_off(head + 4));
            }
        }
        if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}

/// An answer by which a replica says that nothing was stored.
pub fn nothing_stored(status: &str, body: &str) -> Vec<u8> {
    let head = format!("{status}\r\nkvquorum-nothing-stored: 1");
    answer(&head, body)
}

/// An answer of this status with this body.
pub fn answer(status: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let len = body.len();
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {len}\r\n\r\n");
    [head.as_bytes(), body].concat()
}
