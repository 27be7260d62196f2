//! Faults asked for by requests, scripted, drawn, and set from outside.

use super::*;

use std::io::Read;

use tidegate::simulator::Fault;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn faulty(client: &Client, simulator: &Simulator, fault: &str, stream: bool) -> RequestBuilder {
    chat(client, simulator, &with(hello(), "stream", stream)).header("x-sim-fault", fault)
}

/// A plain request with these faults as it stands on the wire.
fn wire(fault: &str) -> Vec<u8> {
    let body = hello().to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-sim-fault: {fault}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    (head + &body).into_bytes()
}

async fn connect(simulator: &Simulator) -> TcpStream {
    TcpStream::connect(simulator.addr()).await.expect("it listens")
}

/// Everything up to the end of the connection, and how that came.
async fn read_all(socket: &mut TcpStream) -> (Vec<u8>, std::io::Result<()>) {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut bytes)).await;
    (bytes, read.expect("an end").map(|_| ()))
}

#[tokio::test]
async fn errors_have_their_status_and_flat_body() {
    let (simulator, client) = start(options()).await;
    for (fault, status, code) in [
        ("500", 500, "server_error"),
        ("503", 503, "service_unavailable"),
        ("status:402", 402, "payment_required"),
        ("queue", 429, "queue_exceeded"),
        ("queue:503", 503, "queue_exceeded"),
        ("quota:requests-second", 429, "request_quota_exceeded"),
        ("quota:tokens-day", 429, "token_quota_exceeded"),
        ("nonsense", 400, "wrong_api_format"),
    ] {
        let response = send(faulty(&client, &simulator, fault, false)).await;
        assert_eq!(response.status(), status, "{fault}");
        let error = value(response).await;
        assert_eq!(error["code"], code);
        let fields = error.as_object().expect("an object");
        assert!(fields.len() == 4 && fields.values().all(Value::is_string), "{error}");
    }
    let blocked = send(faulty(&client, &simulator, "blocked", false)).await;
    assert_eq!(blocked.status(), 403);
    assert_eq!(blocked.text().await.expect("a body"), "error code: 1010");
    let stats = simulator.stats();
    assert_eq!((stats.faulted, stats.refused, stats.in_flight), (8, 1, 0));
    let counters = simulator.report(None, "m").expect("it was asked").counters;
    assert_eq!(counters.requests, 0, "none of them reached the quota");
}

#[tokio::test]
async fn connections_end_as_they_are_told_to() {
    let (simulator, _) = start(options()).await;
    let mut socket = connect(&simulator).await;
    socket.write_all(&wire("close")).await.expect("it takes the request");
    let (bytes, end) = read_all(&mut socket).await;
    assert!(bytes.is_empty() && end.is_ok(), "an orderly end without a byte");

    let mut socket = connect(&simulator).await;
    socket.write_all(&wire("reset")).await.expect("it takes the request");
    let (bytes, end) = read_all(&mut socket).await;
    let error = end.expect_err("a reset");
    assert_eq!((bytes.len(), error.kind()), (0, std::io::ErrorKind::ConnectionReset));

    let mut socket = connect(&simulator).await;
    socket.write_all(&wire("upgrade")).await.expect("it takes the request");
    let mut head = vec![0; 12];
    socket.read_exact(&mut head).await.expect("a status line");
    assert_eq!(head, b"HTTP/1.1 101");
}

#[tokio::test]
async fn a_kept_connection_is_reset_under_the_next_request() {
    let (simulator, _) = start(options()).await;
    let mut socket = connect(&simulator).await;
    socket.write_all(&wire("idle-close")).await.expect("it takes the request");
    let mut seen = Vec::new();
    while !seen.ends_with(b"}") {
        let mut piece = [0; 1_024];
        let read = socket.read(&mut piece).await.expect("the first answer is whole");
        assert!(read > 0, "it ended early: {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&piece[..read]);
    }
    assert!(seen.starts_with(b"HTTP/1.1 200"));
    socket.write_all(&wire("")).await.expect("the connection looks alive");
    let (bytes, end) = read_all(&mut socket).await;
    assert!(bytes.is_empty() && end.is_err(), "a reset, and no answer");
    wait_for(&simulator, |stats| stats.open_connections == 0).await;
    let stats = simulator.stats();
    assert_eq!((stats.started, stats.completed), (1, 1), "the second was never read");
}

#[tokio::test]
async fn a_cut_breaks_the_body_off_after_its_beginning() {
    let (simulator, client) = start(Options { chunk_tokens: 4, ..options() }).await;
    for (fault, content) in [("cut:0", 0), ("cut", 1), ("cut:2", 2), ("cut:99", 3)] {
        let mut response = send(faulty(&client, &simulator, fault, true)).await;
        assert_eq!(response.status(), 200, "{fault}");
        let (mut seen, mut broken) = (String::new(), false);
        loop {
            match response.chunk().await {
                Ok(Some(frame)) => seen.push_str(std::str::from_utf8(&frame).expect("text")),
                Ok(None) => break,
                Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
        assert!(broken, "{fault} ended in order");
        assert_eq!(events(&seen).len(), 1 + content, "{fault}: {seen}");
    }
    let response = send(faulty(&client, &simulator, "cut", false)).await;
    assert_eq!(response.status(), 200);
    assert!(response.bytes().await.is_err(), "half of what was promised");
    assert_eq!(simulator.stats().faulted, 5);
    let counters = simulator.report(None, "m").expect("it was asked").counters;
    assert_eq!(counters.tokens_used, 5 * 110, "cut answers keep their reservation");
}

#[tokio::test]
async fn an_error_event_ends_a_stream_without_done() {
    let (simulator, client) = start(Options { chunk_tokens: 4, ..options() }).await;
    let response = send(faulty(&client, &simulator, "error-event:2", true)).await;
    assert_eq!(response.status(), 200);
    let text = response.text().await.expect("an orderly end");
    let events = events(&text);
    assert_eq!(events.len(), 1 + 2 + 1);
    let error: Value = serde_json::from_str(events[3]).expect("JSON");
    assert_eq!(error["status_code"], 500);
    for field in ["message", "type", "param", "code", "id"] {
        assert!(error["error"][field].is_string(), "{error}");
    }
    assert_eq!(send(faulty(&client, &simulator, "error-event", false)).await.status(), 500);
}

#[tokio::test]
async fn slow_late_and_silent_answers() {
    let (simulator, client) = start(options()).await;
    for fault in ["slow-head:60", "late:60"] {
        let began = tokio::time::Instant::now();
        assert_eq!(send(faulty(&client, &simulator, fault, false)).await.status(), 200);
        assert!(began.elapsed() >= Duration::from_millis(60), "{fault}");
    }
    // Being slow after admission holds a reservation; being late before it does not.
    for (fault, held) in [("hang", 110), ("slow-head:60000", 110), ("late:60000", 0)] {
        let request = tokio::spawn(faulty(&client, &simulator, fault, true).send());
        let wanted = |stats: &tidegate::simulator::Stats| stats.in_flight == 1;
        wait_for(&simulator, wanted).await;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let seen = || simulator.report(None, "m").expect("it was asked").counters.tokens_held;
        while seen() != held && tokio::time::Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        assert_eq!(seen(), held, "{fault}");
        request.abort();
        wait_for(&simulator, |stats| stats.in_flight == 0).await;
    }
    assert_eq!(simulator.stats().aborted, 3);
}

#[tokio::test]
async fn compressed_and_tiny_frames_carry_the_same_answer() {
    let (simulator, client) = start(options()).await;
    for stream in [false, true] {
        let plain = send(faulty(&client, &simulator, "", stream)).await.text().await.expect("text");
        let without_id = |text: &str| {
            let mut text = text.to_owned();
            while let Some(at) = text.find("chatcmpl-") {
                text.replace_range(at..at + 9 + 32, "");
            }
            text
        };
        for fault in ["gzip", "tiny-frames", "gzip,tiny-frames"] {
            let response = send(faulty(&client, &simulator, fault, stream)).await;
            let gzip = header(&response, "content-encoding").as_deref() == Some("gzip");
            assert_eq!(gzip, fault.contains("gzip"));
            let bytes = response.bytes().await.expect("the whole body");
            let mut text = String::new();
            if gzip {
                let mut decoder = flate2::read::GzDecoder::new(&bytes[..]);
                decoder.read_to_string(&mut text).expect("whole gzip");
            } else {
                text.push_str(std::str::from_utf8(&bytes).expect("text"));
            }
            assert_eq!(without_id(&text), without_id(&plain), "{fault} {stream}");
        }
        let silent = send(faulty(&client, &simulator, "no-usage", stream)).await;
        assert!(!silent.text().await.expect("text").contains("usage"));
    }
}

#[tokio::test]
async fn scripts_and_rates_reach_valid_requests_in_turn() {
    let (simulator, client) = start(options()).await;
    simulator.script([vec![Fault::Status(503)], vec![], vec![Fault::Queue(429)]]);
    let mut seen = Vec::new();
    for body in [json!({}), hello(), hello(), hello(), hello()] {
        seen.push(send(chat(&client, &simulator, &body)).await.status().as_u16());
    }
    assert_eq!(seen, [400, 503, 200, 429, 200]);
    simulator.set_fault_rates(vec![(Fault::Status(500), 1.0)]).expect("a share");
    assert_eq!(send(chat(&client, &simulator, &hello())).await.status(), 500);
    assert!(simulator.set_fault_rates(vec![(Fault::Hang, 1.5)]).is_err());
    simulator.clear_faults();
    assert_eq!(send(chat(&client, &simulator, &hello())).await.status(), 200);
}

#[tokio::test]
async fn other_languages_can_script_spend_and_look() {
    let (simulator, client) = start(options()).await;
    let control = |path: &str, body: Value| send(post(&client, &simulator, path, &body));
    let faults = json!({"clear": true, "script": ["503", ""], "rates": {"queue": 1.0}});
    assert_eq!(control("/_sim/faults", faults).await.status(), 200);
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(send(chat(&client, &simulator, &hello())).await.status().as_u16());
    }
    assert_eq!(seen, [503, 200, 429]);
    for bad in [json!({"script": ["nonsense"]}), json!({"rates": {"500": 2.0}}), json!({"x": 1})] {
        assert_eq!(control("/_sim/faults", bad).await.status(), 400);
    }
    assert_eq!(control("/_sim/faults", json!({"clear": true})).await.status(), 200);
    let spending = json!({"model": "m", "tokens": 1_000});
    assert_eq!(control("/_sim/spend", spending).await.status(), 200);
    let too_much = json!({"model": "m", "tokens": 100_000});
    assert_eq!(control("/_sim/spend", too_much).await.status(), 429);
    let stats = value(send(client.get(simulator.base_url() + "/_sim/stats")).await).await;
    assert_eq!(stats["stats"]["completed"], 1);
    let pool = &stats["pools"][0];
    assert_eq!(pool["report"]["counters"]["tokens_used"], 1_020);
    assert_eq!(pool["report"]["levels"][1]["limit"]["name"], "minute");
    assert!(pool["utilisation"].as_f64().is_some_and(|share| share > 0.0));
}
