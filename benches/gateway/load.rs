//! The measuring client: a closed loop over a fixed number of keep-alive connections.
//!
//! Protocol: connect and warm up, say `warm`, wait for `go`, measure, say the [`Measured`] as JSON.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Result;
use crate::options::LoadOptions;
use crate::role;

/// What one run saw. Latencies are to the last byte of the answer, in microseconds.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Measured {
    pub(crate) requests: u64,
    /// Seconds from the first request to the last answer.
    pub(crate) seconds: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
    /// Bytes of one answer's body: every proxy must deliver the same.
    pub(crate) answer_bytes: usize,
}

/// Runs the client; it fails on the first answer that is not a complete `200`.
pub(crate) fn run(options: &LoadOptions) -> Result {
    // One connection is a latency measurement: waking another thread would be part of it.
    let mut builder = match options.connections {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.enable_all().build()?;
    let measured = runtime.block_on(measure(options))?;
    role::say(&serde_json::to_string(&measured)?)
}

async fn measure(options: &LoadOptions) -> Result<Measured> {
    let mut orders = role::orders();
    let body = request_body(options.body_bytes, options.stream);
    let mut clients = Vec::with_capacity(options.connections);
    for _ in 0..options.connections {
        clients.push(Client::connect(options.target.to_string(), body.clone()).await?);
    }
    let (clients, _) = drive(clients, Duration::from_secs_f64(options.warmup)).await?;
    role::say("warm")?;
    orders.recv().await.ok_or("the orchestrator is gone")?;

    let start = Instant::now();
    let (clients, mut latencies) = drive(clients, Duration::from_secs_f64(options.seconds)).await?;
    let seconds = start.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let micros = |per_mille: usize| {
        let index = (latencies.len() * per_mille / 1_000).min(latencies.len().saturating_sub(1));
        latencies.get(index).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e6)
    };
    Ok(Measured {
        requests: latencies.len() as u64,
        seconds,
        p50: micros(500),
        p99: micros(990),
        max: micros(1_000),
        answer_bytes: clients.first().map_or(0, |client| client.answer_bytes),
    })
}

/// A chat completion request of about `bytes` bytes.
pub(crate) fn request_body(bytes: usize, stream: bool) -> Bytes {
    let envelope = |text: &str| {
        format!(
            r#"{{"model":"bench","stream":{stream},"max_completion_tokens":256,"messages":[{{"role":"user","content":"{text}"}}]}}"#
        )
    };
    envelope(&"x".repeat(bytes.saturating_sub(envelope("").len()))).into()
}

/// Keeps every client busy for `time`; gives them back with all latencies.
async fn drive(clients: Vec<Client>, time: Duration) -> Result<(Vec<Client>, Vec<Duration>)> {
    let end = Instant::now() + time;
    let count = clients.len();
    let mut tasks = JoinSet::new();
    for client in clients {
        tasks.spawn(client.run_until(end));
    }
    let (mut clients, mut latencies) = (Vec::with_capacity(count), Vec::new());
    while let Some(finished) = tasks.join_next().await {
        let (client, seen) = finished??;
        clients.push(client);
        latencies.extend(seen);
    }
    Ok((clients, latencies))
}

/// One keep-alive connection.
struct Client {
    host: String,
    body: Bytes,
    connection: SendRequest<Full<Bytes>>,
    answer_bytes: usize,
}

impl Client {
    async fn connect(host: String, body: Bytes) -> Result<Self> {
        let stream = TcpStream::connect(&host).await?;
        stream.set_nodelay(true)?;
        let (connection, driver) = http1::handshake(TokioIo::new(stream)).await?;
        // A failed driver fails the request in flight, which is where it is reported.
        tokio::spawn(async move { drop(driver.await) });
        Ok(Self { host, body, connection, answer_bytes: 0 })
    }

    async fn run_until(mut self, end: Instant) -> Result<(Self, Vec<Duration>)> {
        let mut latencies = Vec::new();
        let mut start = Instant::now();
        while start < end {
            self.answer_bytes = self.ask().await?;
            let done = Instant::now();
            latencies.push(done - start);
            start = done;
        }
        Ok((self, latencies))
    }

    async fn ask(&mut self) -> Result<usize> {
        let request = request(&self.host, "/v1/chat/completions", self.body.clone())?;
        self.connection.ready().await?;
        let response = self.connection.send_request(request).await?;
        let (status, mut body) = (response.status(), response.into_body());
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame?.data_ref().map_or(0, Bytes::len);
        }
        if status != StatusCode::OK || (self.answer_bytes != 0 && self.answer_bytes != bytes) {
            return Err(format!("{status} with {bytes} bytes instead of a whole answer").into());
        }
        Ok(bytes)
    }
}

/// The request an SDK would send, in what matters here.
pub(crate) fn request(host: &str, uri: &str, body: Bytes) -> Result<Request<Full<Bytes>>> {
    Ok(Request::post(uri)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::AUTHORIZATION, "Bearer benchmark")
        .header(header::USER_AGENT, "tidegate-bench")
        .body(Full::new(body))?)
}
