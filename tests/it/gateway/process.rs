//! The program: signals, exit codes and what it prints.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tidegate::simulator::{Latency, Options, Simulator};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::process::{self, Process, file, path, tidegate};
use crate::support::upstream::{LAST_CHUNK, STREAM_HEAD, Upstream, chunk};
use crate::support::wire::{Wire, chat};
use crate::support::{ACCOUNT_KEY, config_text, eventually, hello, roomy, wait_for, with};

/// Runs a command that ends by itself.
fn run(args: &[&str]) -> (Option<i32>, String, String) {
    process::run(&mut tidegate(args))
}

/// `tidegate serve`, once it says that it is ready.
fn serve(upstream: &str, changes: &str) -> Process {
    let config = file(&config_text(upstream, changes));
    Process::start(&mut tidegate(&["serve", "--stateless", "--config", path(&config)]))
}

/// Streams without end.
async fn endless() -> Upstream {
    Upstream::start(|_, mut socket| async move {
        socket.write_all(STREAM_HEAD.as_bytes()).await.ok()?;
        loop {
            socket.write_all(&chunk("data: {}\n\n")).await.ok()?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

fn stream() -> Vec<u8> {
    chat("", with(hello(), "stream", true).to_string())
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_kernel_makes_no_huge_pages_of_its_memory() {
    let upstream = endless().await;
    let gateway = serve(&upstream.url(), "");
    let status = format!("/proc/{}/status", gateway.pid().as_raw_nonzero());
    let status = std::fs::read_to_string(status).expect("its status");
    let enabled = status.lines().find_map(|line| line.strip_prefix("THP_enabled:"));
    assert_eq!(enabled.map(str::trim), Some("0"), "{status}");
}

/// A stream that has begun.
async fn streaming(api: SocketAddr) -> Wire {
    let mut wire = Wire::open(api, stream()).await;
    assert_eq!(wire.head().await.expect("a head").status, 200);
    assert!(!wire.chunk().await.expect("a piece").is_empty());
    wire
}

#[tokio::test]
async fn a_signal_lets_in_nobody_new_and_serves_everybody_else() {
    for signal in [Signal::TERM, Signal::INT] {
        let latency = Latency { tokens_per_second: 20, ..Latency::ZERO };
        let options = Options { latency, chunk_tokens: 1, ..roomy() };
        let simulator = Simulator::start(options, crate::support::ANY).await.expect("a free port");
        let changes = "models.\"*\".max_concurrent = 1";
        let process = serve(&simulator.base_url(), changes);
        let mut first = streaming(process.api).await;
        let mut second = Wire::open(process.api, chat("", hello().to_string())).await;
        process.wait_page("/metrics", "tidegate_queue_depth 1\n").await;
        process.signal(signal);
        process.wait_page("/readyz", "draining").await;
        let refused = async || TcpStream::connect(process.api).await.is_err().then_some(());
        eventually("nobody new is let in", refused).await;
        let mut text = Vec::new();
        loop {
            match first.chunk().await.expect("the stream goes on") {
                data if data.is_empty() => break,
                data => text.extend(data),
            }
        }
        assert!(text.ends_with(b"data: [DONE]\n\n"));
        assert_eq!(second.answer().await.status, 200, "it had waited, and there was time");
        assert_eq!(process.end().await.0, Some(0));
        let stats = wait_for(&simulator, |stats| stats.in_flight == 0).await;
        assert_eq!((stats.started, stats.completed), (2, 2));
    }
}

#[tokio::test]
async fn the_drain_is_bounded_whatever_the_callers_do() {
    const DRAIN: Duration = Duration::from_millis(300);
    let whole = chat("", hello().to_string());
    let half_head = &whole[..30];
    let half_body = &whole[..whole.len() - 5];
    for (bytes, code, why) in [
        (&b""[..], Some(0), "silence"),
        (half_head, Some(0), "half a head"),
        (half_body, Some(1), "half a body"),
        (&stream(), Some(1), "an endless answer"),
    ] {
        let upstream = endless().await;
        let process = serve(&upstream.url(), "server.drain_timeout = \"300ms\"");
        let mut wire = Wire::open(process.api, bytes).await;
        process.wait_page("/metrics", "tidegate_connections 1\n").await;
        if code == Some(1) {
            process.wait_page("/metrics", "tidegate_requests_in_flight 1\n").await;
        }
        if why == "an endless answer" {
            // Before it was sent it would be refused instead.
            wire.head().await.expect("a head");
        }
        let began = Instant::now();
        process.signal(Signal::TERM);
        let (exit, text) = process.end().await;
        let took = began.elapsed();
        assert_eq!(exit, code, "{why}: {text}");
        if code == Some(1) {
            assert!(took >= DRAIN, "{why}: it had its time, {took:?}");
            assert!(text.contains("stopped before every answer was finished"), "{why}: {text}");
        }
        assert!(!wire.end().await.ends_with(LAST_CHUNK), "{why}: not an end in order");
    }
}

#[tokio::test]
async fn half_a_head_on_a_kept_connection_does_not_hold_the_drain_up_for_ever() {
    let simulator = Simulator::start(roomy(), crate::support::ANY).await.expect("a free port");
    let process = serve(&simulator.base_url(), "server.drain_timeout = \"300ms\"");
    let mut wire = Wire::open(process.api, chat("", hello().to_string())).await;
    assert_eq!(wire.answer().await.status, 200);
    wire.send("POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nx-half").await;
    process.signal(Signal::TERM);
    // It does not wait for the time that a head has, which is longer than this waits for it.
    process.end().await;
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let upstream = endless().await;
    let process = serve(&upstream.url(), "server.drain_timeout = \"1h\"");
    let _stream = streaming(process.api).await;
    process.signal(Signal::TERM);
    process.wait_page("/readyz", "draining").await;
    process.signal(Signal::INT);
    // Long before the hour that the stream has to finish in.
    let (exit, text) = process.end().await;
    assert_eq!(exit, Some(1), "{text}");
}

#[test]
fn a_bad_configuration_is_refused_with_all_that_is_wrong() {
    let bad = file(
        "[server]\nlisten = \"nowhere\"\nlisten_backlog = 5\n[upstream]\nbase_url = \"ftp://x\"\n\
         api_key = \"env:NOT_SET\"\n[admission]\nmax_wait = 600\n[models.\"*\"]\n\
         limits = [ { unit = \"words\", limit = 0, per = \"1m\" } ]\n",
    );
    for args in [&["serve", "--config", path(&bad)][..], &["check", path(&bad)]] {
        let (code, out, error) = run(args);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{args:?}: {error}");
        for part in [
            "server.listen (line 2)",
            "server.listen_backlog (line 3)",
            "upstream.base_url (line 5)",
            "upstream.api_key (line 6)",
            "admission.max_wait (line 8)",
            "limits[0].unit",
            "output_reservation.default",
            " problems",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(!error.contains("limits: is missing"), "they are wrong, not missing: {error}");
    }
    let (code, _, error) = run(&["check", "/no/such/file.toml"]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("/no/such/file.toml"), "{error}");
}

#[test]
fn check_prints_the_configuration_that_will_be_used_without_its_secrets() {
    let text = config_text("http://127.0.0.1:9", "upstream.api_key = \"env:ACCOUNT_KEY\"");
    let (code, out, error) = run(&["check", path(&file(&text))]);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert!(!out.contains(ACCOUNT_KEY) && out.contains("env:ACCOUNT_KEY"), "{out}");
    let printed: toml::Table = out.parse().expect("TOML");
    assert_eq!(printed["admission"]["settle_delay"].as_str(), Some("20ms"), "as given");
    assert_eq!(printed["server"]["body_timeout"].as_str(), Some("30s"), "by default");
    let (code, again, _) = run(&["check", path(&file(&out))]);
    assert_eq!((code, again), (Some(0), out), "it says of itself what it is");
    assert_eq!(run(&["check"]).0, Some(0), "the built-in one is fine");
}

#[test]
fn tokens_are_counted_by_the_tokenizer_of_the_model() {
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tokenizers/tides.json");
    let changes = format!(
        "models.tides.prompt_estimate = {{ tokenizer = \"file:{fixture}\" }}\n\
         models.none.prompt_estimate = {{ tokenizer = \"none\" }}"
    );
    let (config, text) = (file(&config_text("http://127.0.0.1:9", &changes)), file("the tide"));
    for (model, code, said) in [
        ("tides", 0, "4\n"),
        ("other", 0, "2\n"),
        ("none", 2, "tidegate: the prompts of \"none\" are not counted\n"),
    ] {
        let mut command = tidegate(&["tokens", "--config", path(&config), "--model", model]);
        let (seen, out, error) = process::run(command.stdin(text.reopen().expect("it is there")));
        assert_eq!((seen, (out + &error).as_str()), (Some(code), said), "{model}");
    }
    let missing = file(&config_text(
        "http://127.0.0.1:9",
        "models.\"*\".prompt_estimate = { tokenizer = \"file:/no/such.json\" }",
    ));
    let (code, _, error) = run(&["check", path(&missing)]);
    assert_eq!(code, Some(2));
    assert!(
        error.contains("prompt_estimate.tokenizer") && error.contains("/no/such.json"),
        "{error}"
    );
}

#[test]
fn usage_is_explained() {
    for (args, code, part) in [
        (&["--help"][..], 0, "serve"),
        (&["--version"], 0, env!("CARGO_PKG_VERSION")),
        (&["serve", "--help"], 0, "--config"),
        (&[], 2, "Usage"),
        (&["fly"], 2, "fly"),
        (&["serve", "--speed", "9"], 2, "--speed"),
        (&["serve", "--listen", "nowhere"], 2, "listen"),
        (&["demo", "--time-scale", "0"], 2, "time-scale"),
        (&["healthcheck", "--timeout", "soon"], 2, "soon"),
    ] {
        let (seen, out, error) = run(args);
        let text = out + &error;
        assert!(seen == Some(code) && text.contains(part), "{args:?}: {seen:?} {text}");
    }
}

#[tokio::test]
async fn a_health_check_tells_ready_from_draining_from_gone() {
    let upstream = endless().await;
    let process = serve(&upstream.url(), "server.drain_timeout = \"1h\"");
    let url = format!("http://{}/readyz", process.admin);
    let check = async |url: &str| {
        let url = url.to_owned();
        tokio::task::spawn_blocking(move || run(&["healthcheck", &url])).await.expect("no panic")
    };
    assert_eq!(check(&url).await, (Some(0), "ready\n".to_owned(), String::new()));
    let _stream = streaming(process.api).await;
    process.signal(Signal::TERM);
    process.wait_page("/readyz", "draining").await;
    let (code, _, error) = check(&url).await;
    assert!(code == Some(1) && error.contains("draining"), "{code:?} {error}");
    process.signal(Signal::TERM);
    process.end().await;
    let (code, _, error) = check(&url).await;
    assert!(code == Some(1) && !error.is_empty(), "{code:?} {error}");
}

#[test]
fn a_taken_port_is_a_clear_failure() {
    let taken = std::net::TcpListener::bind(crate::support::ANY).expect("a free port");
    let addr = taken.local_addr().expect("bound").to_string();
    let config = file(&config_text("http://127.0.0.1:9", ""));
    for flag in ["--listen", "--admin"] {
        let (code, out, error) =
            run(&["serve", "--stateless", "--config", path(&config), flag, &addr]);
        assert_eq!((code, out.as_str()), (Some(1), ""), "not ready: {error}");
        assert!(error.contains(&addr) && error.contains("in use"), "{error}");
    }
}

#[tokio::test]
async fn each_request_is_logged_on_one_line_without_secrets() {
    let simulator = Simulator::start(roomy(), crate::support::ANY).await.expect("a free port");
    let changes =
        "upstream.api_key = \"env:ACCOUNT_KEY\"\nlog.format = \"json\"\nlog.level = \"trace\"";
    let process = serve(&simulator.base_url(), changes);
    let headers = "authorization: Bearer planted-key\r\n";
    let body = with(hello(), "user", "planted-user").to_string();
    for (headers, body) in [
        (headers.to_owned(), body.clone()),
        (format!("{headers}x-sim-fault: reset\r\n"), body),
        (headers.to_owned(), "{\"model\": planted-text}".to_owned()),
    ] {
        Wire::open(process.api, chat(&headers, body)).await.answer().await;
    }
    process.signal(Signal::TERM);
    let (code, text) = process.end().await;
    assert_eq!(code, Some(0), "{text}");
    for planted in ["planted", ACCOUNT_KEY, "one two three"] {
        assert!(!text.contains(planted), "{planted}: {text}");
    }
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let requests: Vec<_> = lines.filter(|line| line["target"] == "tidegate::request").collect();
    assert_eq!(requests.len(), 3, "{text}");
    let first = &requests[0];
    for (key, value) in [
        ("outcome", Value::from("completed")),
        ("endpoint", "chat".into()),
        ("model", "m".into()),
        ("status", 200.into()),
        ("attempts", 1.into()),
        ("tokens.prompt", 10.into()),
        ("tokens.completion", 10.into()),
    ] {
        assert_eq!(first[key], value, "{key}: {first:#}");
    }
    assert_eq!(requests[2]["outcome"], "invalid");
}

#[tokio::test]
async fn the_demo_answers_and_ends_on_ctrl_c() {
    let args = ["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--time-scale", "20"];
    let mut child = tidegate(&args).spawn().expect("it starts");
    let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut text = String::new();
    while !text.contains("Ctrl-C") {
        assert!(stdout.read_line(&mut text).expect("text") > 0, "it ended: {text}");
    }
    let rest = text.split("base URL   http://").nth(1).expect("it says where it is");
    let addr = rest.split('/').next().and_then(|it| it.parse().ok()).expect("an address");
    let answer = Wire::open(addr, chat("", hello().to_string())).await.answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    kill_process(Pid::from_child(&child), Signal::INT).expect("it runs");
    let code = tokio::task::spawn_blocking(move || child.wait()).await.expect("no panic");
    assert_eq!(code.expect("it is ours").code(), Some(0));
}
