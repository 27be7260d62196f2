//! Where requests lead: paths, methods, hosts and versions of HTTP.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::support::upstream::{COMPLETION, STREAM_HEAD, Upstream, answer, chunk, completion};
use crate::support::wire::{Answer, Wire, chat, request};
use crate::support::{Gateway, flat, hello, pair, roomy, wait_for};

async fn ask(gateway: &Gateway, bytes: impl AsRef<[u8]>) -> Answer {
    Wire::open(gateway.api, bytes).await.answer().await
}

fn refused(answer: &Answer, status: u16, code: &str, what: &str) {
    assert_eq!(answer.status, status, "{what}: {}", answer.text());
    flat(answer.text(), code);
    assert_eq!(answer.all("x-request-id").len(), 1, "{what}");
}

#[tokio::test]
async fn every_endpoint_is_there_under_every_prefix() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), "");
    let mut count = 0;
    for prefix in ["/v1", "/v1/v1", ""] {
        for (method, path) in [
            ("POST", "/chat/completions"),
            ("POST", "/completions"),
            ("GET", "/models"),
            ("GET", "/models/gpt-oss-120b"),
        ] {
            let body = if method == "POST" { r#"{"model":"m","prompt":"x"}"# } else { "" };
            let answer =
                ask(&gateway, request(&format!("{method} {prefix}{path}"), "", body)).await;
            assert_eq!((answer.status, answer.text()), (200, COMPLETION), "{prefix}{path}");
            count += 1;
            assert_eq!(upstream.last_of(count).line(), format!("{method} /v1{path} HTTP/1.1"));
        }
        let warming = ask(&gateway, request(&format!("GET {prefix}/tcp_warming"), "", "")).await;
        assert_eq!(warming.status, 200, "{prefix}: answered here");
    }
    assert_eq!(upstream.seen().len(), count);
    assert!((gateway.outcome("completed").await - 12.0).abs() < 0.1);
    assert!((gateway.outcome("local").await - 3.0).abs() < 0.1);
    gateway.close().await;
}

#[tokio::test]
async fn paths_that_lead_nowhere_are_not_found_and_go_nowhere() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), "");
    let mut count = 0.0;
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v2/chat/completions",
        "/v1/v1/v1/chat/completions",
        "/v1/../v1/chat/completions",
        "/v1/%2e%2e/v1/chat/completions",
        "/v1/./chat/completions",
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/chat/completions/",
        "/v1/chat%2fcompletions",
        "/v1/%63hat/completions",
        "/V1/chat/completions",
        "/v1/chat/completions;x",
        "/v1/embeddings",
        "/v1/responses",
        "/metrics",
        "/status",
        "/config",
        "/_sim/stats",
        "/v1/models/",
        "/v1/models/..",
        "/v1/models/%2e%2e",
        "/v1/models/..%2f..%2fadmin",
        "/v1/models/a/../b",
        "/v1/models//a",
        "/v1/models/a%20b",
        "/v1/models/a%3Fx=1",
        "/v1/models/a%23",
        "/v1/models/a%0d%0ax",
        "/v1/models/a%00",
        "/v1/models/%ff",
        "/v1/models/%c3%a8",
    ] {
        for method in ["GET", "POST"] {
            if method == "POST" && path.starts_with("/v1/models/") {
                continue;
            }
            let answer = ask(&gateway, request(&format!("{method} {path}"), "", "")).await;
            refused(&answer, 404, "not_found", &format!("{method} {path}"));
            count += 1.0;
        }
    }
    assert!(upstream.seen().is_empty(), "{:#?}", upstream.seen());
    assert!(
        (gateway.outcome("invalid").await - count).abs() < 0.1,
        "each is counted as what it is"
    );
    gateway.close().await;
}

#[tokio::test]
async fn the_wrong_method_is_told_the_right_one() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), "");
    for (method, path, allow) in [
        ("GET", "/v1/chat/completions", "POST"),
        ("PUT", "/chat/completions", "POST"),
        ("OPTIONS", "/v1/completions", "POST"),
        ("DELETE", "/v1/v1/completions", "POST"),
        ("POST", "/v1/models", "GET"),
        ("PATCH", "/v1/models/m", "GET"),
        ("POST", "/v1/tcp_warming", "GET"),
    ] {
        let answer = ask(&gateway, request(&format!("{method} {path}"), "", "")).await;
        refused(&answer, 405, "method_not_allowed", &format!("{method} {path}"));
        assert_eq!(answer.all("allow"), [allow], "{method} {path}");
    }
    assert!(upstream.seen().is_empty());
    gateway.close().await;
}

#[tokio::test]
async fn a_request_has_one_host() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), "");
    let body = hello().to_string();
    for hosts in ["", "host: a\r\nhost: b\r\n", "host: a\r\nHost: a\r\n"] {
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\n{hosts}content-length: {}\r\n\r\n",
            body.len()
        );
        refused(&ask(&gateway, head + &body).await, 400, "wrong_api_format", hosts);
    }
    assert!(upstream.seen().is_empty());
    gateway.close().await;
}

#[tokio::test]
async fn other_forms_of_a_request_reach_the_one_upstream_or_nothing() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), "");
    let body = hello().to_string();
    let absolute = request("POST http://elsewhere.example:99/v1/chat/completions?x=1", "", &body);
    assert_eq!(ask(&gateway, absolute).await.status, 200);
    let seen = upstream.last_of(1);
    assert_eq!(seen.line(), "POST /v1/chat/completions?x=1 HTTP/1.1");
    assert_eq!(seen.all("host"), [upstream.addr.to_string()]);
    for (line, why) in [
        ("CONNECT elsewhere.example:443", "no tunnel"),
        ("OPTIONS *", "nothing for the server itself"),
        ("GET http://elsewhere.example/", "not a proxy for others"),
    ] {
        let head = format!("{line} HTTP/1.1\r\nhost: gateway\r\n\r\n");
        let answer = Wire::open(gateway.api, head).await.head().await.expect("an answer");
        assert!([404, 405].contains(&answer.status), "{why}: {answer:?}");
    }
    assert_eq!(upstream.seen().len(), 1);
    gateway.close().await;
}

#[tokio::test]
async fn an_http_1_0_caller_is_answered_in_its_own_terms() {
    let upstream = Upstream::start(|_, mut socket| async move {
        use tokio::io::AsyncWriteExt;
        let parts =
            [STREAM_HEAD.as_bytes(), &chunk("data: 1\n\n"), &chunk("data: 2\n\n"), b"0\r\n\r\n"];
        socket.write_all(&parts.concat()).await.ok().map(|()| socket)
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), "");
    let body = hello().to_string();
    for host in ["", "host: gateway\r\n"] {
        let head = format!(
            "POST /v1/chat/completions HTTP/1.0\r\n{host}content-length: {}\r\n\r\n",
            body.len()
        );
        let answer = ask(&gateway, head + &body).await;
        assert_eq!((answer.status, answer.text()), (200, "data: 1\n\ndata: 2\n\n"));
        assert!(answer.all("transfer-encoding").is_empty(), "it knows no chunks");
    }
    assert!(upstream.last_of(2).line().ends_with("HTTP/1.1"));
    gateway.close().await;
}

#[tokio::test]
async fn http_2_without_negotiation_works_and_its_streams_can_be_cut_one_by_one() {
    let (simulator, gateway) = pair(roomy(), "").await;
    let socket = TcpStream::connect(gateway.api).await.expect("it listens");
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let request = |fault: &str| {
        Request::post(gateway.url("/v1/chat/completions"))
            .header("content-type", "application/json")
            .header("x-sim-fault", fault)
            .body(Full::new(Bytes::from(hello().to_string())))
            .expect("a request")
    };
    let hung = tokio::spawn(sender.clone().send_request(request("hang")));
    wait_for(&simulator, |stats| stats.in_flight == 1).await;
    let response = sender.clone().send_request(request("")).await.expect("an answer");
    assert_eq!(response.status(), 200);
    assert!(response.headers().contains_key("x-ratelimit-limit-tokens-minute"));
    let body = response.into_body().collect().await.expect("whole").to_bytes();
    assert!(body.ends_with(b"}"), "{body:?}");
    hung.abort();
    let stats = wait_for(&simulator, |stats| stats.in_flight == 0).await;
    assert_eq!((stats.aborted, stats.completed), (1, 1));
    drop(sender);
    gateway.close().await;
    connection.await.expect("no panic").expect("an end in order");
}

#[tokio::test]
async fn a_body_is_asked_for_when_it_is_wanted() {
    let upstream = Upstream::answering(answer("200 OK", "", COMPLETION)).await;
    let gateway = Gateway::start(&upstream.url(), "");
    let whole = chat("Expect: 100-continue\r\n", hello().to_string());
    let head = whole.len() - hello().to_string().len();
    let mut wire = Wire::open(gateway.api, &whole[..head]).await;
    assert_eq!(wire.head().await.expect("a head").status, 100);
    wire.send(&whole[head..]).await;
    assert_eq!(wire.answer().await.status, 200);
    assert!(upstream.last_of(1).all("expect").is_empty());
    gateway.close().await;
}

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_their_order() {
    let (simulator, gateway) = pair(roomy(), "").await;
    let slow = chat("x-sim-fault: slow-head:60\r\n", hello().to_string());
    let bad = chat("", "{}");
    let get = request("GET /v1/tcp_warming", "", "");
    let mut wire = Wire::open(gateway.api, [slow, bad, get].concat()).await;
    for status in [200, 400, 200] {
        assert_eq!(wire.answer().await.status, status);
    }
    assert_eq!(simulator.stats().completed, 1);
    gateway.close().await;
}
