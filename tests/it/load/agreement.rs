//! The reported counts are those of who was asked.

use std::time::Duration;

use serde_json::json;
use tidegate::simulator::quota::{Limit, Name, Unit};
use tidegate::simulator::{
    Fault, HeaderStyle, Latency, Options, OutputModel, Simulator, UsagePlacement,
};

use super::{float, measured, number, report};
use crate::support::{ACCOUNT_KEY, ANY, pair, roomy};

/// What the simulator counted of the one pool that was asked.
struct Truth {
    started: u64,
    completed: u64,
    rejected: u64,
    tokens: u64,
}

fn truth(simulator: &Simulator) -> Truth {
    let (stats, reports) = (simulator.stats(), simulator.reports());
    assert_eq!((reports.len(), stats.in_flight, stats.settling), (1, 0, 0), "nothing is under way");
    Truth {
        started: stats.started,
        completed: stats.completed,
        rejected: stats.rejected,
        tokens: reports[0].counters.tokens_used,
    }
}

async fn start(options: Options) -> (Simulator, String) {
    let simulator = Simulator::start(options, ANY).await.expect("a free port");
    let url = simulator.base_url();
    (simulator, url)
}

/// Requests, statuses and tokens are the simulator's to the last one: streams or not, wherever their
/// usage stands, at a fixed concurrency and at a fixed rate, prompts and answers of any length.
#[tokio::test(flavor = "multi_thread")]
async fn every_count_is_the_simulators() {
    let sizes = ["--prompt-tokens", "uniform:1..300", "--output-tokens", "lognormal:40,0.8,400"];
    for (manner, usage) in [
        (&["--concurrency", "8"][..], UsagePlacement::LastChunk),
        (&["--concurrency", "8", "--stream"], UsagePlacement::LastChunk),
        (&["--concurrency", "8", "--stream=0.5"], UsagePlacement::OwnChunk),
        (&["--rate", "400/s", "--stream=0.5"], UsagePlacement::OwnChunk),
    ] {
        let output = OutputModel::Uniform(1, 200);
        let (simulator, url) = start(Options { output, usage, ..roomy() }).await;
        let args = [&[&*url, "--requests", "300"], &sizes[..], manner].concat();
        let report = report(&args).await;
        let (figures, truth) = (measured(&report, 0), truth(&simulator));
        assert_eq!((truth.started, truth.completed), (300, 300), "{manner:?}");
        assert_eq!(number(figures, "/requests/sent"), truth.started);
        assert_eq!(number(figures, "/requests/ok"), truth.completed);
        assert_eq!(figures["statuses"], json!({"200": 300}));
        assert_eq!(figures["errors"], json!({}));
        let tokens = number(figures, "/tokens/prompt") + number(figures, "/tokens/completion");
        assert_eq!(tokens, truth.tokens, "{manner:?}");
        assert_eq!(number(figures, "/tokens/answers_without_usage"), 0);
        assert_eq!(number(figures, "/latency/count"), 300);
        let streams = number(figures, "/first_token/count");
        match manner.last() {
            Some(&"--stream") => assert_eq!(streams, 300),
            // Half of 300 within six standard deviations (8.7 each).
            Some(&"--stream=0.5") => assert!((98..=202).contains(&streams), "{streams}"),
            _ => assert_eq!(streams, 0),
        }
    }
}

/// Prompts and answers are told apart: their lengths are known beforehand.
#[tokio::test(flavor = "multi_thread")]
async fn prompt_and_completion_tokens_are_those_asked_for() {
    let (simulator, url) = start(Options { output: OutputModel::Fixed(1_000), ..roomy() }).await;
    let args =
        [&*url, "-n", "50", "--prompt-tokens", "93", "--output-tokens", "20", "--stream=0.5"];
    let report = report(&args).await;
    let tokens = &measured(&report, 0)["tokens"];
    // Seven of framing beside the 93.
    assert_eq!((number(tokens, "/prompt"), number(tokens, "/completion")), (5_000, 1_000));
    assert_eq!(truth(&simulator).tokens, 6_000);
}

/// 429s are the simulator's rejections, and what its headers said is in the report.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_quota_are_the_simulators() {
    let limits = vec![
        Limit::per(Unit::Requests, Name::Day, 40),
        Limit::per(Unit::Tokens, Name::Day, 1_000_000),
    ];
    let options = Options { limits, headers: HeaderStyle::Matrix, ..roomy() };
    let (simulator, url) = start(options).await;
    let report = report(&[&*url, "-n", "100", "--concurrency", "4", "--prompt-tokens", "10"]).await;
    let (figures, truth) = (measured(&report, 0), truth(&simulator));
    assert_eq!((truth.started, truth.completed, truth.rejected), (100, 40, 60));
    assert_eq!(figures["statuses"], json!({"200": 40, "429": 60}));
    assert_eq!(figures["refused_429"], json!({"gateway": 0, "upstream": 60, "in_stream": 0}));
    assert_eq!(number(figures, "/requests/error_status"), 60);
    assert_eq!(number(figures, "/latency/count"), 40, "refusals are quick, and no latency");
    assert_eq!(number(figures, "/latency_of_all/count"), 100);
    let find = |name| {
        let all = figures["quota"].as_array().expect("a list");
        all.iter().find(|seen| seen["name"] == name).expect(name)
    };
    let requests = find("requests-day");
    assert_eq!(number(requests, "/limit"), 40);
    assert_eq!(
        (number(requests, "/remaining_at_end"), number(requests, "/lowest_remaining")),
        (0, 0)
    );
    assert!(number(requests, "/remaining_at_start") >= 36, "{requests}");
    assert!((float(requests, "/used_at_end") - 1.0).abs() < 1e-9);
    // 40 requests in the second or so that it took, of 40 a day.
    assert!(float(requests, "/used_of_rate") > 100.0, "{requests}");
    assert_eq!(number(find("tokens-day"), "/limit"), 1_000_000);
}

/// What goes wrong is counted by its kind, as the simulator did it.
#[tokio::test(flavor = "multi_thread")]
async fn failures_are_told_apart() {
    let (simulator, url) = start(roomy()).await;
    let faults = [
        "503",
        "reset",
        "cut:2",
        "error-event:1",
        "queue",
        "hang",
        "no-usage",
        "gzip",
        "tiny-frames",
        "",
    ];
    simulator.script(faults.map(|fault| Fault::parse_all(fault).expect("a fault")));
    let args = [&*url, "-n", "10", "--concurrency", "1", "--stream", "--timeout", "500ms"];
    let report = report(&args).await;
    let figures = measured(&report, 0);
    assert_eq!(figures["statuses"], json!({"200": 6, "429": 1, "503": 1}), "{figures:#}");
    assert_eq!(figures["errors"], json!({"broken": 1, "cut": 1, "error_event": 1, "timeout": 1}));
    assert_eq!(number(figures, "/requests/ok"), 4);
    assert_eq!(number(figures, "/tokens/answers_without_usage"), 1);
    assert!(float(figures, "/latency_of_all/max_ms") >= 500.0, "what timed out counts for as long");
    let stats = crate::support::wait_for(&simulator, |stats| stats.in_flight == 0).await;
    assert_eq!((stats.started, stats.completed, stats.aborted), (10, 4, 1), "{stats:?}");
    assert_eq!(stats.faulted, 5);
}

/// Through the gateway its own refusals, the upstream's, and the waits that it reports are told apart.
#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_part_is_told_from_the_upstreams() {
    let changes = r#"
        [retry]
        max_attempts = 1
        [models."*"]
        limits = [
          { unit = "requests", limit = 20, per = "1d", mode = "sliding", learn = "never" },
        ]
        [admission]
        max_wait = "50ms"
    "#;
    let (simulator, gateway) = pair(roomy(), changes).await;
    // Two of the first are refused by the upstream, which tells the gateway nothing of its quota.
    simulator.script([vec![], vec![Fault::Queue(429)], vec![Fault::Queue(429)]]);
    let url = gateway.url("/v1");
    let class = ["--class", "interactive", "--concurrency", "1"];
    let report = report(&[&[&*url, "-n", "30"], &class[..]].concat()).await;
    let figures = measured(&report, 0);
    let refused = &figures["refused_429"];
    let sent_on = simulator.stats().started;
    assert_eq!(number(refused, "/upstream"), 2, "{figures:#}");
    assert_eq!(number(refused, "/gateway"), 30 - sent_on, "{figures:#}");
    assert!(number(refused, "/gateway") >= 8);
    assert_eq!(number(figures, "/requests/ok"), simulator.stats().completed);
    let completed = "tidegate_requests_total{outcome=\"completed\"}";
    gateway.wait_metric(completed, simulator.stats().completed as f64).await;
    assert!(number(figures, "/gateway_wait/count") >= sent_on, "every answer says what it waited");
    gateway.close().await;
}

/// Both are asked the same things, and each has its own figures.
#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_asks_both_the_same() {
    let slow = Latency { first_token: Duration::from_millis(20), ..Latency::ZERO };
    let (first, a) = start(roomy()).await;
    let (second, b) = start(Options { latency: slow, ..roomy() }).await;
    let sizes = ["--prompt-tokens", "uniform:5..500", "--stream=0.3"];
    let args = [&[&*a, "--compare", &*b, "-n", "101", "--concurrency", "5"], &sizes[..]].concat();
    let report = report(&args).await;
    for (target, simulator) in [(0, &first), (1, &second)] {
        let (figures, truth) = (measured(&report, target), truth(simulator));
        assert_eq!((truth.completed, number(figures, "/requests/ok")), (101, 101));
        let tokens = number(figures, "/tokens/prompt") + number(figures, "/tokens/completion");
        assert_eq!(tokens, truth.tokens);
    }
    assert_eq!(truth(&first).tokens, truth(&second).tokens, "the same prompts");
    let p50 = |target| float(measured(&report, target), "/latency/p50_ms");
    assert!(p50(1) >= 20.0, "{}", p50(1));
    let ratio = float(&report, "/ratios/latency_p50");
    assert!((ratio - p50(1) / p50(0)).abs() < 1e-9 && ratio > 1.0, "{ratio}");
    assert!(float(&report, "/ratios/ok_per_second") < 1.0);
}

/// The same seed asks the same, another one something else; the key and headers reach the target.
#[tokio::test(flavor = "multi_thread")]
async fn a_seed_repeats_what_is_asked() {
    let tokens = async |seed: &str| {
        let (simulator, url) = start(roomy()).await;
        report(&[&*url, "-n", "40", "--prompt-tokens", "uniform:1..9000", "--seed", seed]).await;
        truth(&simulator).tokens
    };
    let (first, again, other) = (tokens("5").await, tokens("5").await, tokens("6").await);
    assert_eq!(first, again);
    assert_ne!(first, other);
    let keys = vec![ACCOUNT_KEY.into()];
    let (simulator, url) = start(Options { keys, ..roomy() }).await;
    let header = ["--header", "x-sim-output-tokens: 3", "--api-key-env", "ACCOUNT_KEY"];
    let report = report(&[&[&*url, "-n", "4"], &header[..]].concat()).await;
    assert_eq!(number(measured(&report, 0), "/tokens/completion"), 12);
    assert_eq!(simulator.stats().refused, 0, "the key was sent");
    assert!(!report.to_string().contains(ACCOUNT_KEY), "and not shown");
}
