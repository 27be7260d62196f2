//! Traces, as a collector gets them: decoded from what a gateway sends over a socket.

pub(crate) mod collector;
mod context;
mod process;
mod trouble;
mod waits;

use serde_json::json;
use tidegate::simulator::{Fault, Simulator};
use tokio::io::AsyncWriteExt;

use self::collector::Collector;
use crate::support::upstream::{LAST_CHUNK, STREAM_HEAD, Upstream, answer, chunk};
use crate::support::{ACCOUNT_KEY, ANY, Gateway, hello, number, refusal, roomy, send, with};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const CHAT: &str = "POST /v1/chat/completions";

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

/// A gateway in front of `upstream` that sends all spans to `collector`.
fn gateway(upstream: &str, collector: &Collector, changes: &str) -> Gateway {
    Gateway::start(upstream, &format!("{changes}\n{}", collector.config("")))
}

async fn simulated(collector: &Collector, changes: &str) -> (Simulator, Gateway) {
    let simulator = Simulator::start(roomy(), ANY).await.expect("a free port");
    let gateway = gateway(&simulator.base_url(), collector, changes);
    (simulator, gateway)
}

/// An upstream that streams an answer in three pieces.
async fn streaming() -> Upstream {
    Upstream::start(|_, mut socket| async move {
        socket.write_all(STREAM_HEAD.as_bytes()).await.ok()?;
        for event in [
            r#"{"id":"chatcmpl-7","model":"m-2026","choices":[{"delta":{"content":"a"},"finish_reason":null}]}"#,
            r#"{"id":"chatcmpl-7","model":"m-2026","choices":[{"delta":{},"finish_reason":"stop"}]}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13,
                "prompt_tokens_details":{"cached_tokens":2}}}"#,
        ] {
            let data = format!("data: {}\n\n", event.replace('\n', ""));
            socket.write_all(&chunk(data)).await.ok()?;
        }
        socket.write_all(&chunk("data: [DONE]\n\n")).await.ok()?;
        socket.write_all(LAST_CHUNK).await.ok().map(|()| socket)
    })
    .await
}

#[tokio::test]
async fn a_streamed_request_that_waits_is_four_spans_of_its_callers_trace() {
    let collector = Collector::start().await;
    let upstream = streaming().await;
    let changes = "models.\"*\".min_gap = \"1s\"\nupstream.api_key = \"env:ACCOUNT_KEY\"";
    let gateway = gateway(&upstream.url(), &collector, changes);
    let body = json!({
        "model": "m", "stream": true, "max_tokens": 50, "n": 2,
        "messages": [{"role": "user", "content": "the prompt is nobody's business"}],
    });
    send(gateway.chat(&body)).await.bytes().await.expect("whole");
    let request = gateway.chat(&body).header("traceparent", traceparent("01"));
    let request =
        request.header("tracestate", "vendor=1,other=2").bearer_auth("csk-planted-caller");
    let response = send(request).await;
    let waited = number(&response, "x-tidegate-wait-ms");
    assert!(response.text().await.expect("whole").ends_with("data: [DONE]\n\n"));
    let seen = upstream.last_of(2);
    gateway.close().await;

    let of_it = |name: &str| {
        let mut all = collector.named(name);
        all.retain(|span| span.trace() == TRACE);
        assert_eq!(all.len(), 1, "{name}: {all:#?}");
        all.remove(0)
    };
    let (request, queue, call, body) =
        (of_it(CHAT), of_it("queue"), of_it("chat m"), of_it("body"));
    assert_eq!(request.parent(), PARENT);
    assert_eq!((queue.parent(), call.parent()), (request.id(), request.id()));
    assert_eq!(body.parent(), call.id());
    // Internal, server and client, as the protocol numbers them.
    assert_eq!([&request, &queue, &call, &body].map(|it| it.0.kind), [2, 1, 3, 1]);
    for span in [&request, &queue, &call, &body] {
        assert_eq!(span.0.trace_state, "vendor=1,other=2");
        assert!(!span.failed(), "{span:#?}");
        let within = span.0.start_time_unix_nano >= request.0.start_time_unix_nano
            && span.0.end_time_unix_nano <= request.0.end_time_unix_nano;
        assert!(within, "{span:#?} is not within {request:#?}");
    }
    let now = tidegate::time::wall().as_nanos();
    assert!(now.abs_diff(request.0.end_time_unix_nano) < 60_000_000_000, "others' clocks");
    assert_eq!((request.0.flags, queue.0.flags), (0x301, 0x101), "the caller is another process");
    // What is left of the gap when the first has been answered, and the same in both places but for what
    // a busy machine puts between two looks at the clock.
    assert!(waited >= 1, "it waited");
    assert!(queue.millis().abs_diff(waited) <= 5_000, "{} and {waited} ms", queue.millis());
    assert_eq!(queue.get("tidegate.limited_by"), request.get("tidegate.limited_by"));
    assert!(queue.0.end_time_unix_nano <= call.0.start_time_unix_nano);
    assert!(body.0.start_time_unix_nano >= call.0.start_time_unix_nano);
    assert_eq!(body.0.end_time_unix_nano, call.0.end_time_unix_nano);

    let sent = format!("00-{TRACE}-{}-01", call.id());
    assert_eq!(seen.all("traceparent"), [sent.as_str()], "the upstream's parent is the call");
    assert_eq!(seen.all("tracestate"), ["vendor=1,other=2"]);

    for (name, value) in [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "127.0.0.1"),
        ("gen_ai.request.model", "m"),
        ("gen_ai.request.stream", "true"),
        ("gen_ai.request.max_tokens", "50"),
        ("gen_ai.request.choice.count", "2"),
        ("gen_ai.response.model", "m-2026"),
        ("gen_ai.response.id", "chatcmpl-7"),
        ("gen_ai.response.finish_reasons", "[stop]"),
        ("gen_ai.usage.input_tokens", "9"),
        ("gen_ai.usage.output_tokens", "4"),
        ("gen_ai.usage.cache_read.input_tokens", "2"),
        ("http.request.method", "POST"),
        ("http.response.status_code", "200"),
        ("http.request.resend_count", ""),
        ("server.address", "127.0.0.1"),
        ("server.port", &upstream.addr.port().to_string()),
        ("url.full", &format!("{}/v1/chat/completions", upstream.url())),
        ("error.type", ""),
    ] {
        assert_eq!(call.get(name), value, "{name}: {call:#?}");
    }
    let first: f64 = call.get("gen_ai.response.time_to_first_chunk").parse().expect("seconds");
    assert!((0.0..60.0).contains(&first), "{first}");
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/v1/chat/completions"),
        ("http.response.status_code", "200"),
        ("url.scheme", "http"),
        ("gen_ai.request.model", "m"),
        ("gen_ai.usage.input_tokens", ""),
        ("tidegate.outcome", "completed"),
        ("tidegate.class", "standard"),
        ("tidegate.wait_ms", &waited.to_string()),
        ("tidegate.attempts", "1"),
        ("error.type", ""),
    ] {
        assert_eq!(request.get(name), value, "{name}: {request:#?}");
    }
    assert!(request.get("tidegate.request.id").starts_with("req_"));
    assert_eq!(request.get("tidegate.pool").len(), 8);
    assert!(request.get("tidegate.tokens.estimated").parse::<u64>().expect("a number") > 100);
    assert!(!request.get("tidegate.tenant").is_empty());

    let resource = collector.resource();
    assert_eq!(resource["service.name"], "tidegate");
    assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(resource["service.instance.id"].len(), 36);
}

#[tokio::test]
async fn nothing_that_is_sent_holds_a_prompt_an_answer_or_a_key() {
    let collector = Collector::start().await;
    let upstream = Upstream::start(|number, mut socket| async move {
        let said = |status: &str, text: &str| {
            answer(status, "content-type: application/json\r\nx-secret: planted-header\r\n", text)
        };
        let bytes = match number {
            0 => said(
                "200 OK",
                r#"{"model":"planted answer","id":"i","choices":[
                {"message":{"content":"planted \"model\":\"planted\""},"finish_reason":"stop"}]}"#,
            ),
            1 => said("400 Bad Request", r#"{"message":"planted message","code":"bad planted"}"#),
            _ => {
                said("500 Oops", r#"{"error":{"message":"planted message","code":"planted code"}}"#)
            }
        };
        socket.write_all(&bytes).await.ok().map(|()| socket)
    })
    .await;
    let changes = "upstream.api_key = \"env:ACCOUNT_KEY\"\nretry.max_attempts = 2\n\
                   admission.tenant_header = \"x-tenant\"";
    let gateway = gateway(&upstream.url(), &collector, changes);
    for _ in 0..3 {
        let text = "planted prompt of a caller";
        let body = json!({"model": "m", "user": "planted-user", "metadata": {"k": "planted-value"},
            "messages": [{"role": "user", "content": text}]});
        let request = gateway.post("/v1/chat/completions?key=planted-query").body(body.to_string());
        let request = request.bearer_auth("planted-key").header("x-tenant", "planted-tenant");
        let request = request.header("cookie", "planted=1").header("user-agent", "planted-agent");
        send(request).await.bytes().await.expect("whole");
    }
    let path = gateway.client.get(gateway.url("/v1/models/planted-model-path"));
    send(path.bearer_auth("planted-key")).await.bytes().await.expect("whole");
    let nowhere = gateway.client.get(gateway.url("/planted/path"));
    send(nowhere).await.bytes().await.expect("whole");
    gateway.close().await;
    let names: Vec<_> = collector.spans().into_iter().map(|span| span.0.name).collect();
    // Five requests; four calls for the first three, with a wait before the last; one for the page.
    assert_eq!(names.len(), 5 + 4 + 1 + 1, "{names:?}");
    assert_eq!(collector.named("GET").len(), 2, "the page's call, and a path that is none");
    for (headers, body) in collector.messages() {
        let text = String::from_utf8_lossy(&body).into_owned() + &format!("{headers:?}");
        // The code of an error is a word, of which letters are left.
        let text = text.replace("badplanted", "").replace("plantedcode", "");
        assert!(!text.contains("planted"), "{text}");
        assert!(!text.contains(ACCOUNT_KEY), "{text}");
    }
}

#[tokio::test]
async fn each_attempt_is_a_call_of_its_own() {
    let collector = Collector::start().await;
    let (simulator, gateway) = simulated(&collector, "").await;
    // The second breaks a connection that was kept: it is sent again without a backoff.
    let faults = ["status:500", "reset", "queue"];
    simulator.script(faults.map(|it| Fault::parse_all(it).expect("a fault")));
    let response = send(gateway.chat(&hello())).await;
    assert_eq!(response.status(), 200);
    response.bytes().await.expect("whole");
    gateway.close().await;
    let request = collector.only(CHAT);
    assert_eq!(request.get("tidegate.attempts"), "4");
    assert_eq!((request.get("tidegate.outcome").as_str(), request.failed()), ("completed", false));
    let calls = collector.named("chat m");
    let ends: Vec<_> = calls
        .iter()
        .map(|call| (call.get("error.type"), call.get("http.request.resend_count"), call.failed()))
        .collect();
    let end = |error: &str, count: &str, failed| (error.to_owned(), count.to_owned(), failed);
    let expected = [
        end("500", "", true),
        end("stale_connection", "1", true),
        end("429", "2", true),
        end("", "3", false),
    ];
    assert_eq!(ends, expected, "{calls:#?}");
    let status = |call: &collector::Seen| call.get("http.response.status_code");
    assert_eq!(calls.iter().map(status).collect::<Vec<_>>(), ["500", "", "429", "200"]);
    assert!(calls.iter().all(|call| call.parent() == request.id()));
    assert_eq!(calls[3].get("gen_ai.usage.output_tokens"), "10");
    assert!(calls[..3].iter().all(|call| call.get("gen_ai.usage.output_tokens").is_empty()));
    // Backoff is a wait as well.
    let waits = collector.named("queue");
    assert!(waits.len() == 3 && waits.iter().all(|wait| wait.get("tidegate.admitted") == "true"));
}

#[tokio::test]
async fn refusals_are_errors_and_callers_mistakes_are_not() {
    let collector = Collector::start().await;
    let changes = "models.\"*\".max_concurrent = 1\nretry.max_attempts = 1";
    let (simulator, gateway) = simulated(&collector, changes).await;
    // Above the limit of 100,000 tokens, whatever is free.
    let large = with(hello(), "max_tokens", 200_000);
    refusal(send(gateway.chat(&large)).await, 413, "above_limit").await;
    let invalid = gateway.post("/v1/chat/completions").body("{");
    assert_eq!(send(invalid).await.status(), 400);
    let upstreams = send(gateway.chat(&hello()).header("x-sim-fault", "status:503")).await;
    assert_eq!(upstreams.status(), 503);
    upstreams.bytes().await.expect("whole");
    let hanging = tokio::spawn(gateway.chat(&hello()).header("x-sim-fault", "hang").send());
    crate::support::wait_for(&simulator, |stats| stats.in_flight == 1).await;
    let late = gateway.chat(&hello()).header("x-tidegate-max-wait", "50ms");
    refusal(send(late).await, 429, "wait_exceeded").await;
    hanging.abort();
    gateway.close().await;
    let ends = collector
        .named(CHAT)
        .into_iter()
        .map(|span| (span.get("tidegate.outcome"), span.get("error.type"), span.failed()));
    let mut ends: Vec<_> = ends.collect();
    ends.sort_unstable();
    let expected = [
        ("above_limit", "above_limit", true),
        ("client_gone", "client_gone", false),
        ("invalid", "invalid", false),
        ("upstream_error", "503", true),
        ("wait_exceeded", "wait_exceeded", true),
    ];
    let expected = expected.map(|(outcome, error, failed)| (outcome.into(), error.into(), failed));
    assert_eq!(ends, expected);
    let wait = collector.only("queue");
    assert_eq!(wait.get("tidegate.admitted"), "false");
    assert!(wait.get("tidegate.limited_by").contains("concurrency"), "{wait:#?}");
    let calls = collector.named("chat m");
    assert_eq!(calls.len(), 2, "{calls:#?}");
    assert_eq!(calls[1].get("error.type"), "client_gone", "it was cut in mid-call");
}
