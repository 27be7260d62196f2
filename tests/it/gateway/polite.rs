//! Waiting politely: streams that are kept alive while they wait, and who gets them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::support::upstream::{LAST_CHUNK, STREAM_HEAD, Upstream, answer, chunk, completion};
use crate::support::wire::{Answer, Wire, chat};
use crate::support::{Gateway, flat, hello, with};

/// One at a time, and a sign of life soon.
pub(super) const POLITE: &str = "models.\"*\".max_concurrent = 1\nretry.max_attempts = 1\n\
    [admission]\nheartbeat_after = \"40ms\"\nheartbeat_every = \"40ms\"\n";
/// One at a time, and a sign of life long after the test.
const LATE: &str = "models.\"*\".max_concurrent = 1\n";

/// A stream with a comment of its own and both line ends.
pub(super) const EVENTS: &str = ": theirs\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\r\n\r\n\
    data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4,\
    \"total_tokens\":7}}\n\ndata: [DONE]\n\n";

/// An answer after which the connection ends.
pub(super) const HALF_A_HEAD: &[u8] = b"HTTP/1.1 ";

pub(super) fn events(headers: &str) -> Vec<u8> {
    let head = STREAM_HEAD.replace("\r\n\r\n", &format!("\r\nx-theirs: 1\r\n{headers}\r\n"));
    [head.as_bytes(), &chunk(EVENTS), LAST_CHUNK].concat()
}

pub(super) fn stream_body() -> String {
    with(hello(), "stream", true).to_string()
}

/// An upstream that holds its first request back until it is told, and answers all later ones with
/// these bytes; with a gateway in front, and the first request under way.
pub(super) struct Held {
    pub(super) upstream: Upstream,
    pub(super) release: Arc<Notify>,
    pub(super) gateway: Gateway,
    first: Wire,
}

impl Held {
    pub(super) async fn start(answer: impl Into<Arc<[u8]>>, changes: &str) -> Self {
        Self::start_as(answer, changes, "").await
    }

    /// The first request with these headers. An answer that is not even a head is the end of its
    /// connection.
    async fn start_as(answer: impl Into<Arc<[u8]>>, changes: &str, headers: &str) -> Self {
        let (release, answer) = (Arc::new(Notify::new()), answer.into());
        let told = Arc::clone(&release);
        let upstream = Upstream::start(move |number, mut socket| {
            let (told, answer) = (Arc::clone(&told), Arc::clone(&answer));
            async move {
                if number == 0 {
                    told.notified().await;
                    return socket.write_all(&completion()).await.ok().map(|()| socket);
                }
                socket.write_all(&answer).await.ok()?;
                (&*answer != HALF_A_HEAD).then_some(socket)
            }
        })
        .await;
        let gateway = Gateway::start(&upstream.url(), changes);
        let first = Wire::open(gateway.api, chat(headers, hello().to_string())).await;
        upstream.wait_seen(1).await;
        Self { upstream, release, gateway, first }
    }

    /// A streamed request that waits.
    pub(super) async fn second(&self, headers: &str) -> Wire {
        let wire = Wire::open(self.gateway.api, chat(headers, stream_body())).await;
        self.gateway.wait_queued(1).await;
        wire
    }

    /// Lets the first go, so that the second can.
    pub(super) async fn release(&mut self) {
        self.release.notify_one();
        assert_eq!(self.first.answer().await.status, 200);
    }

    pub(super) async fn close(self) {
        drop(self.first);
        self.gateway.close().await;
    }
}

/// Reads a head and `count` comments, and checks what they look like.
pub(super) async fn comments(wire: &mut Wire, count: usize) -> Answer {
    let head = wire.head().await.expect("a head");
    assert_eq!(head.status, 200);
    for _ in 0..count {
        is_comment(&wire.chunk().await.expect("a sign of life"));
    }
    head
}

fn is_comment(data: &[u8]) {
    let text = std::str::from_utf8(data).expect("text");
    let line = text.strip_suffix("\n\n").expect("a blank line after it");
    let good = line.starts_with(": ") && line.len() < 80 && !line.contains(['\n', '\r']);
    assert!(good, "{text:?}");
}

/// What is left of a stream once its comments are taken off.
pub(super) async fn after_comments(wire: &mut Wire) -> String {
    let mut rest = String::new();
    loop {
        let data = wire.chunk().await.expect("the stream ends as it should");
        if data.is_empty() {
            return rest;
        }
        if rest.is_empty() && data.starts_with(b": ") && !data.starts_with(b": theirs") {
            is_comment(&data);
        } else {
            rest += std::str::from_utf8(&data).expect("text");
        }
    }
}

#[tokio::test]
async fn a_stream_that_waits_is_kept_alive_until_the_upstreams_own_events() {
    let mut held = Held::start(events(""), POLITE).await;
    let mut wire = held.second("accept-encoding: gzip, deflate\r\n").await;
    let head = comments(&mut wire, 3).await;
    assert_eq!(head.all("content-type"), ["text/event-stream"]);
    assert_eq!(head.all("cache-control"), ["no-cache"]);
    assert_eq!(head.all("x-tidegate-limited-by"), ["concurrency"]);
    assert_eq!((head.all("content-encoding").len(), head.all("content-length").len()), (0, 0));
    for name in
        ["x-request-id", "x-ratelimit-remaining-tokens-minute", "x-tidegate-estimated-tokens"]
    {
        assert_eq!(head.all(name).len(), 1, "{name}");
    }
    let waited: u64 = head.all("x-tidegate-wait-ms")[0].parse().expect("a number");
    assert!((40..20_000).contains(&waited), "{waited}");
    assert_eq!(held.upstream.seen().len(), 1, "it waits");
    held.release().await;
    assert_eq!(after_comments(&mut wire).await, EVENTS);
    assert_eq!(held.upstream.last_of(2).all("accept-encoding"), ["identity"]);
    // The connection is good for another, which does not wait and has the upstream's own head.
    wire.send(chat("accept-encoding: gzip\r\n", stream_body())).await;
    let next = wire.answer().await;
    assert_eq!((next.text(), next.all("x-theirs")), (EVENTS, vec!["1"]));
    assert_eq!(held.upstream.last_of(3).all("accept-encoding"), ["gzip"]);
    assert_eq!(held.gateway.spent().await, (3, 21), "settled as told");
    assert!((held.gateway.outcome("completed").await - 3.0).abs() < 0.1);
    assert!((held.gateway.metric("tidegate_heartbeat_streams_total").await - 1.0).abs() < 0.1);
    let waits = held.gateway.metric("tidegate_queue_wait_seconds_count").await;
    assert!((waits - 3.0).abs() < 0.1, "each admission counts once: {waits}");
    held.close().await;
}

#[tokio::test]
async fn a_stream_over_http_2_is_kept_alive_too() {
    let mut held = Held::start(events(""), POLITE).await;
    let socket = tokio::net::TcpStream::connect(held.gateway.api).await.expect("it listens");
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let request = || {
        http::Request::post(held.gateway.url("/v1/chat/completions"))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(stream_body())))
            .expect("a request")
    };
    let gone = sender.clone().send_request(request()).await.expect("a head before its turn");
    let stays = sender.clone().send_request(request()).await.expect("a head before its turn");
    assert!(gone.status() == 200 && stays.status() == 200);
    held.gateway.wait_queued(2).await;
    let mut gone = gone.into_body();
    is_comment(&gone.frame().await.expect("a frame").expect("whole").into_data().expect("data"));
    drop(gone);
    held.gateway.wait_queued(1).await;
    assert!((held.gateway.outcome("client_gone").await - 1.0).abs() < 0.1);
    held.release().await;
    let all = stays.into_body().collect().await.expect("whole").to_bytes();
    let text = std::str::from_utf8(&all).expect("text");
    let (waiting, events) = text.split_at(text.len() - EVENTS.len());
    assert_eq!(events, EVENTS);
    assert!(waiting.lines().all(|line| line.is_empty() || line.starts_with(": ")), "{waiting}");
    assert_eq!(held.upstream.seen().len(), 2, "the one that went away was never sent");
    drop(sender);
    held.close().await;
    connection.abort();
}

#[tokio::test]
async fn who_does_not_want_heartbeats_gets_the_upstreams_own_head() {
    use sha2::{Digest, Sha256};
    let hash = |key: &str| {
        let digest = Sha256::digest(key);
        digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let keys = format!(
        "upstream.api_key = \"env:ACCOUNT_KEY\"\n{POLITE}[[keys]]\nname = \"a\"\nhash = \"sha256:{}\"\nheartbeats = false\n\
         [[keys]]\nname = \"b\"\nhash = \"sha256:{}\"\n",
        hash("key-a"),
        hash("key-b")
    );
    let never = POLITE.replace("heartbeat_after = \"40ms\"", "heartbeat_after = \"0s\"");
    let (a, b) = ("authorization: Bearer key-a\r\n", "authorization: Bearer key-b\r\n");
    for (changes, headers, polite, why) in [
        (POLITE, "x-tidegate-heartbeat: off\r\n".to_owned(), false, "it says so"),
        (&never, String::new(), false, "the gateway never does"),
        (&never, "x-tidegate-heartbeat: on\r\n".to_owned(), false, "whoever asks"),
        (&keys, a.to_owned(), false, "its key says so"),
        (&keys, format!("{a}x-tidegate-heartbeat: on\r\n"), true, "its own word counts"),
        (&keys, b.to_owned(), true, "another key"),
    ] {
        let first = if changes == keys { b } else { "" };
        let mut held = Held::start_as(events(""), changes, first).await;
        let mut wire = held.second(&headers).await;
        if polite {
            comments(&mut wire, 1).await;
        } else {
            wire.silent(Duration::from_millis(200)).await;
        }
        held.release().await;
        if polite {
            assert_eq!(after_comments(&mut wire).await, EVENTS, "{why}");
        } else {
            let whole = wire.answer().await;
            assert_eq!((whole.text(), whole.all("x-theirs")), (EVENTS, vec!["1"]), "{why}");
        }
        held.close().await;
    }
    let mut held = Held::start(completion(), POLITE).await;
    let wire = Wire::open(held.gateway.api, chat("", hello().to_string())).await;
    held.gateway.wait_queued(1).await;
    let mut wire = wire;
    wire.silent(Duration::from_millis(200)).await;
    held.release().await;
    assert_eq!(wire.answer().await.all("content-type"), ["application/json"], "not a stream");
    wire.send(chat("x-tidegate-heartbeat: maybe\r\n", stream_body())).await;
    let wrong = wire.answer().await;
    assert_eq!(flat(wrong.text(), "wrong_api_format")["param"], "x-tidegate-heartbeat");
    held.close().await;
}

#[tokio::test]
async fn a_clients_own_timeout_brings_the_first_comment_forward_and_bounds_nothing() {
    for name in ["x-stainless-read-timeout", "x-stainless-timeout"] {
        let mut held = Held::start(events(""), LATE).await;
        let began = Instant::now();
        let mut wire = held.second(&format!("{name}: 1\r\n")).await;
        comments(&mut wire, 0).await;
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(500), "half of it: {took:?}");
        while began.elapsed() < Duration::from_millis(1_500) {
            is_comment(&wire.chunk().await.expect("it goes on waiting"));
        }
        held.release().await;
        assert_eq!(after_comments(&mut wire).await, EVENTS);
        // Without them the timeout is a deadline, as for an answer that is not streamed.
        held.close().await;
        let held = Held::start(events(""), LATE).await;
        let headers = format!("{name}: 0.4\r\nx-tidegate-heartbeat: off\r\n");
        let mut wire = held.second(&headers).await;
        let refused = wire.answer().await;
        assert_eq!(refused.status, 429);
        flat(refused.text(), "wait_exceeded");
        held.release.notify_one();
        held.close().await;
    }
}

#[tokio::test]
async fn an_upstream_that_takes_its_time_is_not_a_wait_for_admission() {
    let upstream = Upstream::start(|_, mut socket| async move {
        tokio::time::sleep(Duration::from_millis(250)).await;
        socket.write_all(&events("")).await.ok().map(|()| socket)
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), POLITE);
    let mut wire = Wire::open(gateway.api, chat("", stream_body())).await;
    let whole = wire.answer().await;
    assert_eq!((whole.text(), whole.all("x-theirs")), (EVENTS, vec!["1"]));
    assert!(gateway.metric("tidegate_heartbeat_streams_total").await < 0.1);
    gateway.close().await;
}

#[tokio::test]
async fn one_that_goes_back_into_the_line_is_kept_alive_there() {
    // A thousand tokens a second: what the upstream says is used up comes back in a tenth of one.
    let changes = "[models.\"*\"]\nlimits = [\n\
        { unit = \"requests\", limit = 1_000, per = \"1d\", name = \"day\" },\n\
        { unit = \"tokens\", limit = 1_000, per = \"2s\", name = \"minute\" } ]\n\
        [admission]\nheartbeat_after = \"40ms\"\nheartbeat_every = \"40ms\"\n";
    let error = r#"{"message":"Tokens per minute limit exceeded - too many tokens processed.","type":"too_many_tokens_error","param":"quota","code":"token_quota_exceeded"}"#;
    let upstream = Upstream::start(move |number, mut socket| async move {
        let refused = answer("429 No", "content-type: application/json\r\n", error);
        let bytes = if number == 0 { refused } else { events("") };
        socket.write_all(&bytes).await.ok().map(|()| socket)
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), changes);
    let mut wire = Wire::open(gateway.api, chat("accept-encoding: gzip\r\n", stream_body())).await;
    let head = comments(&mut wire, 1).await;
    assert_eq!(head.all("x-tidegate-limited-by"), ["tokens/minute"]);
    assert_eq!(after_comments(&mut wire).await, EVENTS);
    assert_eq!(upstream.last_of(2).all("accept-encoding"), ["identity"]);
    assert!((gateway.outcome("completed").await - 1.0).abs() < 0.1);
    gateway.close().await;
}
