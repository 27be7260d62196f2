//! A gateway that is killed, or stopped in order, and started again where it left off.

use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir};
use tidegate::simulator::quota::{Limit, Name, Unit};
use tidegate::simulator::{
    HeaderStyle, Latency, Options, OutputModel, Report, Reservation, Simulator,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::process::{Process, file, path, tidegate};
use crate::support::steady::steady;
use crate::support::{ANY, client, eventually, wait_for};

/// A simulated minute is three seconds.
const SCALE: f64 = 20.0;
const MINUTE: Duration = Duration::from_secs(3);
const TOKENS_A_MINUTE: u64 = 300_000;
const TOKENS_A_DAY: u64 = 100_000_000;
/// What a request of the load reserves in the simulator at most.
const RESERVED: u64 = 2_100;
const CALLERS: usize = 16;
/// Kills between two looks at the whole account, for which the load pauses.
const LOOK_EVERY: u32 = 5;

/// A gateway as a program, on ports and in a directory that stay the same.
struct Program {
    api: SocketAddr,
    admin: SocketAddr,
    state: TempDir,
    config: NamedTempFile,
    process: Option<Process>,
}

fn free_port() -> SocketAddr {
    TcpListener::bind(ANY).and_then(|socket| socket.local_addr()).expect("a free port")
}

impl Program {
    fn new(upstream: &str) -> Self {
        let (api, admin) = (free_port(), free_port());
        let minute = MINUTE.as_millis();
        let day = minute * 1_440;
        let config = file(&format!(
            r#"
            [server]
            listen = "{api}"
            admin = "{admin}"
            [upstream]
            base_url = "{upstream}"
            [admission]
            settle_delay = "25ms"
            max_wait = "1m"
            [log]
            requests = false
            [models."*"]
            output_reservation = {{ default = 2_000 }}
            limits = [
              {{ unit = "requests", limit = 100_000, per = "{day}ms", name = "day", mode = "bucket" }},
              {{ unit = "tokens", limit = {TOKENS_A_MINUTE}, per = "{minute}ms", name = "minute", mode = "bucket" }},
              {{ unit = "tokens", limit = {TOKENS_A_DAY}, per = "{day}ms", name = "day", mode = "bucket" }},
            ]
            "#
        ));
        let state = TempDir::new().expect("a directory");
        Self { api, admin, state, config, process: None }
    }

    fn start(&mut self) {
        let state = self.state.path().to_str().expect("text");
        let mut command =
            tidegate(&["serve", "--config", path(&self.config), "--state-dir", state]);
        self.process = Some(Process::start(command.stderr(Stdio::inherit())));
    }

    /// As a power cut would, for all that the program knows.
    fn kill(&mut self) {
        self.process = None;
    }

    /// Stops it in order; its exit code.
    async fn stop(&mut self) -> Option<i32> {
        let process = self.process.take().expect("it runs");
        process.signal(Signal::TERM);
        process.end().await.0
    }

    /// Asks once; whether there was an answer to the end, with a good status.
    async fn ask(&self, client: &reqwest::Client, body: &Value) -> bool {
        ask(client, self.api, body).await
    }

    /// Units left of a constraint by its own account; `None` while it has no pool.
    async fn left(&self, unit: &str, window: &str) -> Option<i64> {
        let url = format!("http://{}/status", self.admin);
        let status: Value = client().get(url).send().await.ok()?.json().await.ok()?;
        let constraints = status["pools"].get(0)?["constraints"].as_array()?.clone();
        let found = constraints.iter().find(|it| it["unit"] == unit && it["window"] == window)?;
        found["available"].as_i64()
    }
}

async fn ask(client: &reqwest::Client, api: SocketAddr, body: &Value) -> bool {
    let request = client.post(format!("http://{api}/v1/chat/completions"));
    let request = request.header("content-type", "application/json").body(body.to_string());
    match request.send().await {
        Ok(answer) => answer.status().is_success() && answer.bytes().await.is_ok(),
        Err(_) => false,
    }
}

fn simulated() -> Options {
    Options {
        limits: vec![
            Limit::per(Unit::Requests, Name::Day, 100_000),
            Limit::per(Unit::Tokens, Name::Minute, TOKENS_A_MINUTE),
            Limit::per(Unit::Tokens, Name::Day, TOKENS_A_DAY),
        ],
        time_scale: SCALE,
        latency: Latency { tokens_per_second: 3_000, ..Latency::default() },
        output: OutputModel::Uniform(500, 2_000),
        reservation: Reservation { default: 2_000, cap: None, prompt_slack_percent: 0 },
        refund_delay: Duration::ZERO,
        ..Options::default()
    }
}

fn body(number: u64) -> Value {
    json!({"model": "m", "user": number.to_string(), "max_tokens": 2_000,
        "stream": number.is_multiple_of(2),
        "messages": [{"role": "user", "content": "Which way does the tide run?"}]})
}

/// Callers who always want something, whoever answers; they pause while `paused` is set.
fn load(api: SocketAddr, paused: &Arc<AtomicBool>, done: &CancellationToken) -> JoinSet<u64> {
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS as u64 {
        let (paused, done) = (Arc::clone(paused), done.clone());
        callers.spawn(async move {
            let (client, mut answered) = (client(), 0);
            for number in 0_u64.. {
                if done.is_cancelled() {
                    break;
                }
                let good = !paused.load(Ordering::SeqCst)
                    && ask(&client, api, &body(number * 100 + caller)).await;
                answered += u64::from(good);
                if !good {
                    // Nobody is there for now.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            answered
        });
    }
    callers
}

fn remaining(report: &Report, unit: Unit, name: Name) -> i64 {
    let level = report.levels.iter().find(|it| it.limit.unit == unit && it.limit.name == name);
    level.expect("it is limited").remaining
}

/// The load runs at the limit and the gateway is killed at random moments. The upstream never
/// has to refuse anything; each crash costs no more than what 200 ms of quota are worth and what was
/// held; and after a restart there is never more left of the day than there is.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_fifty_moments_it_never_sends_too_much() {
    steady("killed_at_fifty_moments_it_never_sends_too_much", async || {
        killed(50, HeaderStyle::default()).await;
    })
    .await;
}

/// The same where the upstream shows nothing of its quotas, so that there is nothing but what was
/// written down.
#[tokio::test(flavor = "multi_thread")]
async fn killed_where_the_upstream_shows_nothing_it_never_sends_too_much() {
    steady("killed_where_the_upstream_shows_nothing_it_never_sends_too_much", async || {
        killed(20, HeaderStyle::Omit).await;
    })
    .await;
}

#[expect(clippy::print_stdout, reason = "the figures are half of the test")]
async fn killed(kills: u32, headers: HeaderStyle) {
    let options = Options { headers, ..simulated() };
    let simulator = Simulator::start(options, ANY).await.expect("a free port");
    let mut program = Program::new(&simulator.base_url());
    program.start();
    let (paused, done) = (Arc::new(AtomicBool::new(false)), CancellationToken::new());
    let callers = load(program.api, &paused, &done);
    // The load runs at the limit when what there was at the beginning has been used.
    eventually("the limit", async || {
        let report = simulator.report(None, "m")?;
        let left = remaining(&report, Unit::Tokens, Name::Minute);
        (left < i64::try_from(3 * RESERVED).ok()?).then_some(())
    })
    .await;
    let mut random = fastrand::Rng::with_seed(7);
    // What was at the upstream when it was killed.
    let mut held = 0;
    for kill in 1..=kills {
        tokio::time::sleep(Duration::from_millis(random.u64(20..700))).await;
        let look = kill % LOOK_EVERY == 0;
        held += simulator.stats().in_flight * RESERVED;
        program.kill();
        if look {
            paused.store(true, Ordering::SeqCst);
            wait_for(&simulator, |stats| stats.in_flight == 0 && stats.settling == 0).await;
        }
        program.start();
        if look {
            // It takes up the account when it is first asked.
            assert!(program.ask(&client(), &body(0)).await);
            wait_for(&simulator, |stats| stats.in_flight == 0 && stats.settling == 0).await;
            for (unit, name) in [(Unit::Tokens, Name::Day), (Unit::Tokens, Name::Minute)] {
                let window = if name == Name::Day { "day" } else { "minute" };
                let thinks = program.left("tokens", window).await.expect("a pool");
                let report = simulator.report(None, "m").expect("a pool");
                let is = remaining(&report, unit, name);
                assert!(
                    thinks <= is,
                    "kill {kill}: it thinks that {thinks} are left of the {window}, not {is}"
                );
            }
            paused.store(false, Ordering::SeqCst);
        }
    }
    let stats = simulator.stats();
    let report = simulator.report(None, "m").expect("a pool");
    done.cancel();
    let answered = callers.join_all().await.iter().sum::<u64>();
    // All that the upstream could have let in and did not. What a bucket has gathered while nobody was
    // there is not lost, as long as it is not full; so the bar is one for what it had in the end.
    let used = report.counters.tokens_used + report.counters.tokens_held;
    let possible = report.possible_tokens.expect("it is limited");
    let lost = possible - used;
    let bar = u64::from(kills) * (TOKENS_A_MINUTE / 15) + held;
    println!(
        "{answered} answered; {used} of {possible} tokens used: {} lost by each of {kills} kills, \
         where {} are allowed; {} rejected",
        lost / u64::from(kills),
        bar / u64::from(kills),
        stats.rejected
    );
    assert_eq!(stats.rejected, 0, "{report:?}");
    assert!(lost <= bar, "{lost} > {bar}");
    assert_eq!(program.stop().await, Some(0));
}

/// A signal in the middle of streams: they finish, and the next start knows exactly what was used.
#[tokio::test(flavor = "multi_thread")]
async fn stopped_in_order_it_goes_on_exactly_where_it_was() {
    let latency = Latency { tokens_per_second: 150, ..Latency::ZERO };
    // Windows that hardly refill while the test runs: the sums are exact but for what a second brings.
    let options = Options { latency, output: OutputModel::Fixed(300), ..simulated() };
    let simulator = Simulator::start(options, ANY).await.expect("a free port");
    let mut program = Program::new(&simulator.base_url());
    program.start();
    let streams: Vec<_> = (0..4)
        .map(|number| {
            let api = program.api;
            tokio::spawn(async move { ask(&client(), api, &body(number * 2)).await })
        })
        .collect();
    wait_for(&simulator, |stats| stats.in_flight == 4).await;
    assert_eq!(program.stop().await, Some(0));
    for stream in streams {
        assert!(stream.await.expect("no panic"), "a stream that had begun finishes");
    }
    wait_for(&simulator, |stats| stats.settling == 0).await;
    program.start();
    assert!(program.ask(&client(), &body(0)).await);
    wait_for(&simulator, |stats| stats.in_flight == 0 && stats.settling == 0).await;
    let day = eventually("the account", async || {
        let thinks = program.left("tokens", "day").await?;
        let report = simulator.report(None, "m")?;
        let is = remaining(&report, Unit::Tokens, Name::Day);
        // A day of these refills 23 tokens a millisecond; the two are asked one after the other.
        ((thinks - is).abs() < 2_000).then_some(thinks)
    })
    .await;
    assert!(day < i64::try_from(TOKENS_A_DAY).expect("it fits"));
    assert_eq!(program.stop().await, Some(0));
}
