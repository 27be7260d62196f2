//! One process takes over from another under load: nobody is refused, nothing is lost, and what both
//! of them spend is one account.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};
use tidegate::simulator::{HeaderStyle, Latency, Options, Simulator};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::gateway::keys::{entry, with_entries};
use crate::support::process::{Process, file, path, tidegate};
use crate::support::upstream::{Upstream, completion};
use crate::support::wire::{Wire, chat};
use crate::support::{ACCOUNT_KEY, ANY, config_text, eventually, hello, roomy, wait_for, with};

/// Those that take over, one from the other.
const TAKE_OVERS: usize = 2;
/// Callers, each with one request after the other, each on a connection of its own.
const CALLERS: usize = 8;
/// What every request of the load uses: ten tokens of prompt, and ten of answer.
const EACH: u64 = 20;
/// More than a test can use, and nothing of it comes back meanwhile.
const LIMIT: u64 = 1_000_000;

const ROOMY: &str = "models.\"*\".limits = [\n\
    { unit = \"requests\", limit = 1_000_000, per = \"1d\", mode = \"sliding\", learn = \"never\" },\n\
    { unit = \"tokens\", limit = 1_000_000, per = \"1d\", mode = \"sliding\", learn = \"never\" } ]\n\
    server.drain_timeout = \"60s\"\nlog.requests = false\n";

/// Processes that have one state, one after the other.
struct Line {
    state: TempDir,
    config: NamedTempFile,
}

impl Line {
    fn new(upstream: &str, changes: &str) -> Self {
        let state = tempfile::tempdir().expect("a directory");
        Self { state, config: file(&config_text(upstream, changes)) }
    }

    /// The next process, once it is ready.
    async fn next(&self) -> Process {
        let state = self.state.path().join("state").to_str().expect("text").to_owned();
        let config = path(&self.config).to_owned();
        let start = move || {
            let args = ["serve", "--take-over", "--state-dir", &state, "--config", &config];
            Process::start(tidegate(&args).env("ACCOUNT_KEY", ACCOUNT_KEY))
        };
        tokio::task::spawn_blocking(start).await.expect("no panic")
    }
}

/// What a caller finds that its connection or its answer is not what it should be.
async fn call(api: std::net::SocketAddr, stream: bool) -> Result<(), String> {
    let mut socket = TcpStream::connect(api).await.map_err(|it| format!("refused: {it}"))?;
    let body = with(hello(), "stream", stream).to_string();
    let whole = chat("connection: close\r\n", body);
    socket.write_all(&whole).await.map_err(|it| format!("reset: {it}"))?;
    let mut wire = Wire::over(socket);
    let answer = wire.try_answer().await.map_err(|it| format!("lost: {it}"))?;
    let end = if stream { "data: [DONE]\n\n" } else { "}" };
    match (answer.status, answer.text().trim_end_matches(' ').ends_with(end)) {
        (200, true) => Ok(()),
        _ => Err(format!("{}: {}", answer.status, answer.text())),
    }
}

/// What is left of both limits, once nothing is held.
async fn left(process: &Process) -> (u64, u64) {
    let level = async || {
        let status: Value = serde_json::from_str(&process.page("/status").await?).ok()?;
        let all = status["pools"][0]["constraints"].as_array()?.clone();
        let at_rest = all.iter().all(|it| it["held"] == 0) && status["pools"][0]["in_flight"] == 0;
        let of = |unit: &str| all.iter().find(|it| it["unit"] == unit)?["available"].as_u64();
        at_rest.then_some((of("requests")?, of("tokens")?))
    };
    eventually("a pool at rest", level).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_refused_while_one_process_takes_over_from_another() {
    let latency = Latency { first_token: Duration::from_millis(30), ..Latency::ZERO };
    // What its headers show comes back in the meantime, and this is about what was spent.
    let options = Options { latency, chunk_tokens: 1, headers: HeaderStyle::Omit, ..roomy() };
    let simulator = Simulator::start(options, ANY).await.expect("a free port");
    let line = Line::new(&simulator.base_url(), ROOMY);
    let mut process = line.next().await;
    let (api, over) = (process.api, Arc::new(AtomicBool::new(false)));
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let over = Arc::clone(&over);
            tokio::spawn(async move {
                let (mut count, mut troubles) = (0_u64, Vec::new());
                while !over.load(Ordering::Relaxed) {
                    count += 1;
                    troubles.extend(call(api, caller % 2 == 0).await.err());
                }
                (count, troubles)
            })
        })
        .collect();
    for _ in 0..TAKE_OVERS {
        let next = line.next().await;
        assert_eq!(next.api, api, "the same sockets");
        let (code, log) = process.end().await;
        assert_eq!(code, Some(0), "it ends by itself, in order: {log}");
        process = next;
    }
    over.store(true, Ordering::Relaxed);
    let mut calls = 0;
    for caller in callers {
        let (count, troubles) = caller.await.expect("no panic");
        assert_eq!(troubles, Vec::<String>::new());
        calls += count;
    }
    let stats = wait_for(&simulator, |stats| stats.in_flight == 0).await;
    assert_eq!((stats.started, stats.completed), (calls, calls), "each once: {stats:?}");
    // The last process has the account of all of them.
    assert_eq!(left(&process).await, (LIMIT - calls, LIMIT - EACH * calls));
    let usage = process.page("/usage?by=total&since=1h").await.expect("an answer");
    let usage: Value = serde_json::from_str(&usage).expect("JSON");
    assert_eq!(usage["rows"][0]["requests"]["completed"], calls, "{usage}");
    assert_eq!(usage["rows"][0]["tokens"]["prompt"], 10 * calls, "{usage}");
    process.signal(rustix::process::Signal::TERM);
    assert_eq!(process.end().await.0, Some(0));
}

/// An upstream that answers when it is told to, one request for each permit.
async fn in_turn() -> (Arc<Semaphore>, Upstream) {
    let turns = Arc::new(Semaphore::new(0));
    let allowed = Arc::clone(&turns);
    let upstream = Upstream::start(move |_, mut socket| {
        let allowed = Arc::clone(&allowed);
        async move {
            allowed.acquire().await.ok()?.forget();
            socket.write_all(&completion()).await.ok().map(|()| socket)
        }
    });
    (turns, upstream.await)
}

/// Permits and quota are one account, whichever process a request is at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_at_the_old_process_goes_before_those_at_the_new_one() {
    let (turns, upstream) = in_turn().await;
    let line = Line::new(&upstream.url(), &format!("{ROOMY}models.\"*\".max_concurrent = 1\n"));
    let old = line.next().await;
    let ask = async || Wire::open(old.api, chat("", hello().to_string())).await;
    let mut first = ask().await;
    upstream.wait_seen(1).await;
    let mut second = ask().await;
    old.wait_page("/metrics", "tidegate_queue_depth 1\n").await;
    let new = line.next().await;
    let mut third = ask().await;
    new.wait_page("/metrics", "tidegate_queue_depth 1\n").await;
    assert_eq!(upstream.seen().len(), 1, "the permit is taken, though not at the new process");
    turns.add_permits(1);
    assert_eq!(first.answer().await.status, 200);
    upstream.wait_seen(2).await;
    assert_eq!(upstream.seen().len(), 2, "the one that waited at the old process");
    turns.add_permits(1);
    assert_eq!(second.answer().await.status, 200);
    let (code, log) = old.end().await;
    assert_eq!(code, Some(0), "{log}");
    turns.add_permits(1);
    assert_eq!(third.answer().await.status, 200);
    assert_eq!(left(&new).await.0, LIMIT - 3);
}

/// A tenant's own line is before the account's, and whoever stands in it has not asked for that yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_its_tenants_limit_at_the_old_process_is_answered_there() {
    let (turns, upstream) = in_turn().await;
    let keys = with_entries(&entry("one", "max_concurrent = 1"));
    let line = Line::new(&upstream.url(), &format!("{ROOMY}{keys}"));
    let old = line.next().await;
    let key = "authorization: Bearer planted-one\r\n";
    let ask = async || Wire::open(old.api, chat(key, hello().to_string())).await;
    let mut first = ask().await;
    upstream.wait_seen(1).await;
    let mut second = ask().await;
    old.wait_page("/metrics", "tidegate_tenant_limits_queue_depth 1\n").await;
    let new = line.next().await;
    let mut third = ask().await;
    new.wait_page("/metrics", "tidegate_tenant_limits_queue_depth 1\n").await;
    turns.add_permits(1);
    assert_eq!(first.answer().await.status, 200);
    upstream.wait_seen(2).await;
    turns.add_permits(1);
    let second = second.answer().await;
    assert_eq!(second.status, 200, "{}", second.text());
    let (code, log) = old.end().await;
    assert_eq!(code, Some(0), "{log}");
    upstream.wait_seen(3).await;
    turns.add_permits(1);
    assert_eq!(third.answer().await.status, 200);
    assert_eq!(left(&new).await.0, LIMIT - 3);
}

/// Whoever had requests of its own under way and is killed leaves them as spent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_lost_with_the_old_process_counts_as_spent() {
    let upstream = Upstream::start(|number, mut socket| async move {
        if number == 0 {
            return std::future::pending().await;
        }
        socket.write_all(&completion()).await.ok().map(|()| socket)
    })
    .await;
    let line = Line::new(&upstream.url(), ROOMY);
    let old = line.next().await;
    let _endless = Wire::open(old.api, chat("", hello().to_string())).await;
    upstream.wait_seen(1).await;
    let new = line.next().await;
    let mut second = Wire::open(new.api, chat("", hello().to_string())).await;
    assert_eq!(second.answer().await.status, 200);
    let status: Value =
        serde_json::from_str(&new.page("/status").await.expect("it")).expect("JSON");
    let held = status["pools"][0]["constraints"][0]["held"].as_u64();
    assert!(held.is_some_and(|held| held >= 1), "what the old one has: {status:#}");
    old.signal(rustix::process::Signal::KILL);
    assert_eq!(left(&new).await.0, LIMIT - 2, "both are spent, and nothing is held for ever");
}
