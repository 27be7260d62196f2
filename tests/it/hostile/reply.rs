//! Reads answers as strictly as they have to be written.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::timeout;

use crate::support::PATIENCE;

/// An answer that was framed as it should be.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// HTTP/1.0: the connection closes, unless it is said that it does not.
    pub(super) old: bool,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Reply {
    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(key, _)| key == name);
        named.map(|(_, value)| value.as_str()).collect()
    }
}

/// The side of a connection that answers come from.
pub(super) struct Replies {
    socket: OwnedReadHalf,
    read: Vec<u8>,
}

impl Replies {
    pub(super) const fn new(socket: OwnedReadHalf) -> Self {
        Self { socket, read: Vec::new() }
    }

    /// Reads more; 0 at the end, however it ends.
    async fn more(&mut self) -> Result<usize, String> {
        match timeout(3 * PATIENCE, self.socket.read_buf(&mut self.read)).await {
            Err(_) => Err(format!("nothing more comes: {}", self.seen())),
            Ok(read) => Ok(read.unwrap_or(0)),
        }
    }

    fn seen(&self) -> String {
        String::from_utf8_lossy(&self.read[..self.read.len().min(300)]).into_owned()
    }

    async fn until(&mut self, end: &[u8]) -> Result<Vec<u8>, String> {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|it| it == end) {
                let rest = self.read.split_off(at + end.len());
                let mut taken = std::mem::replace(&mut self.read, rest);
                taken.truncate(at);
                return Ok(taken);
            }
            if self.more().await? == 0 {
                return Err(format!("it ends in the middle: {:?}", self.seen()));
            }
        }
    }

    async fn exactly(&mut self, length: usize) -> Result<Vec<u8>, String> {
        while self.read.len() < length {
            if self.more().await? == 0 {
                return Err(format!("it ends in the middle: {:?}", self.seen()));
            }
        }
        let rest = self.read.split_off(length);
        Ok(std::mem::replace(&mut self.read, rest))
    }

    /// The next answer; `has_body` is false for those that never have one.
    pub(super) async fn next(&mut self, has_body: bool) -> Result<Reply, String> {
        let head = String::from_utf8(self.until(b"\r\n\r\n").await?);
        let head = head.map_err(|_| "a head that is no text".to_owned())?;
        let mut reply = parse(&head)?;
        let (lengths, codings) = (reply.all("content-length"), reply.all("transfer-encoding"));
        if !has_body || matches!(reply.status, 100..=199 | 204 | 304) {
            return Ok(reply);
        }
        reply.body = match (&lengths[..], &codings[..]) {
            ([length], []) => {
                let length = length.parse().map_err(|_| format!("a length: {head}"))?;
                self.exactly(length).await?
            }
            ([], ["chunked"]) => self.chunks().await?,
            ([], []) if reply.old || reply.all("connection") == ["close"] => {
                while self.more().await? > 0 {}
                std::mem::take(&mut self.read)
            }
            _ => return Err(format!("nobody knows where this ends: {head}")),
        };
        Ok(reply)
    }

    async fn chunks(&mut self) -> Result<Vec<u8>, String> {
        let mut body = Vec::new();
        loop {
            let size = self.until(b"\r\n").await?;
            let size =
                std::str::from_utf8(&size).ok().and_then(|it| usize::from_str_radix(it, 16).ok());
            let size = size.ok_or("a chunk has a size")?;
            let data = self.exactly(size + 2).await?;
            let Some(data) = data.strip_suffix(b"\r\n") else { return Err("a chunk ends".into()) };
            if data.is_empty() {
                return Ok(body);
            }
            body.extend_from_slice(data);
        }
    }

    /// Waits for the end; nothing comes before it.
    pub(super) async fn end(&mut self) -> Result<(), String> {
        while self.more().await? > 0 {}
        if self.read.is_empty() { Ok(()) } else { Err(format!("one answer more: {}", self.seen())) }
    }

    /// Nothing comes for a moment.
    pub(super) async fn silent(&mut self) -> Result<(), String> {
        let more = timeout(Duration::from_millis(20), self.socket.read_buf(&mut self.read)).await;
        match more {
            Ok(Ok(1..)) => Err(format!("one answer more: {}", self.seen())),
            _ if self.read.is_empty() => Ok(()),
            _ => Err(format!("one answer more: {}", self.seen())),
        }
    }
}

/// A head, each line of which is as RFC 9112 has it.
fn parse(head: &str) -> Result<Reply, String> {
    let bad = |why: &str| Err(format!("{why}: {head:?}"));
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    let Some((version @ ("HTTP/1.1" | "HTTP/1.0"), status)) = status.split_once(' ') else {
        return bad("not a status line");
    };
    let (code, reason) = status.split_once(' ').unwrap_or((status, ""));
    let Some(status) = code.parse().ok().filter(|_| code.len() == 3) else {
        return bad("not a status");
    };
    if reason.contains(|c: char| c.is_control()) {
        return bad("a reason with controls");
    }
    let mut headers = Vec::new();
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { return bad("not a header") };
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(token) || value.contains(|c: char| c.is_control()) {
            return bad("not a header");
        }
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Ok(Reply { status, old: version == "HTTP/1.0", headers, body: Vec::new() })
}
