//! One trace through one ledger, and through three replicas that share it by a real server: equal
//! decisions, one by one.

use std::num::NonZeroU32;
use std::time::Duration;

use tidegate::limit::{
    ColdStart, Constraint, Cost, Denied, Ledger, Mode, Replica, Sent, Sharing, Spent, Taken, Turn,
    Unit,
};
use tidegate::metrics::SharedMetrics;
use tidegate::store::shared::{Entry, EntryKind, Log, Outcome, Position, Shared, Step};
use tidegate::time::Timestamp;
use tokio_util::task::TaskTracker;

use super::server::Redis;
use super::twin::{POOL, config};

/// Steps of the trace; each is a call of the server or two.
const STEPS: usize = 3_000;

/// A replica, its log, and how much of that it has read.
struct Node {
    shared: Shared,
    log: Log,
    position: Position,
    replica: Replica,
}

/// Windows so short that they refill, slide and begin anew many times during the trace.
fn quotas() -> Vec<Constraint> {
    let quota = |unit, limit, millis, name, mode| {
        Constraint::new(unit, limit, Duration::from_millis(millis), name, mode).expect("valid")
    };
    vec![
        quota(Unit::Tokens, 1_000, 20, "short", Mode::Bucket),
        quota(Unit::Tokens, 3_000, 90, "long", Mode::Sliding),
        quota(Unit::Requests, 30, 25, "short", Mode::Fixed { skew: Duration::ZERO }),
    ]
}

impl Node {
    async fn start(url: &str, tasks: &TaskTracker) -> Self {
        let metrics = SharedMetrics::register(&prometheus::Registry::new()).expect("metrics");
        let shared = Shared::connect(config(url, ""), metrics, tasks);
        let log = shared.log(POOL);
        let state = loop {
            if let Ok(Ok(state)) = log.load().await {
                break state;
            }
            tokio::task::yield_now().await;
        };
        let sharing = Sharing { own: shared.replica().0, float: false, replicas: 3 };
        let mut replica = Replica::new(sharing, quotas(), ColdStart::Full, state.at);
        replica.load(state.snapshot.as_deref(), 0, state.at).expect("readable");
        let mut node = Self { shared, log, position: Position::default(), replica };
        let seq = state.position.seq - state.entries.len() as u64;
        node.position = Position { seq, ..state.position };
        node.apply(state.entries);
        node
    }

    fn apply(&mut self, entries: Vec<Entry>) -> Option<Timestamp> {
        let mut last = None;
        for entry in entries {
            assert_eq!(entry.kind, EntryKind::Own);
            if self.position.accept(&entry) == Step::Next {
                let name = (entry.replica.0, entry.number);
                self.replica.apply(name, entry.at, &entry.bytes, |_| {}).expect("readable");
                last = Some(entry.at);
            }
        }
        last
    }

    /// The log's time, by which the replica decides: local time is the same here.
    fn now(&mut self) -> Timestamp {
        let now = self.log.now();
        self.replica.set_clock(now, now);
        now
    }

    /// Reads what the others wrote.
    async fn read(&mut self) {
        loop {
            match self.log.flush(&self.position).await.expect("an answer") {
                Outcome::Appended(entries) => {
                    self.apply(entries);
                    return;
                }
                Outcome::Behind(entries) => drop(self.apply(entries)),
                other => unreachable!("{other:?}"),
            }
        }
    }

    /// Tells and asks; when what was asked is in the log, from when on it counts.
    async fn write(&mut self) -> Timestamp {
        let now = self.now();
        let question = self.replica.question(now);
        let log = self.log.clone();
        self.replica.tell(now, |bytes| log.tell(bytes.into()).ok());
        let is_asked = question.is_some();
        let outcome = match question {
            Some(bytes) => self.log.append_if_current(&self.position, bytes.into()).await,
            None => self.log.flush(&self.position).await,
        };
        let Ok(Outcome::Appended(entries)) = outcome else { unreachable!("{outcome:?}") };
        let at = self.apply(entries).expect("one's own");
        if is_asked {
            self.replica.taken();
        }
        at
    }
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "the seed is needed to repeat it")]
async fn one_ledger_and_three_replicas_decide_alike() {
    let redis = Redis::start().await;
    let tasks = TaskTracker::new();
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(Node::start(&redis.url(), &tasks).await);
    }
    let begun = nodes[0].write().await;
    let mut ledger = Ledger::new(quotas(), begun);
    let seed = std::env::var("SIM_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(7);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut open: Vec<(usize, u64, Sent)> = Vec::new();
    let (mut held, mut denied) = (0, 0);
    for step in 0..STEPS {
        let who = random.usize(..3);
        let node = &mut nodes[who];
        node.read().await;
        if open.is_empty() || random.u8(..5) < 3 {
            let (cost, now) = (Cost::new(1, random.u64(1..100)), node.now());
            let turn = Turn { class: 0, tenant: 1, weight: NonZeroU32::MIN, fair: 1, tag: 0 };
            let one = ledger.check(cost, now);
            match node.replica.take(cost, false, turn, now) {
                Ok(Taken::Asked(id)) => {
                    assert_eq!(one, Ok(()), "step {step}, SIM_SEED={seed}");
                    let at = node.write().await;
                    // A window that ended meanwhile has room all the more.
                    let sent = ledger.hold(cost, at).expect("room").sent();
                    open.push((who, id, sent));
                    held += 1;
                }
                Ok(Taken::Free(_)) => unreachable!("nothing is free"),
                Err(many) => {
                    assert_eq!(one, Err(many), "step {step}, SIM_SEED={seed}");
                    assert!(matches!(many, Denied::Wait { .. }));
                    denied += 1;
                }
            }
        } else {
            let (whose, id, mut sent) = open.swap_remove(random.usize(..open.len()));
            // More than was held, too: that is a debt.
            let used = Cost::new(1, sent.cost().tokens * random.u64(..120) / 100);
            let node = &mut nodes[whose];
            node.read().await;
            let now = node.now();
            node.replica.charged(id, now);
            node.replica.end(id, used, Duration::ZERO, None, now);
            let at = node.write().await;
            ledger.charged(&mut sent, at);
            ledger.settle(sent, Spent::Exact(used), at);
        }
    }
    println!("SIM_SEED={seed}: {held} held, {denied} denied");
    assert!(held > 100 && denied > 100, "{held} held, {denied} denied");
    for node in &nodes {
        node.shared.close();
    }
}
