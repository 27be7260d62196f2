use rusqlite::Connection;
use tempfile::TempDir;
use tokio::time::advance;

use super::*;
use crate::config::Durability;
use crate::metrics::Metrics;
use crate::store::local::{Batch, Local, Options, Running, Source};
use crate::time::Timestamp;

const HOUR: Duration = Duration::from_secs(3_600);
const KEEP: Keep = Keep {
    minutes: HOUR.saturating_mul(4),
    hours: HOUR.saturating_mul(48),
    days: HOUR.saturating_mul(240),
};
const BY_TENANT: By = By { tenant: true, model: false };

#[tokio::test(start_paused = true)]
async fn what_nobody_takes_is_bounded() {
    let history = History::new(evening(), Some(KEEP), Vec::new());
    for minute in 0..50 {
        for tenant in 0..500 {
            history.add(Some(&tenant.to_string()), Some("m"), &sample(minute));
        }
        advance(Duration::from_secs(60)).await;
    }
    history.add(None, None, &sample(1));
    let mut rows = Vec::new();
    history.collect(&mut rows);
    assert!((15_000..=20_001).contains(&rows.len()), "{}", rows.len());
    history.collect(&mut rows);
    assert!(rows.len() <= 20_001, "only once");
}

/// 2026-02-05, a quarter of an hour before midnight.
fn evening() -> Epoch {
    Epoch::at(Timestamp::parse_rfc3339("2026-02-05T23:45:00Z").unwrap())
}

fn sample(prompt: u64) -> Sample {
    let waited = Duration::from_millis(prompt);
    Sample { fate: Fate::Completed, prompt, completion: 1, cached: 0, waited }
}

fn since(history: &History, age: Duration, by: By, step: Step) -> Question {
    let now = history.epoch.now();
    let nanos = now.as_nanos() - crate::time::nanos(age);
    Question::new(by, Timestamp::from_nanos(nanos), now.after(Duration::from_secs(1)), step)
}

/// Time of day, tenant and model ("-" where they are not told apart), requests, prompt tokens.
fn told(answer: &Answer) -> Vec<String> {
    let text = |row: &Group| {
        let at = Timestamp::from_nanos(row.at * 1_000_000_000).rfc3339();
        let at = String::from_utf8_lossy(&at[5..16]).into_owned();
        let name = |name: &Option<Arc<str>>| name.as_deref().unwrap_or("-").to_owned();
        let Counts { prompt, .. } = row.counts;
        let (tenant, model) = (name(&row.tenant), name(&row.model));
        format!("{at} {tenant} {model} {} {prompt}", row.counts.requests())
    };
    answer.rows.iter().map(text).collect()
}

/// A store with only this history to keep.
fn kept(history: &Arc<History>, dir: &TempDir) -> Running {
    struct Only(Arc<History>);
    impl Source for Only {
        fn collect(&mut self, batch: &mut Batch, _: bool) {
            self.0.collect(&mut batch.usage);
            batch.now = self.0.epoch.now();
        }
    }
    let options = Options { sync: Durability::Normal, keep: history.keep.unwrap_or(KEEP) };
    let (local, _) = Local::open(dir.path(), options).unwrap();
    let waker = local.waker();
    let metrics = Arc::clone(&Metrics::new(&[], &[], 1).unwrap().store);
    let running = local.start(Box::new(Only(Arc::clone(history))), metrics).unwrap();
    history.attach(waker, running.desk().clone());
    running
}

#[tokio::test(start_paused = true)]
async fn usage_is_told_the_same_from_disk_and_from_memory() {
    let dir = TempDir::new().unwrap();
    let disk = Arc::new(History::new(evening(), Some(KEEP), Vec::new()));
    let memory = Arc::new(History::new(evening(), None, Vec::new()));
    let running = kept(&disk, &dir);
    for (minutes, tenant, model, prompt) in [
        (0, "a", "m", 1),
        (0, "a", "m", 2),
        (0, "b", "m", 4),
        (1, "a", "n", 8),
        (30, "a", "m", 16),
        (60, "b", "n", 32),
    ] {
        advance(Duration::from_secs(60 * minutes)).await;
        disk.add(Some(tenant), Some(model), &sample(prompt));
        memory.add(Some(tenant), Some(model), &sample(prompt));
    }
    memory.add(None, None, &Sample { fate: Fate::Refused, ..sample(0) });
    disk.add(None, None, &Sample { fate: Fate::Refused, ..sample(0) });
    let both = By { tenant: true, model: true };
    let one = By { tenant: false, model: true };
    let all = By::default();
    let week = HOUR * 24 * 7;
    for (age, by, step, expected) in [
        (
            HOUR * 2,
            both,
            Step::Minute,
            &[
                "02-05T23:45 a m 2 3",
                "02-05T23:45 b m 1 4",
                "02-05T23:46 a n 1 8",
                "02-06T00:16 a m 1 16",
                "02-06T01:16 (none) (none) 1 0",
                "02-06T01:16 b n 1 32",
            ][..],
        ),
        (
            HOUR * 2,
            BY_TENANT,
            Step::Hour,
            &[
                "02-05T23:00 a - 3 11",
                "02-05T23:00 b - 1 4",
                "02-06T00:00 a - 1 16",
                "02-06T01:00 (none) - 1 0",
                "02-06T01:00 b - 1 32",
            ],
        ),
        (
            HOUR * 2,
            one,
            Step::Day,
            &[
                "02-05T00:00 - m 3 7",
                "02-05T00:00 - n 1 8",
                "02-06T00:00 - (none) 1 0",
                "02-06T00:00 - m 1 16",
                "02-06T00:00 - n 1 32",
            ],
        ),
        (HOUR * 2, all, Step::Total, &["02-05T23:16 - - 7 63"]),
        (HOUR, all, Step::Total, &["02-06T00:16 - - 3 48"]),
        (
            HOUR * 2,
            all,
            Step::Hour,
            &["02-05T23:00 - - 4 15", "02-06T00:00 - - 1 16", "02-06T01:00 - - 2 32"],
        ),
        (
            Duration::from_secs(5),
            BY_TENANT,
            Step::Total,
            &["02-06T01:15 (none) - 1 0", "02-06T01:15 b - 1 32"],
        ),
    ] {
        for (history, from_disk) in [(&disk, true), (&memory, false)] {
            let answer = history.ask(since(history, age, by, step)).await.unwrap();
            assert_eq!(told(&answer), expected, "{age:?} {by:?} {step:?} {from_disk}");
            assert_eq!((answer.disk, answer.complete, answer.truncated), (from_disk, true, false));
        }
    }
    let total = disk.ask(since(&disk, week, all, Step::Total)).await.unwrap();
    assert_eq!(told(&total), ["01-30T00:00 - - 7 63"], "from the days");
    let counts = total.rows[0].counts;
    let expected = Counts {
        completed: 6,
        refused: 1,
        prompt: 63,
        completion: 7,
        waited: 63_000,
        longest_wait: 32_000,
        ..Counts::default()
    };
    assert_eq!(counts, expected);
    for step in [Step::Minute, Step::Total] {
        let none = Question::new(all, Timestamp::default(), Timestamp::from_nanos(1), step);
        assert_eq!(disk.ask(none).await.unwrap().rows, []);
        assert_eq!(memory.ask(none).await.unwrap().rows, []);
    }
    assert!(running.stop(HOUR).await);

    // Another process goes on where this one ended, in the same minute.
    let next = Arc::new(History::new(Epoch::at(disk.epoch.now()), Some(KEEP), Vec::new()));
    let running = kept(&next, &dir);
    next.add(Some("b"), Some("n"), &sample(64));
    let answer = next.ask(since(&next, HOUR, BY_TENANT, Step::Hour)).await.unwrap();
    let expected = ["02-06T00:00 a - 1 16", "02-06T01:00 (none) - 1 0", "02-06T01:00 b - 2 96"];
    assert_eq!(told(&answer), expected);
    assert!(running.stop(HOUR).await);
}

#[tokio::test(start_paused = true)]
async fn old_usage_is_forgotten_piece_by_piece_and_coarser_sums_stay() {
    let dir = TempDir::new().unwrap();
    let history = Arc::new(History::new(evening(), Some(KEEP), Vec::new()));
    let running = kept(&history, &dir);
    for _ in 0..30 {
        history.add(Some("a"), Some("m"), &sample(1));
        assert!(history.ask(since(&history, HOUR, By::default(), Step::Day)).await.is_ok());
        advance(HOUR * 12).await;
    }
    let rows = |step, days: u32| {
        let question = since(&history, HOUR * 24 * days, By::default(), step);
        let history = Arc::clone(&history);
        async move { history.ask(question).await.unwrap().rows }
    };
    // One piece with each commit; each question brings one about.
    for _ in 0..10 {
        history.add(Some("b"), Some("m"), &sample(0));
        rows(Step::Day, 1).await;
    }
    let mut left = Vec::new();
    for step in [Step::Minute, Step::Hour, Step::Day] {
        left.push(rows(step, 100).await.len());
    }
    // Of thirty times half a day: what is within 4 hours, 2 days and 10 days, and now.
    assert_eq!(left, [1, 5, 11]);
    let total = rows(Step::Total, 100).await;
    assert_eq!(total[0].counts.prompt, 21);
    running.stop(HOUR).await;
    let connection = Connection::open(dir.path().join(crate::store::local::DATABASE)).unwrap();
    let count: i64 =
        connection.query_row("SELECT count(*) FROM usage_minute", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 1, "it is gone, not only left out");
}

#[tokio::test(start_paused = true)]
async fn memory_holds_the_last_hours_only() {
    let history = Arc::new(History::new(evening(), None, Vec::new()));
    for _ in 0..10 {
        history.add(Some("a"), Some("m"), &sample(1));
        advance(HOUR).await;
    }
    history.add(Some("a"), Some("m"), &sample(1));
    let answer = history.ask(since(&history, HOUR * 100, BY_TENANT, Step::Minute)).await.unwrap();
    assert_eq!(answer.rows.len(), 6, "{:?}", told(&answer));
    // A flood of names leaves whole minutes.
    advance(Duration::from_secs(60)).await;
    for minute in 0..50 {
        for tenant in 0..900 {
            history.add(Some(&tenant.to_string()), Some("m"), &sample(minute));
        }
        advance(Duration::from_secs(60)).await;
    }
    history.add(Some("a"), Some("m"), &sample(1));
    assert!(history.sums.lock().recent.rows().count() <= 20_000);
    let answer = history.ask(since(&history, HOUR, By::default(), Step::Minute)).await.unwrap();
    assert!((35..45).contains(&answer.rows.len()), "{:?}", told(&answer));
    let whole = |row: &&Group| row.counts.requests() == 900;
    let minutes = answer.rows.iter().filter(whole).count();
    assert_eq!(minutes, answer.rows.len() - 1, "no part of a minute: {:?}", told(&answer));
}

#[tokio::test(start_paused = true)]
async fn callers_cannot_make_it_grow() {
    let known: Vec<Arc<str>> = vec!["key".into()];
    let history = Arc::new(History::new(evening(), None, known));
    let long = "x".repeat(1_000);
    for number in 0..3_000 {
        let name = number.to_string();
        history.add(Some(&name), Some("m"), &sample(1));
        history.add(Some("one"), Some(&name), &sample(1));
    }
    history.add(Some("key"), Some(&long), &sample(1));
    let both = By { tenant: true, model: true };
    let answer = history.ask(since(&history, HOUR, both, Step::Total)).await.unwrap();
    assert!(answer.rows.len() <= 1_000 + 502, "{}", answer.rows.len());
    let all: u64 = answer.rows.iter().map(|row| row.counts.requests()).sum();
    assert_eq!(all, 6_001, "the totals are right");
    let of = |tenant: &str| -> Vec<u64> {
        let rows = answer.rows.iter().filter(|row| row.tenant.as_deref() == Some(tenant));
        rows.map(|row| row.counts.requests()).collect()
    };
    assert_eq!(of("one").len(), 33, "32 models, and the others together");
    assert!(of(OTHER).iter().sum::<u64>() >= 2_400);
    assert_eq!(of("key"), [1], "a configured tenant has its name");
    assert!(answer.rows.iter().all(|row| row.model.as_ref().is_some_and(|it| it.len() <= 128)));
    // Another hour, other names.
    advance(HOUR).await;
    history.add(Some("2999"), Some("m"), &sample(1));
    let answer = history.ask(since(&history, Duration::ZERO, both, Step::Minute)).await.unwrap();
    assert_eq!(told(&answer), ["02-06T00:45 2999 m 1 1"]);
}

#[test]
fn a_long_name_is_cut_between_characters() {
    let mut series = Series::new(Vec::new());
    let name = "é".repeat(100);
    series.add(&name[..2], &format!("x{name}"), &sample(1));
    series.add(&name[..2], &format!("x{name}"), &sample(1));
    let models: Vec<_> =
        series.rows().map(|(_, _, model, counts)| (model.len(), counts.completed)).collect();
    assert_eq!(models, [(127, 2)]);
}

#[tokio::test]
async fn nothing_is_lost_between_threads_that_add_and_the_one_that_takes() {
    const EACH: u64 = 20_000;
    let dir = TempDir::new().unwrap();
    let history = Arc::new(History::new(Epoch::start(), Some(KEEP), Vec::new()));
    let running = kept(&history, &dir);
    let threads: Vec<_> = (0..4)
        .map(|number: u64| {
            let history = Arc::clone(&history);
            let tenant = (number % 2).to_string();
            std::thread::spawn(move || {
                (0..EACH).for_each(|_| history.add(Some(&tenant), Some("m"), &sample(number)));
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let answer = history.ask(since(&history, HOUR, BY_TENANT, Step::Total)).await.unwrap();
    let sums: Vec<_> =
        answer.rows.iter().map(|row| (row.counts.completed, row.counts.prompt)).collect();
    assert_eq!(sums, [(2 * EACH, 2 * EACH), (2 * EACH, 4 * EACH)]);
    assert!(running.stop(HOUR).await);
}

/// Tenant and prompt tokens of today, by name.
fn today(history: &History) -> Vec<(String, u64)> {
    let (_, tenants) = history.today();
    let mut tenants: Vec<_> =
        tenants.into_iter().map(|(name, counts)| (name.to_string(), counts.prompt)).collect();
    tenants.sort();
    tenants
}

#[tokio::test(start_paused = true)]
async fn today_ends_at_midnight_and_counts_each_request_once() {
    let history = History::new(evening(), Some(KEEP), vec!["known".into()]);
    let minute = Duration::from_secs(60);
    for prompt in [1, 20, 300] {
        history.add(Some("a"), Some("m"), &sample(prompt));
        history.add(Some("known"), Some("n"), &sample(prompt));
        advance(minute).await;
    }
    let expected = vec![("a".to_owned(), 321), ("known".to_owned(), 321)];
    assert_eq!(today(&history), expected);
    history.collect(&mut Vec::new());
    assert_eq!(today(&history), expected, "whoever takes the sums takes nothing from today's");
    history.add(Some("a"), Some("m"), &sample(4_000));
    assert_eq!(today(&history)[0], ("a".to_owned(), 4_321));
    advance(15 * minute).await;
    assert_eq!(today(&history), Vec::new(), "another day");
    history.add(Some("a"), Some("m"), &sample(5));
    assert_eq!(today(&history), vec![("a".to_owned(), 5)]);
}

#[tokio::test(start_paused = true)]
async fn today_is_bounded_and_loses_nothing() {
    let morning = Timestamp::parse_rfc3339("2026-02-05T01:30:00Z").unwrap();
    let history = History::new(Epoch::at(morning), None, vec!["known".into()]);
    for hour in 0..5 {
        for tenant in 0..400 {
            history.add(Some(&format!("{hour}-{tenant}")), Some("m"), &sample(1));
        }
        advance(HOUR).await;
    }
    history.add(Some("known"), Some("m"), &sample(1));
    let today = today(&history);
    // The configured one, and what stands for the others.
    assert!(today.len() <= 501 + 2, "{}", today.len());
    assert_eq!(today.iter().map(|(_, prompt)| prompt).sum::<u64>(), 2_001);
    assert!(today.contains(&("known".to_owned(), 1)));
}
