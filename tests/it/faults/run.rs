//! Runs one case of the matrix and checks, after it, that nothing is left of it anywhere.

use tidegate::simulator::quota::{Limit, Name, Semantics, Unit};
use tidegate::simulator::{HeaderStyle, Latency, Options, OutputModel, Reservation, Simulator};

use super::table::{Caller, Charge, Expect};
use crate::support::wire::{Answer, Wire, chat};
use crate::support::{ACCOUNT_KEY, ANY, Gateway, config_text, flat, hello, with};

/// The account's quota, in the gateway and in the simulator: a day's, so that none of it comes back, and
/// small enough for a few requests to use up.
const REQUESTS: u64 = 10;
const TOKENS: u64 = 1_500;
/// What an answer uses: ten of prompt and ninety of output, of a hundred set aside.
const USED: i64 = 100;
/// What no error, metric or status may repeat.
const PROMPT: &str = "planted-prompt-of-a-caller";

/// One at a time, and twice at most.
const BASE: &str = r#"
upstream.api_key = "env:ACCOUNT_KEY"
retry.max_attempts = 2
admission.settle_delay = "0s"
[models."*"]
max_concurrent = 1
limits = [
  { unit = "requests", limit = 10, per = "1d", name = "day", mode = "sliding", learn = "never" },
  { unit = "tokens", limit = 1_500, per = "1d", name = "day", mode = "sliding", learn = "never" },
]
"#;

/// The simulator with that quota. It shows none of it in headers: the gateway's ledger is on its own.
pub(super) async fn simulator(headers: HeaderStyle) -> Simulator {
    let options = Options {
        limits: vec![
            Limit::per(Unit::Requests, Name::Day, REQUESTS),
            Limit::per(Unit::Tokens, Name::Day, TOKENS),
        ],
        semantics: Semantics::SlidingLog,
        latency: Latency::ZERO,
        output: OutputModel::Fixed(90),
        reservation: Reservation { default: 100, cap: None, prompt_slack_percent: 0 },
        chunk_tokens: 20,
        headers,
        ..Options::default()
    };
    Simulator::start(options, ANY).await.expect("a free port")
}

/// What the caller has got.
struct Got {
    head: Answer,
    body: Vec<u8>,
    /// Whether it ended in order.
    whole: bool,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

/// A gateway in front of a relay, what was sent so far, and what came of it.
pub(super) struct Case {
    name: String,
    gateway: Gateway,
    sent: u32,
    /// How many requests ended so.
    ended: Vec<(&'static str, u32)>,
}

impl Case {
    pub(super) fn start(name: String, url: &str, changes: &str) -> Self {
        let text = config_text(url, &[changes, BASE].join("\n"));
        Self { name, gateway: Gateway::start_text(&text), sent: 0, ended: Vec::new() }
    }

    async fn send(&mut self, streamed: bool) -> Got {
        let mut body = with(hello(), "user", PROMPT);
        if streamed {
            body = with(body, "stream", true);
        }
        self.sent += 1;
        // What does not fit at once never will.
        let wire =
            Wire::open(self.gateway.api, chat("x-tidegate-max-wait: 30s\r\n", body.to_string()));
        read(wire.await, &self.name).await
    }

    fn count(&mut self, outcome: &'static str) {
        match self.ended.iter_mut().find(|(it, _)| *it == outcome) {
            Some((_, count)) => *count += 1,
            None => self.ended.push((outcome, 1)),
        }
    }

    /// Sends one that is answered well.
    pub(super) async fn good(&mut self, streamed: bool) {
        let got = self.send(streamed).await;
        assert_eq!(
            (got.head.status, got.whole),
            (200, true),
            "{}: a good one: {}",
            self.name,
            text(&got.body)
        );
        self.count("completed");
        self.gateway.settled().await;
    }

    /// Sends one that meets the fault, and checks what its caller gets. Returns what was held for it.
    pub(super) async fn meet(
        &mut self,
        streamed: bool,
        expect: Expect,
        body: impl Fn() -> Vec<u8>,
    ) -> i64 {
        let got = self.send(streamed).await;
        let (name, seen) = (self.name.clone(), text(&got.body).into_owned());
        match expect.caller {
            Caller::Own(status, code) => {
                assert_eq!((got.head.status, got.whole), (status, true), "{name}: {seen}");
                flat(&seen, code);
                assert_eq!(got.head.all("x-tidegate-source"), ["gateway"], "{name}");
            }
            Caller::Theirs(status) => {
                assert_eq!((got.head.status, got.whole), (status, true), "{name}: {seen}");
                assert_eq!(seen, text(&body()), "{name}: byte for byte");
                let source = got.head.all("x-tidegate-source");
                assert_eq!(source.is_empty(), status < 300, "{name}: {source:?}");
            }
            Caller::Cut(status) => {
                assert_eq!((got.head.status, got.whole), (status, false), "{name}: {seen}");
                let body = body();
                assert!(body.starts_with(&got.body), "{name}: {seen} is not of {}", text(&body));
            }
        }
        let clean = !seen.contains(ACCOUNT_KEY) && !seen.contains(PROMPT);
        assert!(clean && !format!("{:?}", got.head).contains(ACCOUNT_KEY), "{name}: {seen}");
        let held = got.head.all("x-tidegate-estimated-tokens");
        let held = held.first().and_then(|it| it.parse().ok());
        self.count(expect.outcome);
        assert!(held.is_some(), "{name}: {:?}", got.head);
        held.unwrap_or_default()
    }

    /// The invariant: each request has ended once and as documented, nothing is held, queued or running, and
    /// nothing that was planted is to be seen.
    pub(super) async fn at_rest(&self) {
        let status = self.gateway.settled().await.to_string();
        let (_, metrics) = self.gateway.page("/metrics").await;
        let name = &self.name;
        let sum = |prefix: &str| -> f64 { values(&metrics, prefix).map(|(_, value)| value).sum() };
        for (label, value) in values(&metrics, "tidegate_requests_total{outcome=\"") {
            let outcome = label.split('"').nth(1).expect("a label");
            let expected = self.ended.iter().find(|(it, _)| *it == outcome).map_or(0, |it| it.1);
            assert!(
                (value - f64::from(expected)).abs() < 0.1,
                "{name}: {outcome} {value}, not {expected}"
            );
        }
        for total in ["tidegate_requests_total", "tidegate_tenant_requests_total"] {
            assert!(
                (sum(total) - f64::from(self.sent)).abs() < 0.1,
                "{name}: {total} {}",
                sum(total)
            );
        }
        for gauge in
            ["tidegate_requests_in_flight ", "tidegate_body_bytes ", "tidegate_queue_depth "]
        {
            assert!(sum(gauge).abs() < 0.1, "{name}: {gauge}");
        }
        for page in [&status, &metrics] {
            assert!(!page.contains(PROMPT) && !page.contains(ACCOUNT_KEY), "{name}: {page}");
        }
    }

    /// What was counted of the upstream: failures and retries, by these labels and no others.
    pub(super) async fn counted(&self, expect: Expect, failures: u32, retries: u32) {
        let (_, metrics) = self.gateway.page("/metrics").await;
        for (metric, label, count) in [
            ("tidegate_upstream_failures_total", expect.failure, failures),
            ("tidegate_retries_total", expect.retry, retries),
        ] {
            for (line, value) in values(&metrics, metric) {
                let is = label.is_some_and(|label| line.contains(&format!("\"{label}\"")));
                let expected = if is { f64::from(count) } else { 0.0 };
                assert!((value - expected).abs() < 0.1, "{}: {line} {value}", self.name);
            }
        }
    }

    /// Compares the gateway's ledger with the simulator's, and with what is documented.
    pub(super) async fn ledgers(&self, simulator: &Simulator, charged: &[(Charge, i64)]) {
        let (requests, tokens) = self.gateway.spent().await;
        let expected =
            charged.iter().fold((0, 0), |(requests, tokens), (charge, held)| match charge {
                Charge::Nothing => (requests, tokens),
                Charge::Held => (requests + 1, tokens + held),
                Charge::Used => (requests + 1, tokens + USED),
            });
        let name = &self.name;
        assert_eq!((requests, tokens), expected, "{name}: as documented");
        let truth = truth(simulator);
        assert!(
            requests >= truth.0 && tokens >= truth.1,
            "{name}: {requests}, {tokens} of {truth:?}"
        );
        if charged.iter().all(|(charge, _)| *charge != Charge::Held) {
            assert_eq!((requests, tokens), truth, "{name}: all of it is known");
        }
    }

    /// Requests and tokens of the gateway's ledger.
    pub(super) async fn spent(&self) -> (i64, i64) {
        self.gateway.spent().await
    }

    /// Nothing is spent.
    pub(super) async fn unspent(&self) {
        assert_eq!(self.gateway.spent().await, (0, 0), "{}", self.name);
    }

    /// Uses up what is left of the quota: the upstream refuses none of it.
    pub(super) async fn use_up(&mut self, simulator: &Simulator) {
        for round in 0..=REQUESTS {
            let got = self.send(round % 2 == 0).await;
            if got.head.status != 200 {
                assert_eq!(got.head.status, 429, "{}: {}", self.name, text(&got.body));
                flat(&text(&got.body), "wait_exceeded");
                self.count("wait_exceeded");
                break;
            }
            self.count("completed");
            assert!(round < REQUESTS, "{}: the quota has an end", self.name);
        }
        self.at_rest().await;
        assert_eq!(simulator.stats().rejected, 0, "{}: {:?}", self.name, simulator.stats());
        let blamed = self.gateway.metric("tidegate_upstream_quota_rejections_total").await;
        assert!(blamed.abs() < 0.1, "{}: {blamed}", self.name);
        let (spent, truth) = (self.gateway.spent().await, truth(simulator));
        assert!(spent.0 >= truth.0 && spent.1 >= truth.1, "{}: {spent:?} {truth:?}", self.name);
    }

    pub(super) async fn close(self) {
        self.gateway.close().await;
    }
}

/// Requests and tokens that the simulator has charged, those it still holds included.
fn truth(simulator: &Simulator) -> (i64, i64) {
    let Some(report) = simulator.reports().into_iter().next() else { return (0, 0) };
    let of = |unit| {
        let level = report.levels.iter().find(|level| level.limit.unit == unit);
        level.map_or(0, |it| i64::try_from(it.limit.limit).expect("small") - it.remaining)
    };
    (of(Unit::Requests), of(Unit::Tokens))
}

/// The lines of a scrape that begin so, with their values.
fn values<'a>(metrics: &'a str, prefix: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
    let lines = metrics.lines().filter(move |line| line.starts_with(prefix));
    lines.filter_map(|line| {
        let (label, value) = line.rsplit_once(' ')?;
        Some((label, value.parse().ok()?))
    })
}

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// Reads an answer as far as it comes.
async fn read(mut wire: Wire, name: &str) -> Got {
    let head = wire.head().await;
    assert!(head.is_ok(), "{name}: {head:?}");
    let head = head.expect("it is there");
    let length = head.all("content-length").first().and_then(|it| it.parse::<usize>().ok());
    if let Some(length) = length {
        let body = wire.up_to(length).await;
        let whole = body.len() == length;
        return Got { head, body, whole };
    }
    let mut body = Vec::new();
    let whole = loop {
        match wire.chunk().await {
            Ok(data) if data.is_empty() => break true,
            Ok(data) => body.extend(data),
            Err(_) => break head.status == 204,
        }
    };
    Got { head, body, whole }
}
