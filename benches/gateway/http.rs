//! Single blocking requests for the orchestrator: readiness, metrics, one completion.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::Result;

/// Far above any answer that is still to come.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The status and body of `GET path`; by HTTP/1.0, so that the body is never chunked.
pub(crate) fn get(server: SocketAddr, path: &str) -> Result<(u16, String)> {
    exchange(server, &format!("GET {path} HTTP/1.0\r\nhost: {server}\r\n\r\n"), b"")
}

/// The status and body of a completion request; by HTTP/1.1, like any client's.
pub(crate) fn complete(server: SocketAddr, body: &[u8]) -> Result<(u16, String)> {
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\ncontent-type: application/json\r\nauthorization: Bearer benchmark\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    exchange(server, &head, body)
}

/// Sends, and reads until the server closes.
fn exchange(server: SocketAddr, head: &str, body: &[u8]) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&server, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("an answer without an end of head")?;
    let status = head.split(' ').nth(1).ok_or("an answer without a status")?.parse()?;
    Ok((status, body.to_owned()))
}

/// The sum of a metric over its labels, from a Prometheus text page; `None` if it is not there.
pub(crate) fn metric(page: &str, name: &str) -> Option<f64> {
    page.lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with([' ', '{']))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
        .reduce(|sum, value| sum + value)
}
