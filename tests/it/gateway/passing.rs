//! What passes through: bytes and headers, in both directions.

use std::io::Write as _;

use crate::support::upstream::{COMPLETION, Upstream, answer, completion};
use crate::support::wire::{Wire, chat, request};
use crate::support::{ACCOUNT_KEY, Gateway, flat, header, hello, pair, roomy, send};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(bytes).expect("memory");
    packer.finish().expect("memory")
}

#[tokio::test]
async fn request_bytes_reach_the_upstream_as_they_were_sent() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), "");
    let odd = "\t{ \"unknown\" : [1,{\"x\":null}] ,\r\n \"model\":\"m\\u0041\",\n\n\"messages\":[ \
               ] , \"temperature\":1e-1,\"model_\":\"\u{1F30A}\" }  \n";
    let packed = rmp_serde::to_vec_named(&hello()).expect("it packs");
    let mut count = 0;
    for (kind, encoding, body, why) in [
        ("application/json", None, odd.as_bytes().to_vec(), "odd JSON"),
        ("application/json; charset=UTF-8", None, hello().to_string().into(), "a charset"),
        ("application/json", Some("gzip"), gzip(odd.as_bytes()), "packed JSON"),
        ("application/vnd.msgpack", None, packed.clone(), "MessagePack"),
        ("application/msgpack", Some("gzip"), gzip(&packed), "packed MessagePack"),
        ("application/x-msgpack", Some("identity"), packed, "a coding that is none"),
    ] {
        let url = gateway.url("/v1/chat/completions?a=1&b=%2F&empty=&a=2");
        let mut request = gateway.client.post(url).header("content-type", kind);
        if let Some(encoding) = encoding {
            request = request.header("content-encoding", encoding);
        }
        let response = send(request.body(body.clone())).await;
        assert_eq!(response.status(), 200, "{why}");
        count += 1;
        let seen = upstream.last_of(count);
        assert_eq!(seen.body, body, "{why}");
        let line = "POST /v1/chat/completions?a=1&b=%2F&empty=&a=2 HTTP/1.1";
        assert_eq!(seen.line(), line, "{why}");
        assert_eq!(seen.all("content-type"), [kind], "{why}");
        assert_eq!(seen.all("content-encoding"), encoding.as_slice(), "{why}");
        assert_eq!(seen.all("content-length"), [body.len().to_string()], "{why}");
    }
    gateway.close().await;
}

#[tokio::test]
async fn a_body_in_chunks_is_forwarded_with_its_length() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), "");
    let body = hello().to_string();
    let (one, two) = body.split_at(7);
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\n\
                trailer: x-late\r\n\r\n";
    let chunks = format!(
        "{:x}\r\n{one}\r\n{:x};ext=1\r\n{two}\r\n0\r\nx-late: 1\r\n\r\n",
        one.len(),
        two.len()
    );
    let mut wire = Wire::open(gateway.api, format!("{head}{chunks}")).await;
    assert_eq!(wire.answer().await.status, 200);
    let seen = upstream.last_of(1);
    assert_eq!(seen.body, body.as_bytes());
    assert_eq!(seen.all("content-length"), [body.len().to_string()]);
    for gone in ["transfer-encoding", "trailer", "x-late"] {
        assert!(seen.all(gone).is_empty(), "{gone}: {}", seen.head);
    }
    gateway.close().await;
}

#[tokio::test]
async fn end_to_end_headers_reach_the_upstream_and_those_of_one_hop_do_not() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), "");
    let headers = "User-Agent: OpenAI/Python 2.1\r\nAuthorization: Bearer csk-callers\r\n\
        X-Unknown: one\r\nx-unknown: two\r\nqueue_threshold: 5\r\nx-stainless-retry-count: 0\r\n\
        X-Utf-8: café\r\n\
        Accept: text/event-stream\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
        Cookie: a=b\r\nTraceparent: 00-1-2-03\r\nX-Forwarded-For: 10.0.0.1\r\n\
        Connection: X-Hop, keep-alive\r\nconnection: x-other\r\nX-Hop: 1\r\nX-Other: 2\r\n\
        Keep-Alive: timeout=5\r\nProxy-Connection: close\r\nProxy-Authorization: Basic c2VjcmV0\r\n\
        TE: trailers\r\nUpgrade: h2c\r\nX-Tidegate-Max-Wait: 9s\r\nx-tidegate-anything: 1\r\n";
    let mut wire = Wire::open(gateway.api, chat(headers, hello().to_string())).await;
    assert_eq!(wire.answer().await.status, 200);
    let seen = upstream.last_of(1);
    for (name, values) in [
        ("user-agent", &["OpenAI/Python 2.1"][..]),
        ("authorization", &["Bearer csk-callers"]),
        ("x-unknown", &["one", "two"]),
        ("queue_threshold", &["5"]),
        ("x-stainless-retry-count", &["0"]),
        ("x-utf-8", &["café"]),
        ("accept", &["text/event-stream"]),
        ("accept-encoding", &["gzip, deflate"]),
        ("cookie", &["a=b"]),
        ("traceparent", &["00-1-2-03"]),
        ("x-forwarded-for", &["10.0.0.1"]),
        ("host", &[upstream.addr.to_string().as_str()]),
        ("x-hop", &[]),
        ("x-other", &[]),
        ("keep-alive", &[]),
        ("proxy-connection", &[]),
        ("proxy-authorization", &[]),
        ("te", &[]),
        ("upgrade", &[]),
        ("connection", &[]),
        ("transfer-encoding", &[]),
        ("x-tidegate-max-wait", &[]),
        ("x-tidegate-anything", &[]),
    ] {
        assert_eq!(seen.all(name), values, "{name}: {}", seen.head);
    }
    gateway.close().await;
}

#[tokio::test]
async fn nothing_is_added_for_a_caller_that_sends_next_to_nothing() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), "");
    let bare = request("POST /v1/chat/completions", "", hello().to_string());
    assert_eq!(Wire::open(gateway.api, bare).await.answer().await.status, 200);
    let mut names = upstream.last_of(1).names();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "host"], "no User-Agent, no Via, no Accept of ours");
    gateway.close().await;
}

#[tokio::test]
async fn the_gateways_key_takes_the_place_of_the_callers() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), "upstream.api_key = \"env:ACCOUNT_KEY\"");
    for headers in ["Authorization: Bearer csk-callers\r\n", "", "authorization: Basic eDp5\r\n"] {
        let mut wire = Wire::open(gateway.api, chat(headers, hello().to_string())).await;
        assert_eq!(wire.answer().await.status, 200);
    }
    let get = request("GET /v1/models", "Authorization: Bearer csk-callers\r\n", "");
    assert_eq!(Wire::open(gateway.api, get).await.answer().await.status, 200);
    for seen in upstream.seen() {
        assert_eq!(seen.all("authorization"), [format!("Bearer {ACCOUNT_KEY}")], "{}", seen.head);
    }
    gateway.close().await;
}

#[tokio::test]
async fn an_answer_reaches_the_caller_as_the_upstream_gave_it() {
    let six = "x-ratelimit-limit-requests-day: 700000\r\nx-ratelimit-remaining-requests-day: 800000\r\n\
        x-ratelimit-reset-requests-day: 33011.382867\r\nx-ratelimit-limit-tokens-minute: 900000\r\n\
        x-ratelimit-remaining-tokens-minute: 1000000\r\nx-ratelimit-reset-tokens-minute: 11.38\r\n";
    let headers = format!(
        "Content-Type: application/json; charset=utf-8\r\n{six}X-Request-Id: their-own\r\n\
         Set-Cookie: a=1\r\nset-cookie: b=2\r\nDate: Sat, 01 Jan 2000 00:00:00 GMT\r\nServer: s\r\n\
         inference-id: x\r\nKeep-Alive: timeout=5\r\nConnection: x-hop, keep-alive\r\nX-Hop: 1\r\n\
         Proxy-Authenticate: Basic\r\n"
    );
    let upstream = Upstream::answering(answer("200 OK", &headers, COMPLETION)).await;
    let gateway = Gateway::start(&upstream.url(), "");
    let answer = Wire::open(gateway.api, chat("", hello().to_string())).await.answer().await;
    assert_eq!((answer.status, answer.text()), (200, COMPLETION));
    for (name, values) in [
        ("content-type", &["application/json; charset=utf-8"][..]),
        ("x-ratelimit-limit-requests-day", &["700000"]),
        ("x-ratelimit-remaining-requests-day", &["800000"]),
        ("x-ratelimit-reset-requests-day", &["33011.382867"]),
        ("x-ratelimit-limit-tokens-minute", &["900000"]),
        ("x-ratelimit-remaining-tokens-minute", &["1000000"]),
        ("x-ratelimit-reset-tokens-minute", &["11.38"]),
        ("x-request-id", &["their-own"]),
        ("set-cookie", &["a=1", "b=2"]),
        ("date", &["Sat, 01 Jan 2000 00:00:00 GMT"]),
        ("server", &["s"]),
        ("inference-id", &["x"]),
        ("content-length", &[COMPLETION.len().to_string().as_str()]),
        ("x-tidegate-wait-ms", &["0"]),
        ("x-tidegate-limited-by", &[]),
        ("keep-alive", &[]),
        ("x-hop", &[]),
        ("proxy-authenticate", &[]),
    ] {
        assert_eq!(answer.all(name), values, "{name}: {answer:?}");
    }
    let estimated: i64 = answer.all("x-tidegate-estimated-tokens")[0].parse().expect("a number");
    assert!(estimated > 100, "prompt and 100 of output: {estimated}");
    assert_eq!(gateway.spent().await, (1, 7), "settled with what it used");
    gateway.close().await;
}

#[tokio::test]
async fn documented_headers_that_the_upstream_omits_come_from_the_ledger() {
    let only = "x-ratelimit-limit-tokens-minute: 9\r\n";
    let upstream = Upstream::answering(answer("200 OK", only, COMPLETION)).await;
    let gateway = Gateway::start(&upstream.url(), "");
    let answer = Wire::open(gateway.api, chat("", hello().to_string())).await.answer().await;
    assert_eq!(answer.all("x-ratelimit-limit-tokens-minute"), ["9"], "theirs stays");
    assert_eq!(answer.all("x-ratelimit-limit-requests-day"), ["1000"]);
    assert_eq!(answer.all("x-ratelimit-remaining-requests-day"), ["999"]);
    for reset in ["x-ratelimit-reset-requests-day", "x-ratelimit-reset-tokens-minute"] {
        let seconds: f64 = answer.all(reset)[0].parse().expect("seconds");
        assert!((86_300.0..=86_700.0).contains(&seconds), "{reset}: {seconds}");
    }
    let own = answer.all("x-request-id")[0];
    assert!(own.starts_with("req_") && own.len() == 20, "{own}");
    gateway.close().await;
}

#[tokio::test]
async fn the_upstreams_errors_pass_unchanged() {
    let json = "content-type: application/json\r\n";
    let flat = r#"{"message":"no","type":"x","param":"model","code":"model_not_found"}"#;
    for (status, headers, body) in [
        ("400 Bad Request", json, flat.as_bytes()),
        ("401 Unauthorized", json, flat.as_bytes()),
        ("402 Payment Required", "", b"{}"),
        ("403 Forbidden", "content-type: text/plain\r\n", b"error code: 1010"),
        ("404 Not Found", json, flat.as_bytes()),
        ("404 Not Found", "content-type: text/html\r\n", b"<html>\xff\xfe</html>"),
        ("422 Unprocessable Entity", json, b"{\"detail\": [ ]}"),
        ("418 Own Phrase", "", b""),
        ("307 Temporary Redirect", "location: http://127.0.0.1:1/\r\n", b""),
    ] {
        let upstream = Upstream::answering(answer(status, headers, body)).await;
        let gateway = Gateway::start(&upstream.url(), "");
        let answer = Wire::open(gateway.api, chat("", hello().to_string())).await.answer().await;
        assert!(status.starts_with(&answer.status.to_string()), "{status}: {answer:?}");
        assert_eq!(answer.body, body, "{status}");
        for (name, value) in headers.lines().filter_map(|line| line.split_once(": ")) {
            assert_eq!(answer.all(name), [value], "{status}");
        }
        assert_eq!(gateway.spent().await, (0, 0), "{status}: it was never processed");
        assert_eq!(upstream.seen().len(), 1, "{status}: it would not fare better again");
        assert!((gateway.outcome("upstream_error").await - 1.0).abs() < 0.1, "{status}");
        gateway.close().await;
    }
}

#[tokio::test]
async fn an_empty_success_passes_and_is_charged_as_held() {
    for empty in ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"]
    {
        let upstream = Upstream::answering(empty).await;
        let gateway = Gateway::start(&upstream.url(), "");
        let answer = Wire::open(gateway.api, chat("", hello().to_string())).await.answer().await;
        assert!(empty.contains(&answer.status.to_string()) && answer.body.is_empty());
        let held: i64 = answer.all("x-tidegate-estimated-tokens")[0].parse().expect("a number");
        assert_eq!(gateway.spent().await, (1, held), "nobody knows what it used");
        assert!((gateway.metric("tidegate_usage_missing_total").await - 1.0).abs() < 0.1);
        gateway.close().await;
    }
}

#[tokio::test]
async fn packed_answers_pass_packed_and_are_metered() {
    let packed = gzip(COMPLETION.as_bytes());
    let headers = "content-type: application/json\r\ncontent-encoding: gzip\r\n";
    let upstream = Upstream::answering(answer("200 OK", headers, &packed)).await;
    let gateway = Gateway::start(&upstream.url(), "");
    let answer = Wire::open(gateway.api, chat("", hello().to_string())).await.answer().await;
    assert_eq!((answer.body, gateway.spent().await), (packed, (1, 7)));
    gateway.close().await;

    let (simulator, gateway) = pair(roomy(), "").await;
    let response = send(gateway.chat(&hello()).header("x-sim-fault", "gzip,tiny-frames")).await;
    assert_eq!(header(&response, "content-encoding").as_deref(), Some("gzip"));
    assert!(response.bytes().await.expect("whole").starts_with(&[0x1f, 0x8b]));
    assert_eq!(gateway.spent().await, (1, 20), "ten of prompt, ten of output");
    assert_eq!(simulator.stats().completed, 1);
    gateway.close().await;
}

#[tokio::test]
async fn what_costs_nothing_is_passed_on_without_a_pool() {
    let body = r#"{"object":"list","data":[]}"#;
    let upstream = Upstream::answering(answer("200 OK", "x-one: 1\r\n", body)).await;
    let gateway = Gateway::start(&upstream.url(), "");
    let get = request("GET /v1/models/org/name:v1?x=y", "Authorization: Bearer k\r\n", "");
    let answer = Wire::open(gateway.api, get).await.answer().await;
    assert_eq!((answer.status, answer.text(), answer.all("x-one")), (200, body, vec!["1"]));
    let seen = upstream.last_of(1);
    assert_eq!(seen.line(), "GET /v1/models/org/name:v1?x=y HTTP/1.1");
    assert_eq!(seen.all("authorization"), ["Bearer k"]);
    let head = request("HEAD /v1/models", "", "");
    let mut wire = Wire::open(gateway.api, head).await;
    assert_eq!(wire.head().await.expect("a head").status, 200);
    let warming = Wire::open(gateway.api, request("GET /v1/tcp_warming", "", "")).await;
    let mut warming = warming;
    assert_eq!(warming.answer().await.status, 200);
    assert_eq!(upstream.seen().len(), 2, "the gateway's own connections are warm already");
    assert_eq!(gateway.settled().await["pools"].as_array().map(Vec::len), Some(0));
    gateway.close().await;
}

#[tokio::test]
async fn an_upstream_that_wants_another_protocol_is_a_bad_gateway() {
    let (simulator, gateway) = pair(roomy(), "").await;
    let response = send(gateway.chat(&hello()).header("x-sim-fault", "upgrade")).await;
    assert_eq!(response.status(), 502);
    flat(&response.text().await.expect("a body"), "upstream_protocol");
    assert_eq!(simulator.stats().faulted, 1, "it is not tried again");
    gateway.close().await;
}

#[tokio::test]
async fn an_interim_answer_is_not_the_answer() {
    let hints = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n";
    let upstream = Upstream::answering([&hints[..], &completion()].concat()).await;
    let gateway = Gateway::start(&upstream.url(), "");
    let answer = Wire::open(gateway.api, chat("", hello().to_string())).await.answer().await;
    assert_eq!((answer.status, answer.text()), (200, COMPLETION));
    assert_eq!(gateway.spent().await, (1, 7));
    gateway.close().await;
}
