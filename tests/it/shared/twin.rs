//! A replica whose state is the list of what it was told, in order: two that agree on the list would
//! agree on whatever can be made of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prometheus::Registry;
use tidegate::admission::PoolKey;
use tidegate::config::{Config, Overrides, Shared as SharedConfig};
use tidegate::metrics::SharedMetrics;
use tidegate::store::shared::{
    Entry, EntryKind, Event, Log, Outcome, Position, Shared, State, Step, Unavailable,
};
use tidegate::time::Timestamp;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::TaskTracker;

use super::server::PATIENCE;

/// Generous, because the tests of this crate run all at once on whatever machine there is.
pub(super) const BUDGET: Duration = Duration::from_millis(250);
/// What a call may take beyond its budget: a busy machine wakes nobody on time.
const LATE: Duration = Duration::from_secs(3);

/// The section `[shared]` for a server, and more lines of it.
pub(super) fn config(url: &str, more: &str) -> SharedConfig {
    let text = format!(
        "[upstream]\nbase_url = \"http://localhost:1\"\n[models.\"*\"]\n\
         output_reservation = {{ default = 1 }}\n\
         limits = [{{ unit = \"requests\", limit = 1, per = \"1m\" }}]\n\
         [shared]\nurl = \"{url}\"\ntimeout = \"250ms\"\n{more}"
    );
    let config = Config::parse(&text, [], &Overrides::default()).expect("a configuration");
    config.shared.expect("a section")
}

/// What a replica knows.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) list: Vec<String>,
    pub(super) times: Vec<Timestamp>,
    pub(super) position: Position,
    /// What happened beside entries.
    pub(super) events: Vec<&'static str>,
}

impl Known {
    pub(super) fn apply(&mut self, entry: &Entry) {
        let step = self.position.accept(entry);
        assert_ne!(step, Step::Gap, "{entry:?} does not follow {:?}", self.position);
        if step == Step::Known {
            return;
        }
        let text = String::from_utf8_lossy(&entry.bytes);
        self.list.push(match entry.kind {
            EntryKind::Own => format!("{}/{}/{text}", entry.replica, entry.number),
            EntryKind::Gone => format!("{} gone", entry.replica),
        });
        self.times.push(entry.at);
    }

    fn begin(&mut self, state: &State) {
        let text = state.snapshot.as_ref().map(|it| String::from_utf8_lossy(it).into_owned());
        self.list = text.iter().flat_map(|it| it.lines()).map(str::to_owned).collect();
        let seq = state.position.seq - state.entries.len() as u64;
        self.position = Position { seq, ..state.position.clone() };
        state.entries.iter().for_each(|entry| self.apply(entry));
        assert_eq!(self.position, state.position);
    }

    pub(super) fn snapshot(&self) -> Bytes {
        self.list.join("\n").into()
    }
}

/// One replica.
pub(super) struct Twin {
    pub(super) shared: Shared,
    pub(super) log: Log,
    pub(super) known: Arc<Mutex<Known>>,
    pub(super) tasks: TaskTracker,
    follower: JoinHandle<()>,
}

pub(super) const POOL: PoolKey = PoolKey([7; 16]);

impl Twin {
    pub(super) fn start(config: &SharedConfig) -> Self {
        Self::scripted(config, Shared::script())
    }

    pub(super) fn scripted(config: &SharedConfig, script: &str) -> Self {
        let metrics = SharedMetrics::register(&Registry::new()).expect("metrics");
        let tasks = TaskTracker::new();
        let shared = Shared::connect_scripted(config.clone(), metrics, &tasks, script);
        let log = shared.log(POOL);
        let known: Arc<Mutex<Known>> = Arc::default();
        let mut events = log.follow(&Position::default());
        let (followed, state) = (log.clone(), Arc::clone(&known));
        let follower = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                let (name, entry) = match event {
                    Event::Entry(entry) => ("", Some(entry)),
                    Event::State(loaded) => {
                        state.lock().begin(&loaded);
                        ("state", None)
                    }
                    Event::Reassert => ("reassert", None),
                    Event::Lost => ("lost", None),
                    Event::Back => ("back", None),
                };
                {
                    let mut state = state.lock();
                    entry.iter().for_each(|entry| state.apply(entry));
                    if !name.is_empty() {
                        state.events.push(name);
                    }
                }
                if name == "reassert" {
                    let known = || {
                        let state = state.lock();
                        (state.position.clone(), state.snapshot())
                    };
                    // If it fails, the server will ask again.
                    let _ = followed.reassert(known).await;
                }
            }
        });
        Self { shared, log, known, tasks, follower }
    }

    /// Once the first state is there.
    pub(super) async fn ready(self) -> Self {
        self.until("the first state", |known| !known.position.epoch.id.is_empty()).await;
        self
    }

    pub(super) fn position(&self) -> Position {
        self.known.lock().position.clone()
    }

    /// Appends a line on the condition that it is based on everything before it; as often as it
    /// takes. The line says what it is based on.
    pub(super) async fn hold(&self, name: &str) -> u64 {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let position = self.position();
            let line = format!("{name}@{}.{}", position.epoch.number, position.seq);
            match self.within(self.log.append_if_current(&position, line.clone().into())).await {
                Ok(Outcome::Appended(entries)) => {
                    let mut known = self.known.lock();
                    if known.position.epoch == position.epoch {
                        entries.iter().for_each(|entry| known.apply(entry));
                        return entries.last().expect("one's own").seq;
                    }
                }
                Ok(Outcome::Behind(entries)) => {
                    let mut known = self.known.lock();
                    if known.position.epoch == position.epoch {
                        entries.iter().for_each(|entry| known.apply(entry));
                    }
                }
                Ok(Outcome::Wait(_) | Outcome::Stale) => sleep(Duration::from_millis(5)).await,
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
            // The reply may have been lost, and the entry not.
            let known = self.known.lock();
            let own = format!("/{line}");
            if let Some(place) = known.list.iter().position(|it| it.ends_with(&own)) {
                return place as u64 + 1;
            }
        }
        unreachable!("{name} was never appended");
    }

    /// Tells a line, and has it appended; as often as it takes.
    pub(super) async fn tell(&self, line: &str) {
        self.log.tell(line.to_owned().into()).expect("room");
        self.flush().await;
    }

    pub(super) async fn flush(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.log.pending() > 0 {
            assert!(Instant::now() < deadline, "never flushed");
            let position = self.position();
            match self.within(self.log.flush(&position)).await {
                Ok(Outcome::Appended(entries) | Outcome::Behind(entries)) => {
                    let mut known = self.known.lock();
                    if known.position.epoch == position.epoch {
                        entries.iter().for_each(|entry| known.apply(entry));
                    }
                }
                Ok(Outcome::Wait(_) | Outcome::Stale) => sleep(Duration::from_millis(5)).await,
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// What a call gives, which must come within its budget.
    pub(super) async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, Unavailable>>,
    ) -> Result<T, Unavailable> {
        let began = Instant::now();
        let result = call.await;
        assert!(began.elapsed() < BUDGET + LATE, "a call took {:?}", began.elapsed());
        result
    }

    /// Waits until something is known.
    pub(super) async fn until(&self, what: &str, is_so: impl Fn(&Known) -> bool) {
        let wait = async {
            while !is_so(&self.known.lock()) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let came = timeout(PATIENCE, wait).await.is_ok();
        assert!(came, "{what} did not come: {:?}", self.known.lock());
    }

    /// Beats until told to stop.
    pub(super) fn beating(&self, every: Duration) -> Beating {
        let (log, known) = (self.log.clone(), Arc::clone(&self.known));
        Beating(tokio::spawn(async move {
            loop {
                let position = known.lock().position.clone();
                let _ = log.beat(&position, Bytes::from_static(b"alive")).await;
                sleep(every).await;
            }
        }))
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

/// A task that ends with its handle.
pub(super) struct Beating(JoinHandle<()>);

impl Drop for Beating {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Waits until all have the same list, of at least so many lines; gives it.
pub(super) async fn agreed(twins: &[Twin], least: usize) -> Vec<String> {
    let last = async {
        loop {
            let lists: Vec<_> = twins.iter().map(|it| it.known.lock().list.clone()).collect();
            if lists.iter().all(|it| it.len() >= least && *it == lists[0]) {
                return lists[0].clone();
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    let list = timeout(PATIENCE, last).await;
    let lists: Vec<_> = twins.iter().map(|it| it.known.lock().list.clone()).collect();
    list.unwrap_or_else(|_| unreachable!("they do not agree: {lists:#?}"))
}

/// Every line once.
pub(super) fn assert_no_doubles(list: &[String]) {
    let mut sorted: Vec<_> = list.iter().map(|line| line.rsplit('/').next()).collect();
    sorted.sort_unstable();
    let count = sorted.len();
    sorted.dedup();
    assert_eq!(sorted.len(), count, "something is there twice: {list:#?}");
}
