//! The whole gateway under four clients that never stop asking, over real sockets, in front of the
//! simulated upstream at the published limits: ten minutes of its time in thirty seconds.
//!
//! Nothing may be rejected upstream, hardly anything of the quota may be left unused, and nobody may
//! starve. What is used is counted by the simulator: used and reserved tokens (or admitted requests,
//! whichever is the larger share) of the most that its limits could have let in from the first
//! request to the end of the load, the full quota at the beginning included.

pub(crate) mod client;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tidegate::config::{Config, Overrides};
use tidegate::server::{Ended, Server};
use tidegate::simulator::quota::Semantics;
use tidegate::simulator::{Latency, Options, OutputModel, Report, Simulator};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

pub(crate) use self::client::{Client, Tally};
use crate::support::steady::steady;

/// A simulated minute in real milliseconds, and how much faster than the clock that is.
pub(crate) const MINUTE_MS: u64 = 3_000;
pub(crate) const SCALE: f64 = 20.0;
/// Simulated minutes of load.
const MINUTES: u64 = 10;
const CLIENTS: usize = 4;
/// Requests that each client keeps open: together more than a minute lets in at once, so that
/// always somebody waits.
const OPEN_EACH: usize = 50;
/// For what is not load: finishing the open requests and stopping. A test that meets it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the clients ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traffic {
    pub(crate) name: &'static str,
    /// Answers made for each request, of which one is returned.
    pub(crate) best_of: u64,
    /// Tokens of each at least and at most; what a request names is the most.
    pub(crate) output: (u64, u64),
}

/// 15,000 tokens a request, of 20,000 reserved: 120 requests a minute would take more than the 1.5
/// million tokens there are. That they are spent on answers that nobody reads keeps the load on the
/// machine small, and with it what a slow machine can do to the figures.
pub(crate) const TOKENS_BIND: Traffic =
    Traffic { name: "tokens bind", best_of: 10, output: (1_000, 2_000) };

/// The other way round.
pub(crate) const REQUESTS_BIND: Traffic =
    Traffic { name: "requests bind", best_of: 1, output: (50, 400) };

/// What is asserted, and what it comes to.
#[derive(Debug)]
struct Outcome {
    report: Report,
    /// By client.
    tallies: Vec<Tally>,
    /// Longest that a request of this traffic can have waited if all before it went at the limits'
    /// rate.
    longest_wait: Duration,
}

async fn overload(mode: &str, semantics: Semantics, traffic: Traffic) -> Outcome {
    let seed = std::env::var("SIM_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(7);
    let options = Options {
        semantics,
        time_scale: SCALE,
        seed,
        output: OutputModel::Uniform(traffic.output.0, traffic.output.1),
        // The upper end of what was measured, so that the first burst is soon over.
        latency: Latency { tokens_per_second: 3_000, ..Latency::default() },
        chunk_tokens: 500,
        // At once: a refund that takes its time could come later than the gateway reckons with, if
        // the machine stands still for that long. The simulations in `tests/sim` delay it.
        refund_delay: Duration::ZERO,
        ..Options::default()
    };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let upstream = Simulator::start(options, any).await.expect("a free port");
    let server = Server::bind(Arc::new(config(mode, &upstream.base_url(), CLIENTS, "")))
        .expect("free ports");
    let address = server.api_addr().expect("an address");
    let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
    let gateway = tokio::spawn(server.run(stop.clone(), abort));

    let done = CancellationToken::new();
    let mut clients = JoinSet::new();
    if matches!(semantics, Semantics::FixedWindow { .. }) {
        // From just after the beginning of a window, so that none counts that had no time.
        let window_ns = MINUTE_MS * 1_000_000;
        sleep(Duration::from_nanos(window_ns - upstream.now_ns() % window_ns)).await;
    }
    for index in 0..CLIENTS {
        let client = Client::new(address, &key(index), seed ^ index as u64);
        clients.spawn(client.load(index, OPEN_EACH, traffic, done.clone()));
    }
    let started = timeout(PATIENCE, upstream.wait_for(|stats| stats.started > 0)).await;
    started.expect("a first request");
    // The load itself; where windows open all at once, to shortly before the next one does.
    let whole = MINUTES * MINUTE_MS;
    let lasts = match semantics {
        Semantics::TokenBucket => whole,
        Semantics::SlidingLog | Semantics::FixedWindow { .. } => whole - MINUTE_MS / 20,
    };
    sleep(Duration::from_millis(lasts)).await;
    let report = upstream.report(Some("upstream-key"), "any").expect("a pool that was used");

    done.cancel();
    let mut tallies = vec![Tally::default(); CLIENTS];
    let finished = timeout(PATIENCE, async {
        while let Some(client) = clients.join_next().await {
            let (index, tally) = client.expect("a client");
            tallies[index] = tally;
        }
    });
    finished.await.expect("every open request to be answered");
    stop.cancel();
    let ended = timeout(PATIENCE, gateway).await.expect("an end").expect("no panic");
    assert_eq!(ended, Ended::Drained);
    let stats = upstream.stats();
    upstream.shutdown().await;

    let outcome = Outcome { longest_wait: longest_wait(&report), report, tallies };
    outcome.print(mode, traffic, seed);
    assert_eq!(stats.rejected, 0, "upstream rejections after the load, too: {stats:?}");
    outcome
}

/// The published limits as the simulator has them, under one key with so many callers, and `more`
/// sections.
pub(crate) fn config(mode: &str, upstream: &str, clients: usize, more: &str) -> Config {
    let (skew, mut keys) = (if mode == "fixed" { r#", skew = "5ms""# } else { "" }, String::new());
    for index in 0..clients {
        let hash = Sha256::digest(key(index)).iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("a string takes it");
            hex
        });
        writeln!(keys, "[[keys]]\nname = \"client-{index}\"\nhash = \"sha256:{hash}\"")
            .expect("a string takes it");
    }
    let mut limits = String::new();
    for (unit, limit, minutes, name) in [
        ("requests", 120, 1, "minute"),
        ("requests", 7_200, 60, "hour"),
        ("requests", 172_800, 1_440, "day"),
        ("tokens", 1_500_000, 1, "minute"),
        ("tokens", 120_000_000, 60, "hour"),
        ("tokens", 120_000_000, 1_440, "day"),
    ] {
        let per = minutes * MINUTE_MS;
        writeln!(
            limits,
            r#"  {{ unit = "{unit}", limit = {limit}, per = "{per}ms", name = "{name}", mode = "{mode}"{skew} }},"#
        )
        .expect("a string takes it");
    }
    let text = format!(
        r#"
        [server]
        listen = "127.0.0.1:0"
        admin = "127.0.0.1:0"
        [upstream]
        base_url = "{upstream}"
        api_key = "env:KEY"
        [admission]
        settle_delay = "25ms"
        [log]
        level = "error"
        requests = false
        {more}
        {keys}
        [models."*"]
        output_reservation = {{ default = 16_384 }}
        limits = [
        {limits}]
        "#
    );
    let environment = [("KEY".to_owned(), "upstream-key".to_owned())];
    Config::parse(&text, environment, &Overrides::default()).expect("a valid configuration")
}

pub(crate) fn key(client: usize) -> String {
    format!("client-key-{client}")
}

/// All open requests, one after the other, at the rate at which this run let them in; and the rest
/// of the windows in which the first and the last of them go, because where a window does not refill
/// continuously it lets in nothing for most of its time. Within that is the window more that a client
/// waits at first which had nothing of the first burst: its requests came when nothing was known of
/// their cost, and are charged twice what they use until its first answers.
fn longest_wait(report: &Report) -> Duration {
    let lasted = Duration::from_nanos(report.now_ns - report.first_ns);
    let open = u32::try_from(CLIENTS * OPEN_EACH).expect("a few hundred");
    let admitted = u32::try_from(report.counters.admitted).expect("a few thousand");
    lasted * open / admitted + Duration::from_millis(2 * MINUTE_MS)
}

impl Outcome {
    #[expect(clippy::print_stdout, reason = "the figures and the seed are half of the test")]
    fn print(&self, mode: &str, traffic: Traffic, seed: u64) {
        let Report { counters, possible_requests, possible_tokens, .. } = &self.report;
        println!(
            "{mode}, {}: SIM_SEED={seed}, {:.3} % of the quota: {} of {possible_requests:?} requests, \
             {} used and {} reserved of {possible_tokens:?} tokens; {} rejected",
            traffic.name,
            100.0 * self.report.utilisation(),
            counters.admitted,
            counters.tokens_used,
            counters.tokens_held,
            counters.rejected,
        );
        println!("    longest wait allowed {:?}; clients: {:?}", self.longest_wait, self.tallies);
    }

    /// Nothing rejected upstream, `least` of the quota used, and everybody had a fair share.
    fn check(&self, least: f64) {
        let counters = self.report.counters;
        assert_eq!(counters.rejected, 0, "rejected upstream: {:?}", self.report.levels);
        let used = self.report.utilisation();
        assert!(used >= least, "{used:.5} of the quota used, {least} expected");
        let answered: u64 = self.tallies.iter().map(|tally| tally.answered).sum();
        let quarter = answered as f64 / CLIENTS as f64;
        for (client, tally) in self.tallies.iter().enumerate() {
            assert_eq!(tally.failed, None, "client {client}");
            let share = tally.answered as f64 / quarter;
            // Shares are of tokens, and the first burst, a tenth of all, is for whoever comes first.
            assert!((0.8..=1.2).contains(&share), "client {client} got {share:.2} quarters");
            let longest = tally.longest;
            assert!(longest <= self.longest_wait, "client {client} waited {longest:?}");
        }
    }
}

// Two tests, because the harness runs one for each core; their loads run side by side.

#[tokio::test(flavor = "multi_thread")]
async fn a_token_bucket_is_used_up_without_a_rejection() {
    steady("a_token_bucket_is_used_up_without_a_rejection", async || {
        let tokens = overload("bucket", Semantics::TokenBucket, TOKENS_BIND);
        let requests = overload("bucket", Semantics::TokenBucket, REQUESTS_BIND);
        let (tokens, requests) = tokio::join!(tokens, requests);
        tokens.check(0.99);
        requests.check(0.99);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fixed_and_sliding_windows_are_used_up_without_a_rejection() {
    steady("fixed_and_sliding_windows_are_used_up_without_a_rejection", async || {
        let fixed = overload("fixed", Semantics::FixedWindow { phase_ns: 0 }, TOKENS_BIND);
        let sliding = overload("sliding", Semantics::SlidingLog, TOKENS_BIND);
        let requests = overload("sliding", Semantics::SlidingLog, REQUESTS_BIND);
        let (fixed, sliding, requests) = tokio::join!(fixed, sliding, requests);
        fixed.check(0.94);
        sliding.check(0.94);
        requests.check(0.94);
    })
    .await;
}
