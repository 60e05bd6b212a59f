//! The server of a web page, which leads to a node for all else.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex as Lock, mpsc};
use tokio::task::JoinHandle;

use crate::common::{answer, in_time};

/// Hands each connection on to a node, and writes down what is asked. To a
/// browser that is as if the name of the page's server now led to the node.
pub(crate) struct Relay {
    pub(crate) addr: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    done: Lock<mpsc::UnboundedReceiver<String>>,
    task: JoinHandle<()>,
}

impl Relay {
    pub(crate) async fn new(node: SocketAddr, page: Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (tell, done) = mpsc::unbounded_channel();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let asked = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (page, asked, tell) = (page.clone(), Arc::clone(&asked), tell.clone());
                tokio::spawn(async move {
                    // A browser goes away as it likes.
                    let _ = serve(stream, node, page, &asked, &tell).await;
                });
            }
        });
        Self {
            addr,
            seen,
            done: Lock::new(done),
            task,
        }
    }

    /// What the page has to say in the end.
    pub(crate) async fn done(&self) -> String {
        let mut done = self.done.lock().await;
        in_time(done.recv()).await.unwrap()
    }

    /// Whether somebody has sent such a request.
    pub(crate) fn saw(&self, request: &str) -> bool {
        let seen = self.seen.lock().unwrap();
        seen.iter().any(|asked| asked.starts_with(request))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves one request, and closes.
async fn serve(
    mut browser: TcpStream,
    node: SocketAddr,
    page: Option<String>,
    seen: &Mutex<Vec<String>>,
    tell: &mpsc::UnboundedSender<String>,
) -> std::io::Result<()> {
    let request = request(&mut browser).await?;
    let text = String::from_utf8_lossy(&request).into_owned();
    let answer = match &page {
        Some(page) if text.starts_with("GET /page ") => answer(
            "200 OK\r\nconnection: close\r\ncontent-type: text/html",
            page,
        ),
        Some(_) if text.starts_with("POST /done ") => {
            let (_, said) = text.split_once("\r\n\r\n").unwrap_or_default();
            let _ = tell.send(said.to_owned());
            answer("200 OK\r\nconnection: close", "")
        }
        _ => ask(node, &request).await?,
    };
    seen.lock().unwrap().push(text);
    browser.write_all(&answer).await?;
    browser.shutdown().await
}

/// A whole request, if the browser sends one.
async fn request(browser: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut request = Vec::new();
    while browser.read_buf(&mut request).await? > 0 {
        let text = String::from_utf8_lossy(&request).to_lowercase();
        let Some(head) = request.windows(4).position(|end| end == b"\r\n\r\n") else {
            continue;
        };
        let len = text.split("content-length: ").nth(1);
        let len = len.and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        if request.len() >= head + 4 + len.unwrap_or(0) {
            return Ok(request);
        }
    }
    Err(std::io::ErrorKind::UnexpectedEof.into())
}

/// The node's answer to a request, with which it closes.
async fn ask(node: SocketAddr, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut node = TcpStream::connect(node).await?;
    let line = request
        .windows(2)
        .position(|end| end == b"\r\n")
        .unwrap_or(0);
    let (line, rest) = request.split_at(line);
    node.write_all(&[line, b"\r\nconnection: close", rest].concat())
        .await?;
    let mut answer = Vec::new();
    node.read_to_end(&mut answer).await?;
    Ok(answer)
}
