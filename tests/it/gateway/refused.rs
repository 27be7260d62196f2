//! Requests that are wrong: told so at once, with nothing queued, charged or sent upstream.

use std::io::Write as _;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::upstream::{Upstream, completion};
use crate::support::wire::{Answer, Wire, request};
use crate::support::{Gateway, flat, hello, with};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(bytes).expect("memory");
    packer.finish().expect("memory")
}

const JSON: &str = "content-type: application/json\r\n";
const PACKED: &str = "content-type: application/json\r\ncontent-encoding: gzip\r\n";
const MSGPACK: &str = "content-type: application/msgpack\r\n";

/// Wrong requests: headers, body, status, code and param of the answer, and what is wrong.
#[expect(clippy::type_complexity, reason = "a table")]
fn rows() -> Vec<(String, Vec<u8>, u16, &'static str, &'static str, &'static str)> {
    let good = hello().to_string();
    let packed = gzip(good.as_bytes());
    let with = |headers: &str| format!("{JSON}{headers}");
    let text = |text: &str| text.as_bytes().to_vec();
    let bomb = gzip(&vec![b' '; 8 << 20]);
    assert!(bomb.len() < 16 << 10, "it is small until it is unpacked");
    let format = "wrong_api_format";
    let media = "unsupported_media_type";
    vec![
        (with(""), text(""), 400, format, "", "no body at all"),
        (with(""), text("{"), 400, format, "", "half of an object"),
        (with(""), text("{\"model\":\"m\"}}"), 400, format, "", "more than an object"),
        (with(""), text("[]"), 400, format, "", "a list"),
        (with(""), text("\"m\""), 400, format, "", "a string"),
        (with(""), text("{}"), 400, format, "model", "no model"),
        (with(""), text(r#"{"model":null}"#), 400, format, "model", "a model that is null"),
        (with(""), text(r#"{"model":7}"#), 400, format, "model", "a model that is a number"),
        (with(""), text(r#"{"model":"m","model":"n"}"#), 400, format, "model", "two models"),
        (with(""), b"{\"model\":\"\xff\"}".to_vec(), 400, format, "", "not UTF-8"),
        (with(""), packed.clone(), 400, format, "", "gzip that is not announced"),
        (with(""), "[".repeat(5_000).into(), 400, format, "", "nested without end"),
        (
            with(""),
            text(r#"{"model":"m","max_tokens":1,"max_completion_tokens":2}"#),
            400,
            format,
            "max_tokens",
            "two limits that differ",
        ),
        (with(""), text(r#"{"model":"m","max_tokens":"1"}"#), 400, format, "max_tokens", "text"),
        (with(""), text(r#"{"model":"m","n":-1}"#), 400, format, "n", "fewer than no choices"),
        (PACKED.into(), text(&good), 400, format, "", "announced as gzip and is not"),
        (PACKED.into(), packed[..packed.len() - 4].to_vec(), 400, format, "", "truncated gzip"),
        (PACKED.into(), bomb, 413, "request_too_large", "", "a gzip bomb"),
        (MSGPACK.into(), text(&good), 400, format, "", "not MessagePack"),
        (MSGPACK.into(), vec![0x81], 400, format, "", "half a map"),
        ("content-type: text/plain\r\n".into(), text(&good), 415, media, "", "plain text"),
        ("content-type: multipart/form-data\r\n".into(), text(&good), 415, media, "", "a form"),
        (
            "content-type: application/json; charset=latin-1\r\n".into(),
            text(&good),
            415,
            media,
            "",
            "another charset",
        ),
        (with("content-encoding: br\r\n"), text(&good), 415, media, "", "another coding"),
        (with("content-encoding: gzip, gzip\r\n"), gzip(&packed), 415, media, "", "packed twice"),
        (
            with("authorization: Bearer a\r\nauthorization: Bearer b\r\n"),
            text(&good),
            400,
            format,
            "authorization",
            "two credentials",
        ),
        (
            with("x-tidegate-max-wait: 10\r\n"),
            text(&good),
            400,
            format,
            "x-tidegate-max-wait",
            "a wait without a unit",
        ),
        (
            with("x-tidegate-max-wait: -1s\r\n"),
            text(&good),
            400,
            format,
            "x-tidegate-max-wait",
            "a wait below zero",
        ),
        (
            with("x-tidegate-max-wait: soon\r\n"),
            text(&good),
            400,
            format,
            "x-tidegate-max-wait",
            "a wait that is a word",
        ),
        (with(""), vec![b' '; 70_000], 413, "request_too_large", "", "too long, as announced"),
    ]
}

/// Whether nothing came of it: no request upstream, nothing queued, no quota touched.
async fn nothing_came_of_it(gateway: &Gateway, upstream: &Upstream, why: &str) {
    assert!(upstream.seen().is_empty(), "{why}");
    let status = gateway.settled().await;
    for pool in status["pools"].as_array().expect("a list") {
        for level in pool["constraints"].as_array().expect("a list") {
            assert_eq!(level["available"], level["limit"], "{why}: {status:#}");
        }
    }
    assert!(gateway.metric("tidegate_queue_wait_seconds_count").await < 0.5, "{why}");
}

fn refused(answer: &Answer, status: u16, code: &str, why: &str) -> serde_json::Value {
    assert_eq!(answer.status, status, "{why}: {}", answer.text());
    assert_eq!(answer.all("content-type"), ["application/json"], "{why}");
    assert!(answer.all("retry-after").is_empty(), "{why}: coming back does not help");
    flat(answer.text(), code)
}

const SMALL: &str = "server.max_body_bytes = 65536";

#[tokio::test]
async fn a_wrong_request_is_told_what_is_wrong_and_nothing_comes_of_it() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), SMALL);
    let rows = rows();
    let count = rows.len();
    for (headers, body, status, code, param, why) in rows {
        let bytes = request("POST /v1/chat/completions", &headers, &body);
        let answer = Wire::open(gateway.api, bytes).await.answer().await;
        let error = refused(&answer, status, code, why);
        assert_eq!(error["param"], param, "{why}: {error}");
        assert!(!error["message"].as_str().unwrap_or_default().is_empty(), "{why}");
    }
    nothing_came_of_it(&gateway, &upstream, "any of them").await;
    let invalid = gateway.outcome("invalid").await;
    assert!((invalid - f64::from(u32::try_from(count).expect("few"))).abs() < 0.1, "{invalid}");
    gateway.close().await;
}

#[tokio::test]
async fn a_model_without_a_profile_is_unknown() {
    let upstream = Upstream::answering(completion()).await;
    let text = crate::support::config_text(&upstream.url(), "");
    assert!(text.contains("[models.\"*\"]") || text.contains("models"), "{text}");
    let gateway = Gateway::start_text(&text.replace("\"*\"", "known"));
    for (model, status) in [("known", 200), ("unknown", 404)] {
        let body = with(hello(), "model", model).to_string();
        let bytes = request("POST /v1/chat/completions", JSON, body);
        let answer = Wire::open(gateway.api, bytes).await.answer().await;
        assert_eq!(answer.status, status, "{model}");
        if status == 404 {
            flat(answer.text(), "model_not_found");
        }
    }
    assert_eq!(upstream.seen().len(), 1);
    gateway.close().await;
}

#[tokio::test]
async fn a_body_in_chunks_is_cut_where_it_gets_too_long() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), SMALL);
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\n{JSON}transfer-encoding: chunked\r\n\r\n"
    );
    let mut wire = Wire::open(gateway.api, head).await;
    // The first is taken, the second is one byte too many, and there is no end to them.
    for size in [65_536, 1] {
        wire.send(format!("{size:x}\r\n{}\r\n", " ".repeat(size))).await;
    }
    refused(&wire.answer().await, 413, "request_too_large", "chunks");
    nothing_came_of_it(&gateway, &upstream, "chunks").await;
    drop(wire);
    gateway.close().await;
}

#[tokio::test]
async fn a_body_that_is_announced_as_too_long_is_not_waited_for() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), SMALL);
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\n{JSON}content-length: 9999999999\r\n\r\n"
    );
    let mut wire = Wire::open(gateway.api, head).await;
    refused(&wire.answer().await, 413, "request_too_large", "announced");
    nothing_came_of_it(&gateway, &upstream, "announced").await;
    drop(wire);
    gateway.close().await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for_for_ever() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), "server.body_timeout = \"80ms\"");
    let mut bytes = request("POST /v1/chat/completions", JSON, hello().to_string());
    bytes.truncate(bytes.len() - 3);
    let began = Instant::now();
    let mut wire = Wire::open(gateway.api, bytes).await;
    refused(&wire.answer().await, 408, "request_timeout", "slow");
    let took = began.elapsed();
    assert!((80..20_000).contains(&took.as_millis()), "{took:?}");
    assert!(wire.end().await.is_empty(), "the rest of the body would be read as a request");
    nothing_came_of_it(&gateway, &upstream, "slow").await;
    gateway.close().await;
}

#[tokio::test]
async fn a_body_that_comes_slowly_but_steadily_is_read() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), "server.body_timeout = \"400ms\"");
    // Of a body so large, a kilobyte a second is enough.
    let body = with(hello(), "user", "x".repeat(8_192)).to_string();
    let bytes = request("POST /v1/chat/completions", JSON, body);
    let (most, last) = bytes.split_at(bytes.len() - 8);
    let mut wire = Wire::open(gateway.api, most).await;
    for byte in last.chunks(1) {
        tokio::time::sleep(Duration::from_millis(60)).await;
        wire.send(byte).await;
    }
    assert_eq!(wire.answer().await.status, 200, "480 ms in all, 60 between two pieces");
    gateway.close().await;
}
