//! How it ends: done, stopped, failed, misused.

use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tidegate::simulator::{Latency, Options, Simulator};

use super::{command, float, load, measured, number, report};
use crate::support::{ANY, PATIENCE, roomy, wait_for};

/// Starts a run that would go on for an hour, waits until the simulator has `started` so many
/// requests, and sends it signals.
async fn stopped(
    options: Options,
    started: u64,
    signals: usize,
) -> (Option<i32>, Value, String, Simulator) {
    let simulator = Simulator::start(options, ANY).await.expect("a free port");
    let url = simulator.base_url();
    let mut command = command(&[&url, "--duration", "1h", "--concurrency", "3", "--json", "-"]);
    let mut child = command.spawn().expect("it starts");
    let pid = Pid::from_child(&child);
    wait_for(&simulator, |stats| stats.started >= started).await;
    let ended = tokio::task::spawn_blocking(move || {
        let mut stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut said = String::new();
        for _ in 0..signals {
            kill_process(pid, Signal::INT).expect("it runs");
            // Two signals at once may be one: the next waits until this one has been seen.
            while !said.contains("stopping") && stderr.read_line(&mut said).expect("text") > 0 {}
        }
        stderr.read_to_string(&mut said).expect("text");
        child.wait_with_output().map(|output| (output, said))
    });
    let output = tokio::time::timeout(PATIENCE, ended).await.expect("it ends");
    let (output, stderr) = output.expect("no panic").expect("it ran");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    let report = serde_json::from_str(&text(output.stdout)).expect("a report");
    (output.status.code(), report, stderr, simulator)
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_it_and_it_still_reports() {
    let latency = Latency { first_token: Duration::from_millis(30), ..Latency::ZERO };
    let (code, report, stderr, simulator) = stopped(Options { latency, ..roomy() }, 30, 1).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("stopping"), "{stderr}");
    assert_eq!(report["interrupted"], true);
    let (figures, stats) = (measured(&report, 0), simulator.stats());
    assert_eq!(
        number(figures, "/requests/sent"),
        stats.started,
        "what was under way was waited for"
    );
    assert_eq!(number(figures, "/requests/ok"), stats.completed);
    assert_eq!(number(figures, "/requests/abandoned"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_again_abandons_what_is_under_way() {
    let latency = Latency { first_token: Duration::from_secs(3_600), ..Latency::ZERO };
    let (code, report, stderr, _simulator) = stopped(Options { latency, ..roomy() }, 3, 2).await;
    assert_eq!(code, Some(1), "nobody answered: {stderr}");
    let figures = measured(&report, 0);
    assert_eq!((number(figures, "/requests/sent"), number(figures, "/requests/abandoned")), (3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_answers_it_fails_soon() {
    let simulator = Simulator::start(roomy(), ANY).await.expect("a free port");
    let url = simulator.base_url();
    simulator.shutdown().await;
    let (code, stdout, stderr) = load(&[&url, "--duration", "1h"]).await;
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(&format!("no request was answered by {url}")), "{stderr}");
    assert!(stdout.contains("connect: 2"), "the report says why: {stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_usage_is_told_before_anything_is_sent() {
    let simulator = Simulator::start(roomy(), ANY).await.expect("a free port");
    let url = simulator.base_url();
    for (args, why) in [
        (&["--rate", "fast"][..], "requests per second"),
        (&["--api-key-env", "NOT_SET"], "NOT_SET is not set"),
        (&["--header", "authorization: Bearer planted"], "--api-key-env"),
        (&["--prompt-tokens", "file:/nowhere"], "/nowhere"),
        (&["--compare", "http://me:planted@host"], "--api-key-env"),
    ] {
        let (code, stdout, stderr) = load(&[&[&*url], args].concat()).await;
        assert_eq!((code, &*stdout), (Some(2), ""), "{args:?}: {stderr}");
        assert!(stderr.contains(why) && !stderr.contains("planted"), "{stderr}");
    }
    let (code, _, stderr) = load(&[&url, "--json", "/nowhere/report.json"]).await;
    assert_eq!(code, Some(1), "{stderr}");
    assert_eq!(simulator.stats().started, 0);
}

/// The warm-up is sent and counted apart; text and JSON can both be had; a log gets lines.
#[tokio::test(flavor = "multi_thread")]
async fn the_report_comes_as_text_and_as_a_file() {
    let simulator = Simulator::start(roomy(), ANY).await.expect("a free port");
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().to_str().expect("text");
    let url = simulator.base_url();
    let args = [&url, "-n", "1234", "--warm-up", "300ms", "--stream", "--json", path];
    let (code, stdout, stderr) = load(&args).await;
    assert_eq!(code, Some(0), "{stderr}");
    let text = std::fs::read_to_string(path).expect("it was written");
    let json: Value = serde_json::from_str(&text).expect("JSON");
    let figures = measured(&json, 0);
    assert_eq!(number(figures, "/requests/sent"), 1_234);
    let warm_up = number(&json, "/targets/0/warm_up/requests/sent");
    assert_eq!(warm_up + 1_234, simulator.stats().started);
    assert!(warm_up > 0);
    for part in
        ["1,234 sent, 1,234 ok", "200: 1,234", "p99.9", "first token", "warm-up", "tokens-minute"]
    {
        assert!(stdout.contains(part), "{part} in {stdout}");
    }
    let points = figures["latency"]["percentiles"].as_array().expect("a list");
    let last = points.last().expect("a point");
    assert_eq!(number(last, "/count"), 1_234);
    assert!((float(last, "/ms") - float(figures, "/latency/max_ms")).abs() < 1e-9);
    // What is asked for in JSON alone is not told twice.
    let json = report(&[&url, "-n", "1"]).await;
    assert_eq!(number(measured(&json, 0), "/requests/ok"), 1);
}
