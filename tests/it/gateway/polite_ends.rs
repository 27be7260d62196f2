//! Waiting politely: how streams end that were kept alive while they waited.

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tidegate::server::Ended;
use tokio::time::Instant;

use super::polite::{HALF_A_HEAD, Held, POLITE, after_comments, comments, events, stream_body};
use crate::support::upstream::{answer, completion};
use crate::support::wire::{Wire, chat};
use crate::support::{flat, hello, pair, roomy, send};

/// The one error event that is all of `text`: its status and its error.
fn error_event(text: &str) -> (u64, Value) {
    let data = text.strip_prefix("data: ").and_then(|it| it.strip_suffix("\n\n"));
    let event: Value = data.and_then(|it| serde_json::from_str(it).ok()).unwrap_or_default();
    let mut error = event["error"].clone();
    let id = error.as_object_mut().and_then(|it| it.remove("id"));
    assert!(id.is_some_and(|it| it.is_string()), "{text}");
    let code = error["code"].as_str().expect("a string").to_owned();
    flat(&error.to_string(), &code);
    (event["status_code"].as_u64().expect("a status"), error)
}

#[tokio::test]
async fn a_caller_over_http_2_that_takes_no_comments_loses_its_place() {
    let changes = format!("server.write_timeout = \"200ms\"\n{POLITE}");
    let mut held = Held::start(events(""), &changes).await;
    let socket = tokio::net::TcpStream::connect(held.gateway.api).await.expect("it listens");
    // Too small for one comment, and never opened.
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(8)
        .handshake(TokioIo::new(socket))
        .await
        .expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let request = http::Request::post(held.gateway.url("/v1/chat/completions"))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(stream_body())))
        .expect("a request");
    let stuck = sender.send_request(request).await.expect("a head before its turn");
    assert_eq!(stuck.status(), 200);
    held.gateway.wait_metric("tidegate_requests_total{outcome=\"client_gone\"}", 1.0).await;
    held.gateway.wait_queued(0).await;
    held.release().await;
    held.upstream.last_of(1);
    drop((stuck, sender));
    held.close().await;
    connection.abort();
}

#[tokio::test]
async fn one_that_hangs_up_between_two_comments_leaves_no_trace() {
    let mut held = Held::start(events(""), POLITE).await;
    let mut wire = held.second("").await;
    comments(&mut wire, 2).await;
    drop(wire);
    held.gateway.wait_queued(0).await;
    held.gateway.wait_metric("tidegate_requests_total{outcome=\"client_gone\"}", 1.0).await;
    held.release().await;
    assert_eq!(held.gateway.spent().await, (1, 7));
    held.upstream.last_of(1);
    held.close().await;
}

#[tokio::test]
async fn what_fails_later_is_the_upstreams_error_event() {
    let json = "content-type: application/json\r\n";
    let pay = r#"{"message":"Pay","type":"payment_required_error","param":"quota","code":"payment_required"}"#;
    let nested = r#"{"error":{"message":"No","type":"t","param":null,"code":"c"}}"#;
    let html = "content-type: text/html\r\n";
    for (bytes, status, code, message, outcome) in [
        (
            answer("402 Payment Required", json, pay),
            402,
            "payment_required",
            "Pay",
            "upstream_error",
        ),
        (answer("500 Oh", json, nested), 500, "c", "No", "upstream_error"),
        (
            answer("403 Forbidden", html, "error code: 1010"),
            403,
            "",
            "the upstream answered 403: error code: 1010",
            "upstream_error",
        ),
        (
            HALF_A_HEAD.to_vec(),
            502,
            "upstream_broken",
            "the upstream broke off before it answered",
            "upstream_unavailable",
        ),
        (
            completion(),
            502,
            "upstream_protocol",
            "the upstream did not answer with a stream that can be passed on",
            "upstream_error",
        ),
        (
            events("content-encoding: gzip\r\n"),
            502,
            "upstream_protocol",
            "the upstream did not answer with a stream that can be passed on",
            "upstream_error",
        ),
    ] {
        let what = String::from_utf8_lossy(&bytes).into_owned();
        let mut held = Held::start(bytes, POLITE).await;
        let mut wire = held.second("").await;
        comments(&mut wire, 1).await;
        held.release().await;
        let (seen, error) = error_event(&after_comments(&mut wire).await);
        assert_eq!((seen, error["code"].as_str()), (status, Some(code)), "{what}");
        assert_eq!(error["message"], message, "{what}");
        held.gateway.settled().await;
        assert!((held.gateway.outcome(outcome).await - 1.0).abs() < 0.1, "{what}");
        wire.send(chat("", "{")).await;
        assert_eq!(wire.answer().await.status, 400, "the connection is whole: {what}");
        held.close().await;
    }
}

#[tokio::test]
async fn a_deadline_that_passes_is_told_in_the_stream() {
    let held = Held::start(events(""), POLITE).await;
    let began = Instant::now();
    let mut wire = held.second("x-tidegate-max-wait: 250ms\r\n").await;
    comments(&mut wire, 1).await;
    let (status, error) = error_event(&after_comments(&mut wire).await);
    assert!((250..20_000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    assert_eq!((status, error["code"].as_str()), (429, Some("wait_exceeded")));
    let message = error["message"].as_str().expect("text");
    assert!(message.contains("was not admitted within 250ms; come back in"), "{message}");
    assert!((held.gateway.outcome("wait_exceeded").await - 1.0).abs() < 0.1);
    held.upstream.last_of(1);
    held.release.notify_one();
    held.close().await;
}

#[tokio::test]
async fn a_drain_is_told_in_the_stream_and_ends_it() {
    let changes = format!(
        "models.\"*\".limits = [ {{ unit = \"requests\", limit = 1, per = \"1d\", mode = \"sliding\", \
         learn = \"never\" }} ]\n{POLITE}max_wait = \"2d\"\n"
    );
    let (simulator, gateway) = pair(roomy(), &changes).await;
    assert_eq!(send(gateway.chat(&hello())).await.status(), 200);
    let mut wire = Wire::open(gateway.api, chat("", stream_body())).await;
    comments(&mut wire, 1).await;
    gateway.stop.cancel();
    // Its turn is tomorrow: it need not wait for the end of the drain to be told.
    let (status, error) = error_event(&after_comments(&mut wire).await);
    assert_eq!((status, error["code"].as_str()), (503, Some("draining")));
    assert_eq!(gateway.ended().await, Ended::Drained);
    assert_eq!(simulator.stats().started, 1);
}
