//! What calls of the shared log cost, against a real server on this machine: `redis-server` has to be
//! there. Prints a table for docs/OPERATIONS.md.

#![expect(clippy::print_stdout, reason = "it is a report")]

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use prometheus::Registry;
use tidegate::admission::PoolKey;
use tidegate::config::{Config, Overrides};
use tidegate::metrics::SharedMetrics;
use tidegate::store::shared::{Event, Log, Outcome, Position, Shared, Step};
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

const RUN: Duration = Duration::from_secs(3);
/// As large as a hold of six windows.
const ENTRY: &[u8] = &[7; 64];

struct Server(Child, u16);

impl Drop for Server {
    fn drop(&mut self) {
        // It is ending anyway.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn server() -> Server {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let mut command = Command::new("redis-server");
    command.args(["--save", "", "--bind", "127.0.0.1", "--port", &port.to_string()]);
    let child = command.stdout(Stdio::null()).spawn().expect("redis-server is installed");
    Server(child, port)
}

fn replica(port: u16) -> Shared {
    let text = format!(
        "[upstream]\nbase_url = \"http://localhost:1\"\n[models.\"*\"]\n\
         output_reservation = {{ default = 1 }}\n\
         limits = [{{ unit = \"requests\", limit = 1, per = \"1m\" }}]\n\
         [shared]\nurl = \"redis://127.0.0.1:{port}\"\ntimeout = \"2s\"\ngrace = \"50ms\"\n"
    );
    let config = Config::parse(&text, [], &Overrides::default()).expect("a configuration");
    let metrics = SharedMetrics::register(&Registry::new()).expect("metrics");
    Shared::connect(config.shared.expect("a section"), metrics, &TaskTracker::new())
}

async fn begin(log: &Log) -> Position {
    loop {
        if let Ok(Ok(state)) = log.load().await {
            return state.position;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Applies what a call brought; whether its own entry is in.
fn apply(position: &mut Position, outcome: Outcome) -> bool {
    let (entries, done) = match outcome {
        Outcome::Appended(entries) => (entries, true),
        Outcome::Behind(entries) => (entries, false),
        Outcome::Wait(_) | Outcome::Stale => unreachable!("the server stays"),
    };
    for entry in &entries {
        assert_ne!(position.accept(entry), Step::Gap);
    }
    done
}

/// Holds one after the other for a while, with a snapshot now and then; the time of each.
async fn holds(log: Log, mut position: Position) -> Vec<Duration> {
    let (began, mut took) = (Instant::now(), Vec::new());
    while began.elapsed() < RUN {
        let start = Instant::now();
        loop {
            let outcome = log.append_if_current(&position, Bytes::from_static(ENTRY)).await;
            if apply(&mut position, outcome.expect("an answer")) {
                break;
            }
        }
        took.push(start.elapsed());
        if took.len() % 4_096 == 0 {
            log.snapshot(&position, Bytes::from_static(&[1; 1_024])).await.expect("an answer");
        }
    }
    took
}

/// Settles, a hundred in each call.
async fn batches(log: Log, mut position: Position) -> Vec<Duration> {
    let (began, mut took) = (Instant::now(), Vec::new());
    while began.elapsed() < RUN {
        for _ in 0..100 {
            log.tell(Bytes::from_static(ENTRY)).expect("room");
        }
        let start = Instant::now();
        let outcome = log.flush(&position).await.expect("an answer");
        took.push(start.elapsed());
        apply(&mut position, outcome);
        if took.len() % 64 == 0 {
            log.snapshot(&position, Bytes::from_static(&[1; 1_024])).await.expect("an answer");
        }
    }
    took
}

fn report(name: &str, mut took: Vec<Duration>, entries: usize) {
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100].as_micros();
    let rate = took.len() * entries * 1_000 / usize::try_from(RUN.as_millis()).expect("short");
    println!("| {name} | {rate} | {} | {} |", at(50), at(99));
}

#[tokio::main]
async fn main() {
    let server = server();
    let port = server.1;
    println!("| calls | entries/s | p50 µs | p99 µs |\n|---|---|---|---|");
    let pool = |number| PoolKey([number; 16]);
    let one = replica(port);
    let log = one.log(pool(1));
    let position = begin(&log).await;
    report("holds, one replica, one after the other", holds(log, position).await, 1);
    let log = one.log(pool(2));
    let position = begin(&log).await;
    report("settles, a hundred a call", batches(log, position).await, 100);
    let many = (0..32).map(|number| {
        let log = one.log(pool(100 + number));
        async move {
            let position = begin(&log).await;
            holds(log, position).await
        }
    });
    report("holds, one replica, 32 pools at once", join_all(many).await.concat(), 1);
    let replicas: Arc<Vec<Shared>> = Arc::new((0..3).map(|_| replica(port)).collect());
    let contended = replicas.iter().map(|it| {
        let log = it.log(pool(3));
        async move {
            let position = begin(&log).await;
            holds(log, position).await
        }
    });
    report("holds, three replicas, one pool", join_all(contended).await.concat(), 1);
    push(&replicas).await;
}

/// The time from an append to its arrival at another replica.
async fn push(replicas: &[Shared]) {
    let (near, far) = (replicas[0].log(pool_of_push()), replicas[1].log(pool_of_push()));
    let mut position = begin(&near).await;
    let mut events = far.follow(&begin(&far).await);
    sleep(Duration::from_millis(200)).await;
    let (began, mut took) = (Instant::now(), Vec::new());
    while began.elapsed() < RUN {
        near.tell(Bytes::from_static(ENTRY)).expect("room");
        let start = Instant::now();
        let outcome = near.flush(&position).await.expect("an answer");
        while !matches!(events.next().await, Some(Event::Entry(_))) {}
        took.push(start.elapsed());
        apply(&mut position, outcome);
    }
    report("from an append to its arrival elsewhere", took, 1);
}

const fn pool_of_push() -> PoolKey {
    PoolKey([200; 16])
}
