//! What keeping state costs the path of a request: adding its usage, and ringing the store's thread.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use tidegate::config::Durability;
use tidegate::metrics::Metrics;
use tidegate::store::history::{Fate, History, Keep, Sample};
use tidegate::store::local::{Batch, Local, Options, Running, Source};
use tidegate::time::Epoch;
use tokio::time::Instant;

const YEAR: Duration = Duration::from_secs(365 * 86_400);
const KEEP: Keep = Keep { minutes: YEAR, hours: YEAR, days: YEAR };
const SAMPLE: Sample = Sample {
    fate: Fate::Completed,
    prompt: 1_200,
    completion: 300,
    cached: 0,
    waited: Duration::from_millis(3),
};

/// A store that keeps a history.
struct Only(Arc<History>, Epoch);

impl Source for Only {
    fn collect(&mut self, batch: &mut Batch, _: bool) {
        self.0.collect(&mut batch.usage);
        batch.now = self.1.now();
    }
}

fn kept(history: &Arc<History>, epoch: Epoch) -> (Running, tempfile::TempDir) {
    let dir = tempfile::TempDir::new().expect("a directory");
    let options = Options { sync: Durability::Normal, keep: KEEP };
    let (local, _) = Local::open(dir.path(), options).expect("it is new");
    let waker = local.waker();
    let metrics = Metrics::new(&[], &[], 1).expect("names are unique");
    let source = Box::new(Only(Arc::clone(history), epoch));
    let running = local.start(source, Arc::clone(&metrics.store)).expect("a thread");
    history.attach(waker, running.desk().clone());
    (running, dir)
}

fn usage(c: &mut Criterion) {
    let mut group = c.benchmark_group("usage of a request");
    let tenants: Vec<String> = (0..100).map(|number| format!("team-{number}")).collect();
    for stored in [false, true] {
        let epoch = Epoch::start();
        let history = Arc::new(History::new(epoch, stored.then_some(KEEP), Vec::new()));
        let _kept = stored.then(|| kept(&history, epoch));
        let name = if stored { "store on" } else { "store off" };
        // The clock has been read for the log.
        let (ended, mut next) = (Instant::now(), 0);
        group.bench_function(name, |b| {
            b.iter(|| {
                next = (next + 1) % tenants.len();
                let tenant = black_box(Some(tenants[next].as_str()));
                history.add_at(ended, tenant, black_box(Some("glm-4.7")), &SAMPLE);
            });
        });
    }
    group.finish();
}

/// The first event after a quiet while wakes the thread; the others only leave a mark.
fn ring(c: &mut Criterion) {
    let epoch = Epoch::start();
    let history = Arc::new(History::new(epoch, Some(KEEP), Vec::new()));
    let dir = tempfile::TempDir::new().expect("a directory");
    let options = Options { sync: Durability::Normal, keep: KEEP };
    let (local, _) = Local::open(dir.path(), options).expect("it is new");
    let waker = local.waker();
    let metrics = Metrics::new(&[], &[], 1).expect("names are unique");
    let _running = local.start(Box::new(Only(history, epoch)), Arc::clone(&metrics.store));
    c.bench_function("ring while it works", |b| b.iter(|| waker.wake()));
}

criterion_group!(benches, usage, ring);
criterion_main!(benches);
