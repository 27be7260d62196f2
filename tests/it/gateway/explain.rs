//! What answers say of themselves: what they waited for, what was estimated and used, and whose
//! errors they are.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tidegate::simulator::{Fault, Options};
use tokio::io::AsyncWriteExt;

use crate::support::upstream::{
    COMPLETION, LAST_CHUNK, STREAM_HEAD, Upstream, answer, chunk, completion,
};
use crate::support::wire::{Wire, chat};
use crate::support::{Gateway, header, hello, number, pair, refusal, roomy, send, wait_for, with};

const JSON: &str = "content-type: application/json\r\n";

fn chunked(headers: &str, pieces: &[&[u8]]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\n{headers}transfer-encoding: chunked\r\n\r\n");
    let pieces = pieces.iter().flat_map(chunk);
    head.bytes().chain(pieces).chain(LAST_CHUNK.iter().copied()).collect()
}

/// A completion of about this many bytes that used seven tokens.
fn long(bytes: usize) -> String {
    format!("{{\"text\": \"{}\", {}", "x".repeat(bytes), COMPLETION.trim_start_matches('{'))
}

#[tokio::test]
async fn a_plain_answer_says_what_it_used_and_is_the_same_bytes() {
    let (short, near, beyond) = (COMPLETION.to_owned(), long(200 << 10), long(300 << 10));
    let packed = {
        use std::io::Write as _;
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packer.write_all(COMPLETION.as_bytes()).expect("memory");
        packer.finish().expect("memory")
    };
    let pieces: Vec<&[u8]> = COMPLETION.as_bytes().chunks(7).collect();
    let silent = b"{\"choices\": []}".as_slice();
    for (bytes, body, used, why) in [
        (completion(), short.as_bytes(), Some("7"), "with its length"),
        (chunked(JSON, &[short.as_bytes()]), short.as_bytes(), Some("7"), "in one chunk"),
        (chunked(JSON, &pieces), short.as_bytes(), Some("7"), "in many"),
        (answer("200 OK", JSON, &near), near.as_bytes(), Some("7"), "long"),
        (answer("200 OK", JSON, &beyond), beyond.as_bytes(), None, "too long to be read ahead"),
        (chunked(JSON, &[beyond.as_bytes()]), beyond.as_bytes(), None, "the same in chunks"),
        (
            answer("200 OK", &format!("{JSON}content-encoding: gzip\r\n"), &packed),
            &packed,
            Some("7"),
            "packed",
        ),
        (answer("200 OK", JSON, silent), silent, None, "one that does not tell"),
        (answer("200 OK", "", ""), b"".as_slice(), None, "empty"),
        (
            [
                STREAM_HEAD.as_bytes(),
                &chunk(format!("data: {}\n\n", COMPLETION.replace('\n', ""))),
                LAST_CHUNK,
            ]
            .concat(),
            format!("data: {}\n\n", COMPLETION.replace('\n', "")).as_bytes(),
            None,
            "a stream tells it later",
        ),
    ] {
        let upstream = Upstream::answering(bytes).await;
        let gateway = Gateway::start(&upstream.url(), "");
        let mut wire = Wire::connect(gateway.api).await;
        for _ in 0..2 {
            wire.send(chat("accept-encoding: gzip\r\n", hello().to_string())).await;
            let seen = wire.answer().await;
            assert_eq!((seen.status, seen.body == body), (200, true), "{why}");
            assert_eq!(seen.all("x-tidegate-used-tokens").first().copied(), used, "{why}");
            assert_eq!(seen.all("x-tidegate-source").len(), 0, "{why}");
        }
        gateway.settled().await;
        assert!((gateway.outcome("completed").await - 2.0).abs() < 0.1, "{why}");
        gateway.close().await;
    }
}

#[tokio::test]
async fn a_plain_answer_over_http_2_says_it_too() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), "");
    let socket = tokio::net::TcpStream::connect(gateway.api).await.expect("it listens");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let request = http::Request::post(gateway.url("/v1/chat/completions"))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(hello().to_string())))
        .expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    assert_eq!(answer.headers()["x-tidegate-used-tokens"], "7");
    assert_eq!(answer.into_body().collect().await.expect("whole").to_bytes(), COMPLETION);
    drop(sender);
    gateway.close().await;
    connection.abort();
}

#[tokio::test]
async fn an_answer_that_keeps_its_caller_patient_is_handed_over_as_it_comes() {
    let upstream = Upstream::start(|_, mut socket| async move {
        let head = format!("HTTP/1.1 200 OK\r\n{JSON}transfer-encoding: chunked\r\n\r\n");
        socket.write_all(head.as_bytes()).await.ok()?;
        // White space, more than the time for which it is read ahead.
        for _ in 0..8 {
            tokio::time::sleep(Duration::from_millis(250)).await;
            socket.write_all(&chunk("\n")).await.ok()?;
        }
        std::future::pending::<()>().await;
        None
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), "");
    let mut wire = Wire::open(gateway.api, chat("", hello().to_string())).await;
    let head = wire.head().await.expect("a head though the answer has not ended");
    assert_eq!((head.status, head.all("x-tidegate-used-tokens").len()), (200, 0));
    assert!(wire.chunk().await.expect("what came so far").starts_with(b"\n\n\n"));
    assert_eq!(wire.chunk().await.expect("and what comes"), b"\n");
    drop(wire);
    gateway.wait_metric("tidegate_requests_total{outcome=\"client_gone\"}", 1.0).await;
    gateway.close().await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_breaks_off_for_the_caller_and_is_charged_as_held() {
    let upstream = Upstream::start(|_, mut socket| async move {
        let whole = completion();
        socket.write_all(&whole[..whole.len() - 40]).await.ok()?;
        None
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), "");
    let mut wire = Wire::open(gateway.api, chat("", hello().to_string())).await;
    let head = wire.head().await.expect("a head");
    let held: i64 = head.all("x-tidegate-estimated-tokens")[0].parse().expect("a number");
    assert_eq!((head.status, head.all("x-tidegate-used-tokens").len()), (200, 0));
    assert_eq!(wire.end().await, &COMPLETION.as_bytes()[..COMPLETION.len() - 40]);
    assert_eq!(gateway.spent().await, (1, held));
    assert!((gateway.outcome("upstream_cut").await - 1.0).abs() < 0.1);
    gateway.close().await;
}

#[tokio::test]
async fn a_refusal_says_which_limit_how_far_it_is_used_up_and_when_to_come_back() {
    // 1,000 tokens in 100 s: ten of them a second.
    let changes = "[models.\"*\"]\nlimits = [\n\
        { unit = \"requests\", limit = 1_000, per = \"1d\", name = \"day\" },\n\
        { unit = \"tokens\", limit = 1_000, per = \"100s\", name = \"minute\" } ]\n";
    let (simulator, gateway) = pair(Options { ..roomy() }, changes).await;
    let body = with(hello(), "max_completion_tokens", 500);
    simulator.script([vec![Fault::Hang]]);
    let first = Wire::open(gateway.api, chat("", body.to_string())).await;
    wait_for(&simulator, |stats| stats.in_flight == 1).await;
    let used = send(gateway.chat(&with(hello(), "max_completion_tokens", 300))).await;
    assert_eq!(used.status(), 200);
    assert_eq!(number(&used, "x-tidegate-used-tokens"), 20);
    drop(used.bytes().await);
    // While the first holds what it may use, nobody knows when the next can go.
    let hasty = |wait: &str| gateway.chat(&body).header("x-tidegate-max-wait", wait);
    let response = send(hasty("30ms")).await;
    assert_eq!(header(&response, "x-tidegate-source").as_deref(), Some("gateway"));
    assert_eq!(header(&response, "x-tidegate-limited-by").as_deref(), Some("tokens/minute"));
    let estimated = number(&response, "x-tidegate-estimated-tokens");
    let numbers =
        ["", "-used", "-held"].map(|it| number(&response, &format!("x-tidegate-limit{it}")));
    let [limit, used, held] = numbers;
    assert_eq!(limit, 1_000);
    assert!((500..700).contains(&held) && (held..=held + 20).contains(&used), "{numbers:?}");
    assert!(number(&response, "x-tidegate-wait-ms") < 20_000);
    let error = refusal(response, 429, "wait_exceeded").await;
    let message = error["message"].as_str().expect("text");
    let expected = format!(
        "tokens/minute: limit 1000, used {used} (of which {held} held); this request is estimated at \
         {estimated} tokens and was not admitted within 30ms; come back in 1s"
    );
    assert_eq!(message, expected);
    // Once it is charged, it is a matter of seconds that can be told.
    drop(first);
    gateway.settled().await;
    let response = send(hasty("30ms")).await;
    let seconds = number(&response, "retry-after");
    let error = refusal(response, 429, "wait_exceeded").await;
    let message = error["message"].as_str().expect("text");
    assert!(message.contains("(of which 0 held)"), "{message}");
    assert!(message.contains("would start in about "), "{message}");
    let end = format!(", after its deadline of 30ms; come back in {seconds}s");
    assert!(message.ends_with(&end), "{message}");
    gateway.close().await;
}

#[tokio::test]
async fn an_error_says_whose_it_is() {
    let (simulator, gateway) = pair(roomy(), "retry.max_attempts = 1").await;
    for fault in [Fault::Status(400), Fault::Status(500), Fault::Queue(429), Fault::Blocked] {
        simulator.script([vec![fault]]);
        let response = send(gateway.chat(&hello())).await;
        assert!(!response.status().is_success());
        assert_eq!(header(&response, "x-tidegate-source").as_deref(), Some("upstream"), "{fault}");
    }
    // A kept connection that closes is replaced once.
    simulator.script([vec![Fault::Close], vec![Fault::Close]]);
    for (response, status) in [
        (send(gateway.chat(&hello())).await, 502),
        (send(gateway.post("/v1/chat/completions").body("{")).await, 400),
        (send(gateway.post("/v1/nothing").body("")).await, 404),
    ] {
        assert_eq!(response.status(), status);
        assert_eq!(header(&response, "x-tidegate-source").as_deref(), Some("gateway"));
    }
    gateway.close().await;
}
