use parking_lot::Mutex;
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::admission::PoolKey;
use crate::config::Durability;
use crate::metrics::Metrics;
use crate::store::history::Keep;
use crate::store::local::{DATABASE, Options, PoolBatch, Running, Saved, Waker};
use crate::time::Timestamp;

const KEY: PoolKey = PoolKey([7; 16]);
const DAY: Duration = Duration::from_secs(86_400);
const OPTIONS: Options =
    Options { sync: Durability::Normal, keep: Keep { minutes: DAY, hours: DAY, days: DAY } };

/// One pool whose events are bytes, and whose snapshot is how many bytes there were.
#[derive(Debug, Default)]
struct Pool {
    total: u64,
    new: Vec<u8>,
    /// How often it was asked for what is new, and for everything.
    asked: [u32; 2],
}

struct Scripted(Arc<Mutex<Pool>>);

impl Source for Scripted {
    fn collect(&mut self, batch: &mut Batch, full: bool) {
        let mut pool = self.0.lock();
        pool.asked[usize::from(full)] += 1;
        batch.now = Timestamp::from_nanos(1);
        let events = std::mem::take(&mut pool.new);
        if full {
            let snapshot = Some(pool.total.to_be_bytes().to_vec());
            let model = "m".into();
            batch.pools.push(PoolBatch { key: KEY, model, snapshot, events: Vec::new() });
        } else if !events.is_empty() {
            batch.pools.push(PoolBatch { key: KEY, model: "m".into(), snapshot: None, events });
        }
    }
}

struct Rig {
    dir: TempDir,
    pool: Arc<Mutex<Pool>>,
    waker: Waker,
    metrics: Arc<StoreMetrics>,
    running: Running,
}

impl Rig {
    fn start() -> Self {
        Self::start_in(TempDir::new().unwrap())
    }

    fn start_in(dir: TempDir) -> Self {
        let (local, _) = Local::open(dir.path(), OPTIONS).unwrap();
        let (pool, waker) = (Arc::<Mutex<Pool>>::default(), local.waker());
        let metrics = Arc::clone(&Metrics::new(&[], &[], 1).unwrap().store);
        let source = Box::new(Scripted(Arc::clone(&pool)));
        let running = local.start(source, Arc::clone(&metrics)).unwrap();
        Self { dir, pool, waker, metrics, running }
    }

    /// Something happens to the pool.
    fn happen(&self, events: &[u8]) {
        let mut pool = self.pool.lock();
        pool.total += events.len() as u64;
        pool.new.extend_from_slice(events);
        self.waker.wake();
    }

    /// Looks until it sees it; ten seconds are long enough for any machine.
    fn until(&self, what: &str, mut seen: impl FnMut(&Self) -> bool) {
        for _ in 0..2_000 {
            if seen(self) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("still waiting for: {what}");
    }

    fn number(&self, query: &str) -> i64 {
        let look = |connection: &Connection| connection.query_row(query, [], |row| row.get(0));
        self.running.desk().look(DAY, look).unwrap()
    }

    /// Somebody writes to the database, so that nobody else can.
    fn hold(&self) -> Connection {
        let other = Connection::open(self.dir.path().join(DATABASE)).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        other
    }

    /// What the next process finds.
    fn found(self) -> Saved {
        let Self { dir, running, .. } = self;
        drop(running);
        for _ in 0..2_000 {
            // Until the thread has ended, the directory is its own.
            if let Ok((_, saved)) = Local::open(dir.path(), OPTIONS) {
                return saved;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the directory is still in use");
    }
}

const QUIET: &str = "SELECT quiet FROM mark";

#[test]
fn it_commits_while_something_happens_and_sleeps_when_nothing_does() {
    let rig = Rig::start();
    assert_eq!(rig.pool.lock().asked[1], 1, "a start tells everything, before it is over");
    assert_eq!(rig.number("SELECT count(*) FROM pools"), 1);
    rig.until("a quiet mark", |rig| rig.number(QUIET) == 1);
    let commits = rig.metrics.commits.get();
    let asked = rig.pool.lock().asked;
    rig.happen(b"a");
    rig.until("a commit", |rig| rig.number("SELECT count(*) FROM journal") == 1);
    assert_eq!(rig.number(QUIET), 0);
    rig.happen(b"b");
    rig.until("the next", |rig| rig.number("SELECT count(*) FROM journal") == 2);
    rig.until("a quiet mark", |rig| rig.number(QUIET) == 1);
    // Two commits and the mark, with another mark between them if they were far apart.
    let more = rig.metrics.commits.get() - commits;
    assert!((3..=4).contains(&more), "{more}");
    let now = rig.pool.lock().asked;
    assert_eq!(now, [asked[0] + u32::try_from(more).unwrap(), 1], "asked once for each");
    let pools = rig.found().pools;
    assert_eq!(pools[0].snapshot, 0_u64.to_be_bytes());
    assert_eq!(pools[0].events, b"ab");
}

#[test]
fn what_waits_for_a_busy_disk_is_written_once_and_in_order() {
    let rig = Rig::start();
    let other = rig.hold();
    rig.happen(b"a");
    rig.until("trouble", |rig| rig.metrics.degraded.get() == 1);
    rig.happen(b"b");
    rig.until("it is collected", |rig| rig.pool.lock().new.is_empty());
    drop(other);
    rig.until("no trouble", |rig| rig.metrics.degraded.get() == 0);
    rig.happen(b"c");
    rig.until("a commit", |rig| rig.number("SELECT count(*) FROM journal") == 2);
    assert!(rig.metrics.errors.get() > 0 && rig.metrics.dropped.get() == 0);
    let saved = rig.found();
    assert_eq!(saved.pools[0].events, b"abc");
}

#[test]
fn what_is_too_much_to_wait_is_asked_for_as_a_whole() {
    let rig = Rig::start();
    let other = rig.hold();
    rig.happen(&vec![1; MOST_BYTES + 1]);
    rig.until("trouble", |rig| rig.metrics.degraded.get() == 1);
    rig.happen(b"b");
    rig.until("it is dropped", |rig| rig.metrics.dropped.get() == 1);
    rig.until("nothing waits", |rig| rig.metrics.backlog_bytes.get() == 0);
    rig.happen(b"c");
    drop(other);
    rig.until("no trouble", |rig| rig.metrics.degraded.get() == 0);
    let pools = rig.found().pools;
    assert_eq!(pools[0].snapshot, (MOST_BYTES as u64 + 3).to_be_bytes());
    assert!(pools[0].events.is_empty(), "the snapshot says it all");
}

#[test]
fn a_long_journal_is_replaced_by_snapshots() {
    let rig = Rig::start();
    let half = usize::try_from(LONG_JOURNAL / 2).unwrap();
    rig.happen(&vec![1; half]);
    rig.until("a commit", |rig| rig.metrics.journal_bytes.get() == half as i64);
    rig.happen(&vec![1; half + 1]);
    rig.until("everything is asked for", |rig| rig.pool.lock().asked[1] == 2);
    rig.until("the journal is empty", |rig| rig.number("SELECT count(*) FROM journal") == 0);
    rig.until("that is known", |rig| rig.metrics.journal_bytes.get() == 0);
    assert_eq!(rig.found().pools[0].snapshot, (LONG_JOURNAL + 1).to_be_bytes());
}

#[tokio::test]
async fn an_end_in_order_says_so_and_one_without_does_not() {
    let rig = Rig::start();
    rig.happen(b"a");
    let Rig { dir, running, .. } = rig;
    assert!(running.stop(Duration::from_secs(10)).await);
    let (local, saved) = Local::open(dir.path(), OPTIONS).unwrap();
    assert!(saved.clean && saved.quiet);
    assert_eq!(saved.pools[0].snapshot, 1_u64.to_be_bytes(), "whole: nothing to replay");
    drop(local);
    // The next process has it: it may end without a word from now on.
    let (_, saved) = Local::open(dir.path(), OPTIONS).unwrap();
    assert!(!saved.clean && saved.quiet);
    assert!(!Rig::start_in(dir).found().clean);
}
