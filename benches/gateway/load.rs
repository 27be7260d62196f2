//! The measuring client: a closed loop over a fixed number of keep-alive connections.
//!
//! Protocol: connect and warm up, say `warm`, wait for `go`, measure, say the [`Measured`] as JSON.
//! Streams are looked at more closely in [`sse`], and requests at a fixed rate come from [`pace`].

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::options::LoadOptions;
use crate::sse::{Events, Streamed};
use crate::{Result, pace, role};

/// Where completions are asked for.
pub(crate) const PATH: &str = "/v1/chat/completions";

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
    /// Requests of a fixed rate that were not sent any more, since those before took too long.
    pub(crate) unsent: u64,
    /// What became of the events, when streams were asked for.
    pub(crate) streamed: Option<Streamed>,
}

/// What the connections saw together.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) latencies: Vec<Duration>,
    pub(crate) events: Events,
    pub(crate) unsent: u64,
}

impl Seen {
    pub(crate) fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.events.add(other.events);
        self.unsent += other.unsent;
    }
}

/// Runs the client; it fails on the first answer that is not a complete `200`.
pub(crate) fn run(options: &LoadOptions) -> Result {
    // One connection is a latency measurement: waking another thread would be part of it. A fixed
    // rate is one too: what there is to do is little, and never in a hurry.
    let mut builder = match options.connections {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ if options.rate.is_some() => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.enable_all().build()?;
    let measured = runtime.block_on(measure(options))?;
    role::say(&serde_json::to_string(&measured)?)
}

async fn measure(options: &LoadOptions) -> Result<Measured> {
    let mut orders = role::orders();
    let mut note = String::new();
    if let Some(chunks) = options.chunks {
        note += &format!("chunks={chunks} ");
    }
    if let Some(pause) = options.pause {
        note += &format!("pause={pause} ");
    }
    let body = request_body(options.body_bytes, options.stream, &note);
    let ask = Ask::new(options.target.to_string(), body, &options.header)?;
    let mut clients = Vec::with_capacity(options.connections);
    for _ in 0..options.connections {
        clients.push(Client::connect(ask.clone(), options.chunks).await?);
    }
    // Paced streams that begin together would go on in step: spread over the time one takes.
    let lasts = options.pause.unwrap_or(0) * options.chunks.unwrap_or(0) as u64;
    let spread =
        options.spread.map_or_else(|| Duration::from_micros(lasts), Duration::from_secs_f64);
    let (clients, _) = drive(clients, Duration::from_secs_f64(options.warmup), spread).await?;
    role::say("warm")?;
    orders.recv().await.ok_or("the orchestrator is gone")?;

    let start = Instant::now();
    let time = Duration::from_secs_f64(options.seconds);
    let (clients, mut seen) = match options.rate {
        Some(rate) => pace::drive(clients, time, rate).await?,
        None => drive(clients, time, spread).await?,
    };
    let seconds = start.elapsed().as_secs_f64();
    let requests = seen.latencies.len() as u64;
    let [p50, p99, max] = quantiles(&mut seen.latencies);
    Ok(Measured {
        requests,
        seconds,
        p50,
        p99,
        max,
        answer_bytes: clients.first().map_or(0, |client| client.answer_bytes),
        unsent: seen.unsent,
        streamed: options.stream.then(|| seen.events.measured()),
    })
}

/// The median, the 99th percentile and the largest, in microseconds.
pub(crate) fn quantiles(times: &mut [Duration]) -> [f64; 3] {
    times.sort_unstable();
    [500, 990, 1_000].map(|per_mille| {
        let index = (times.len() * per_mille / 1_000).min(times.len().saturating_sub(1));
        times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    })
}

/// A chat completion request of about `bytes` bytes; `note` tells the upstream how to answer.
pub(crate) fn request_body(bytes: usize, stream: bool, note: &str) -> Bytes {
    let envelope = |text: &str| {
        format!(
            r#"{{"model":"bench","stream":{stream},"max_completion_tokens":256,"messages":[{{"role":"user","content":"{note}{text}"}}]}}"#
        )
    };
    envelope(&"x".repeat(bytes.saturating_sub(envelope("").len()))).into()
}

/// Keeps every client busy for `time`, the last one from `spread` after the first; gives them back
/// with all they saw.
async fn drive(
    clients: Vec<Client>,
    time: Duration,
    spread: Duration,
) -> Result<(Vec<Client>, Seen)> {
    let start = Instant::now();
    let count = clients.len();
    let mut tasks = JoinSet::new();
    for (number, client) in clients.into_iter().enumerate() {
        let begin = start + spread.mul_f64(number as f64 / count as f64);
        tasks.spawn(client.run_until(begin, start + time));
    }
    gather(tasks, count).await
}

/// Waits for all clients.
pub(crate) async fn gather(
    mut tasks: JoinSet<Result<(Client, Seen)>>,
    count: usize,
) -> Result<(Vec<Client>, Seen)> {
    let (mut clients, mut all) = (Vec::with_capacity(count), Seen::default());
    while let Some(finished) = tasks.join_next().await {
        let (client, seen) = finished??;
        clients.push(client);
        all.add(seen);
    }
    Ok((clients, all))
}

/// The request an SDK would send, in what matters here.
#[derive(Clone)]
pub(crate) struct Ask {
    headers: HeaderMap,
    body: Bytes,
}

impl Ask {
    /// `more` are further headers, as `name: value`.
    pub(crate) fn new(host: String, body: Bytes, more: &[String]) -> Result<Self> {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.try_into()?);
        for (name, value) in [
            (header::CONTENT_TYPE, "application/json"),
            (header::AUTHORIZATION, "Bearer benchmark"),
            (header::USER_AGENT, "tidegate-bench"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        for line in more {
            let (name, value) = line.split_once(": ").ok_or("a header without `: `")?;
            headers.insert(name.parse::<HeaderName>()?, value.parse()?);
        }
        Ok(Self { headers, body })
    }

    pub(crate) fn request(&self, uri: &str) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::post(uri).body(Full::new(self.body.clone()))?;
        *request.headers_mut() = self.headers.clone();
        Ok(request)
    }
}

/// One keep-alive connection.
pub(crate) struct Client {
    ask: Ask,
    connection: SendRequest<Full<Bytes>>,
    /// Events that a stream must have at least; none when streams are not looked at.
    chunks: Option<usize>,
    answer_bytes: usize,
}

impl Client {
    async fn connect(ask: Ask, chunks: Option<usize>) -> Result<Self> {
        let host = ask.headers[header::HOST].to_str()?;
        let stream = TcpStream::connect(host).await?;
        stream.set_nodelay(true)?;
        let (connection, driver) = http1::handshake(TokioIo::new(stream)).await?;
        // A failed driver fails the request in flight, which is where it is reported.
        tokio::spawn(async move { drop(driver.await) });
        Ok(Self { ask, connection, chunks, answer_bytes: 0 })
    }

    async fn run_until(mut self, begin: Instant, end: Instant) -> Result<(Self, Seen)> {
        let mut seen = Seen::default();
        tokio::time::sleep_until(begin).await;
        let mut start = Instant::now();
        while start < end {
            self.ask(start, &mut seen.events).await?;
            let done = Instant::now();
            seen.latencies.push(done - start);
            start = done;
        }
        Ok((self, seen))
    }

    /// Asks, and reads the answer to its end.
    pub(crate) async fn ask(&mut self, start: Instant, events: &mut Events) -> Result {
        let request = self.ask.request(PATH)?;
        self.connection.ready().await?;
        let response = self.connection.send_request(request).await?;
        let (status, mut body) = (response.status(), response.into_body());
        if status != StatusCode::OK {
            return Err(format!("the answer was {status}").into());
        }
        match self.chunks {
            Some(chunks) => events.read(&mut body, start, chunks).await,
            None => self.read(&mut body).await,
        }
    }

    async fn read(&mut self, body: &mut Incoming) -> Result {
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame?.data_ref().map_or(0, Bytes::len);
        }
        if self.answer_bytes != 0 && self.answer_bytes != bytes {
            return Err(format!("{bytes} bytes instead of a whole answer").into());
        }
        self.answer_bytes = bytes;
        Ok(())
    }
}
