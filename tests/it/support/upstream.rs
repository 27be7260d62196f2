//! An upstream that is a script on a socket: it keeps every request as it stood on the wire and
//! answers with bytes that the test wrote.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::{ANY, eventually};

/// A request as it stood on the wire.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Request line and headers.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// When its last byte had come.
    pub(crate) at: Instant,
    /// Which connection it came on, from 0.
    pub(crate) connection: usize,
}

impl Seen {
    /// Every value of a header, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    /// The names of all headers.
    pub(crate) fn names(&self) -> Vec<String> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.map(|(key, _)| key.to_ascii_lowercase()).collect()
    }

    /// Method, path and version.
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }
}

/// The upstream; dropping it ends it and its connections.
pub(crate) struct Upstream {
    pub(crate) addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: AbortHandle,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Upstream {
    /// Reads requests, of which `answer` gets the number (from 0) and the socket; it returns the
    /// socket to keep the connection.
    pub(crate) async fn start<F, Answered>(answer: F) -> Self
    where
        F: Fn(usize, TcpStream) -> Answered + Clone + Send + 'static,
        Answered: Future<Output = Option<TcpStream>> + Send + 'static,
    {
        Self::start_on(Arc::default(), answer).await
    }

    /// The same with a list of the requests that `answer` can look into.
    pub(crate) async fn start_on<F, Answered>(seen: Arc<Mutex<Vec<Seen>>>, answer: F) -> Self
    where
        F: Fn(usize, TcpStream) -> Answered + Clone + Send + 'static,
        Answered: Future<Output = Option<TcpStream>> + Send + 'static,
    {
        let listener = TcpListener::bind(ANY).await.expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let kept = Arc::clone(&seen);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            for number in 0.. {
                let (socket, _) = listener.accept().await.expect("a connection");
                connections.spawn(serve(number, socket, answer.clone(), Arc::clone(&kept)));
            }
        });
        Self { addr, seen, task: accepting.abort_handle() }
    }

    /// Answers every request with these bytes and keeps the connection.
    pub(crate) async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer: Arc<[u8]> = answer.into().into();
        Self::start(move |_, mut socket| {
            let answer = Arc::clone(&answer);
            async move { socket.write_all(&answer).await.ok().map(|()| socket) }
        })
        .await
    }

    /// Takes `latency` and answers each request as `answer` says, and keeps the connection.
    pub(crate) async fn answering_each<F>(latency: Duration, answer: F) -> Self
    where
        F: Fn(&Seen) -> Vec<u8> + Clone + Send + 'static,
    {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&seen);
        Self::start_on(seen, move |number, mut socket| {
            let answer = answer(&kept.lock()[number]);
            async move {
                tokio::time::sleep(latency).await;
                socket.write_all(&answer).await.ok().map(|()| socket)
            }
        })
        .await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Every request so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    /// The last request, of exactly so many.
    pub(crate) fn last_of(&self, count: usize) -> Seen {
        let seen = self.seen();
        assert_eq!(seen.len(), count, "{seen:#?}");
        seen[count - 1].clone()
    }

    /// Waits until so many requests have come.
    pub(crate) async fn wait_seen(&self, count: usize) {
        let what = format!("{count} requests upstream");
        eventually(&what, async || (self.seen.lock().len() >= count).then_some(())).await;
    }
}

async fn serve<F, Answered>(
    connection: usize,
    mut socket: TcpStream,
    answer: F,
    kept: Arc<Mutex<Vec<Seen>>>,
) where
    F: Fn(usize, TcpStream) -> Answered,
    Answered: Future<Output = Option<TcpStream>>,
{
    // Each write is a packet of its own.
    socket.set_nodelay(true).expect("an open socket");
    while let Some((head, body)) = read_request(&mut socket).await {
        let number = {
            let mut kept = kept.lock();
            kept.push(Seen { head, body, at: Instant::now(), connection });
            kept.len() - 1
        };
        match answer(number, socket).await {
            Some(kept) => socket = kept,
            None => return,
        }
    }
}

/// One request with a length; `None` if the connection ends before it is whole.
pub(crate) async fn read_request(socket: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end - 4]).into_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>())?.ok()
    });
    let mut body = bytes.split_off(end);
    while body.len() < length.unwrap_or(0) {
        if socket.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some((head, body))
}

/// An answer with a length.
pub(crate) fn answer(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// A completion that used seven tokens.
pub(crate) fn completion() -> Vec<u8> {
    answer("200 OK", "content-type: application/json\r\n", COMPLETION)
}

/// The body of [`completion`].
pub(crate) const COMPLETION: &str = r#"{"id": "1",  "choices": [],
 "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}}"#;

/// The head of a stream in chunks.
pub(crate) const STREAM_HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// One chunk of a stream.
pub(crate) fn chunk(data: impl AsRef<[u8]>) -> Vec<u8> {
    let data = data.as_ref();
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

/// The last chunk.
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
