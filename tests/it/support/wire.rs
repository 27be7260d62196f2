//! The gateway as it looks on the wire: bytes written, bytes read.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::PATIENCE;

/// A connection that reads one answer after the other.
pub(crate) struct Wire {
    pub(crate) socket: TcpStream,
    read: Vec<u8>,
}

/// An answer as it stood on the wire, its body without the chunks.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Every value of a header, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }
}

/// A request as it stands on the wire; `headers` are whole lines.
pub(crate) fn request(line: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!(
        "{line} HTTP/1.1\r\nhost: gateway\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A chat request as it stands on the wire.
pub(crate) fn chat(headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let headers = format!("content-type: application/json\r\n{headers}");
    request("POST /v1/chat/completions", &headers, body)
}

impl Wire {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        let socket = TcpStream::connect(addr).await.expect("it listens");
        Self::over(socket)
    }

    /// A connection that is there.
    pub(crate) fn over(socket: TcpStream) -> Self {
        socket.set_nodelay(true).expect("an open socket");
        Self { socket, read: Vec::new() }
    }

    /// A new connection with these bytes written.
    pub(crate) async fn open(addr: SocketAddr, bytes: impl AsRef<[u8]>) -> Self {
        let mut wire = Self::connect(addr).await;
        wire.send(bytes).await;
        wire
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let sent = timeout(PATIENCE, self.socket.write_all(bytes.as_ref())).await;
        sent.expect("it takes what is sent").expect("an open connection");
    }

    /// Reads on until there are this many bytes more; 0 at the end.
    async fn more(&mut self) -> io::Result<usize> {
        let read = timeout(PATIENCE, self.socket.read_buf(&mut self.read)).await;
        read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn take_until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|it| it == end) {
                let rest = self.read.split_off(at + end.len());
                let mut taken = std::mem::replace(&mut self.read, rest);
                taken.truncate(at);
                return Ok(taken);
            }
            if self.more().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.read.len() < length {
            if self.more().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let rest = self.read.split_off(length);
        Ok(std::mem::replace(&mut self.read, rest))
    }

    /// As many bytes as there are, up to so many.
    pub(crate) async fn up_to(&mut self, length: usize) -> Vec<u8> {
        while self.read.len() < length && self.more().await.is_ok_and(|read| read > 0) {}
        let rest = self.read.split_off(length.min(self.read.len()));
        std::mem::replace(&mut self.read, rest)
    }

    /// The head of the next answer.
    ///
    /// # Errors
    ///
    /// If the connection ends first.
    pub(crate) async fn head(&mut self) -> io::Result<Answer> {
        let head = String::from_utf8(self.take_until(b"\r\n\r\n").await?).expect("text");
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Ok(Answer { status: status.expect("a status line"), headers, body: Vec::new() })
    }

    /// The data of the next chunk; empty for the last.
    pub(crate) async fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let size = String::from_utf8(self.take_until(b"\r\n").await?).expect("text");
        let size = usize::from_str_radix(&size, 16).expect("a chunk's size");
        let mut data = self.take(size + 2).await?;
        data.truncate(size);
        Ok(data)
    }

    /// The next answer, whole, if the connection does not end first.
    pub(crate) async fn try_answer(&mut self) -> io::Result<Answer> {
        let mut answer = self.head().await?;
        let length = answer.all("content-length").first().and_then(|it| it.parse().ok());
        if let Some(length) = length {
            answer.body = self.take(length).await?;
        } else if answer.all("transfer-encoding") == ["chunked"] {
            loop {
                let data = self.chunk().await?;
                if data.is_empty() {
                    break;
                }
                answer.body.extend(data);
            }
        } else if answer.status != 204 && answer.status >= 200 {
            while self.more().await? > 0 {}
            answer.body = std::mem::take(&mut self.read);
        }
        Ok(answer)
    }

    /// The next answer, whole.
    pub(crate) async fn answer(&mut self) -> Answer {
        self.try_answer().await.expect("an answer")
    }

    /// Waits for the end of the connection, however it ends; returns what came before it.
    pub(crate) async fn end(&mut self) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "the connection stays open");
            match self.more().await {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(_) => break,
            }
        }
        std::mem::take(&mut self.read)
    }

    /// Checks that nothing comes for a while.
    pub(crate) async fn silent(&mut self, span: Duration) {
        let read = timeout(span, self.socket.read_buf(&mut self.read)).await;
        assert!(read.is_err(), "{read:?}: {:?}", String::from_utf8_lossy(&self.read));
    }
}
