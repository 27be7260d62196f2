use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::backlog::{Backlog, MOST_BYTES, MOST_USAGE};
use super::schema::SCHEMA;
use super::write::{Mark, commit};
use super::*;
use crate::store::database::version;
use crate::store::history::{Counts, Keep, OTHER, UsageRow};
use crate::time::Timestamp;

const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);
const OPTIONS: Options =
    Options { sync: Durability::Normal, keep: Keep { minutes: DAY, hours: DAY, days: DAY } };

fn open(dir: &TempDir) -> (Local, Saved) {
    Local::open(dir.path(), OPTIONS).expect("it can be opened")
}

fn refused(dir: &TempDir) -> OpenError {
    Local::open(dir.path(), OPTIONS).expect_err("it is refused")
}

fn pool(number: u8, snapshot: Option<&[u8]>, events: &[u8]) -> PoolBatch {
    let key = PoolKey([number; 16]);
    PoolBatch { key, model: "m".into(), snapshot: snapshot.map(Into::into), events: events.into() }
}

fn learned(number: u8, tenant: &str, blob: &[u8]) -> Learned {
    Learned { pool: PoolKey([number; 16]), tenant: tenant.into(), blob: blob.into() }
}

/// Commits one batch as the thread does.
fn write(local: &mut Local, batch: Batch, full: bool, quiet: bool) {
    let mut backlog = Backlog::default();
    let stamp = Stamp::new(local.machine.clocks(), batch.now);
    backlog.absorb(batch, full);
    let Local { connection, journal, .. } = local;
    let known = |key| journal.contains_key(&key);
    commit(connection, known, &backlog, &Mark { stamp, clean: false, quiet }).expect("room");
}

/// Pools as number, snapshot and events.
fn pools(saved: &Saved) -> Vec<(u8, Vec<u8>, Vec<u8>)> {
    let of = |it: &SavedPool| (it.key.0[0], it.snapshot.clone(), it.events.clone());
    saved.pools.iter().map(of).collect()
}

#[test]
fn a_new_directory_is_private_and_empty() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a/b");
    let (local, saved) = Local::open(&path, OPTIONS).unwrap();
    assert_eq!(saved, Saved::default());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&local.file)), (0o700, 0o600));
    assert_eq!(fs::read_to_string(path.join("lock")).unwrap(), format!("{}\n", std::process::id()));
    drop(local);
    // What a process leaves that was killed while it made the database.
    let leftover = path.join("tidegate.new");
    fs::rename(path.join(DATABASE), &leftover).unwrap();
    fs::write(path.join("tidegate.db-wal"), "the log of a database that is gone").unwrap();
    let (_, saved) = Local::open(&path, OPTIONS).unwrap();
    assert_eq!((saved, leftover.exists()), (Saved::default(), false));
}

#[test]
fn what_was_written_is_read_back_in_order() {
    let dir = TempDir::new().unwrap();
    let (mut local, _) = open(&dir);
    let now = Timestamp::from_nanos(5);
    let batch = |pools, dropped_pools, learned| Batch {
        now,
        pools,
        dropped_pools,
        learned,
        usage: Vec::new(),
    };
    let first =
        vec![pool(1, Some(b"one"), b""), pool(2, None, b"a"), pool(3, Some(b"three"), b"x")];
    let known = vec![learned(1, "t", b"old"), learned(2, "t", b"two"), learned(2, "", b"pool")];
    write(&mut local, batch(first, vec![], known), false, false);
    let second = vec![pool(1, None, b"b"), pool(2, None, b"c"), pool(3, None, b"y")];
    let known = vec![learned(1, "t", b"new"), learned(2, "t", b"")];
    write(&mut local, batch(second, vec![], known), false, false);
    let third = vec![pool(1, None, b"d"), pool(2, Some(b"two"), b"e")];
    write(&mut local, batch(third, vec![PoolKey([3; 16])], vec![]), false, true);
    drop(local);

    let (mut local, saved) = open(&dir);
    let bytes = |text: &str| text.as_bytes().to_vec();
    let expected = vec![(1, bytes("one"), bytes("bd")), (2, bytes("two"), bytes("e"))];
    assert_eq!(pools(&saved), expected);
    let mut known = saved.learned.clone();
    known.sort_by_key(|it| it.pool.0);
    assert_eq!(known, [learned(1, "t", b"new"), learned(2, "", b"pool")]);
    let last = saved.last.unwrap();
    let clocks = local.machine.clocks();
    assert_eq!(
        (last.timeline, last.boot, saved.clean, saved.quiet),
        (now, clocks.boot, false, true)
    );
    assert!(last.boot_nanos <= clocks.boot_nanos && last.wall_nanos <= clocks.wall_nanos);
    assert!(last.same_boot(&Stamp::new(clocks, now)) || clocks.boot == [0; 16]);
    assert_eq!(local.journal[&PoolKey([1; 16])], 2, "bytes");

    // Everything takes the place of all there was.
    // More than is written in one piece.
    let many: Vec<u8> = (0..200_000_u32).map(|it| (it % 251) as u8).collect();
    let all = batch(vec![pool(7, Some(b"seven"), &many)], vec![], vec![learned(7, "u", b"v")]);
    write(&mut local, all, true, false);
    drop(local);
    let (_, saved) = open(&dir);
    assert_eq!(pools(&saved), [(7, bytes("seven"), many)]);
    assert_eq!(saved.learned, [learned(7, "u", b"v")]);
}

#[test]
fn a_second_owner_is_told_who_has_it() {
    let dir = TempDir::new().unwrap();
    let (first, _) = open(&dir);
    let text = refused(&dir).to_string();
    let pid = format!("process {}", std::process::id());
    assert!(text.contains(&pid) && text.contains(dir.path().to_str().unwrap()), "{text}");
    drop(first);
    open(&dir);
}

#[test]
fn every_older_version_is_brought_up_to_date_with_what_it_has() {
    for taken in 1..SCHEMA.steps.len() {
        let dir = TempDir::new().unwrap();
        let mut old = Connection::open(dir.path().join(DATABASE)).unwrap();
        let transaction = old.transaction().unwrap();
        SCHEMA.bring_to(&transaction, taken).unwrap();
        transaction.commit().unwrap();
        assert_eq!(version(&old).unwrap(), taken as i64);
        let seal = write::seal(PoolKey([9; 16]), &[1, 2]);
        let row = rusqlite::params![[9_u8; 16], seal];
        old.execute("INSERT INTO pools VALUES (?, 'm', x'0102', ?)", row).unwrap();
        drop(old);
        let (mut local, saved) = open(&dir);
        assert_eq!(pools(&saved), [(9, vec![1, 2], vec![])]);
        let row = UsageRow {
            at: 60,
            tenant: "t".into(),
            model: "m".into(),
            counts: Counts { completed: 1, ..Counts::default() },
        };
        write(&mut local, Batch { usage: vec![row], ..Batch::default() }, false, false);
        assert_eq!(version(&local.connection).unwrap(), SCHEMA.steps.len() as i64);
    }
}

#[test]
fn a_newer_version_is_refused_and_left_alone() {
    let dir = TempDir::new().unwrap();
    let file = open(&dir).0.file;
    let newer = Connection::open(&file).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    let before = fs::read(&file).unwrap();
    let error = refused(&dir);
    assert!(matches!(error, OpenError::Newer { found: 99, .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("version 99") && text.contains("tidegate.db"), "{text}");
    assert!(fs::read(&file).unwrap() == before, "it was changed");
}

#[test]
fn what_is_damaged_is_refused_and_left_alone() {
    let whole = {
        let dir = TempDir::new().unwrap();
        let (mut local, _) = open(&dir);
        let pools = (0..200).map(|number| pool(number, Some(&[number; 3_000]), b"events"));
        write(&mut local, Batch { pools: pools.collect(), ..Batch::default() }, false, false);
        let file = local.file.clone();
        drop(local);
        fs::read(file).unwrap()
    };
    assert!(whole.len() > 600_000, "the log was folded in");
    let mut torn = whole.clone();
    torn[20_000..400_000].fill(0xa5);
    // What no structure shows: one bit of what is kept.
    let mut flipped = whole.clone();
    let inside = whole.windows(1_000).position(|bytes| bytes == [77; 1_000]).unwrap();
    flipped[inside + 500] ^= 1;
    let other = {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("other");
        Connection::open(&file).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
        fs::read(file).unwrap()
    };
    for (bytes, why) in [
        (&b""[..], "an empty file"),
        (b"not a database, but longer than the head of one: ....................................", "text"),
        (&whole[..whole.len() / 2], "half of it"),
        (&torn, "a hole in it"),
        (&flipped, "a bit of it"),
        (&other, "somebody else's"),
    ] {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join(DATABASE);
        fs::write(&file, bytes).unwrap();
        let error = refused(&dir);
        assert!(matches!(error, OpenError::Damaged { .. }), "{why}: {error}");
        let text = error.to_string();
        assert!(text.contains("tidegate.db is damaged") && text.contains("backup"), "{why}: {text}");
        assert!(fs::read(&file).unwrap() == bytes, "{why}: it was changed");
    }
}

#[test]
fn what_is_kept_of_the_last_commit_is_as_it_was_written_or_refused() {
    for change in ["clean = 1", "wall_nanos = wall_nanos + 1", "timeline_nanos = 9"] {
        let dir = TempDir::new().unwrap();
        let (mut local, _) = open(&dir);
        write(&mut local, Batch::default(), false, true);
        let file = local.file.clone();
        drop(local);
        let (_, saved) = open(&dir);
        assert!(saved.last.is_some() && !saved.clean && saved.quiet);
        let changed = Connection::open(file).unwrap();
        assert_eq!(changed.execute(&format!("UPDATE mark SET {change}"), []).unwrap(), 1);
        drop(changed);
        let error = refused(&dir);
        assert!(matches!(error, OpenError::Damaged { .. }), "{change}: {error}");
        assert!(error.to_string().contains("the last commit is not what was written"), "{error}");
    }
}

#[test]
fn a_place_that_cannot_be_used_is_named() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    fs::create_dir_all(dir.path().join("odd").join(DATABASE)).unwrap();
    fs::create_dir_all(dir.path().join("odd-lock").join("lock")).unwrap();
    for place in [&file, &file.join("below"), &dir.path().join("odd"), &dir.path().join("odd-lock")]
    {
        let text = Local::open(place, OPTIONS).expect_err("it is refused").to_string();
        assert!(text.contains(place.to_str().unwrap()), "{text}");
        assert!(text.contains("--state-dir") && text.contains("--stateless"), "{text}");
    }
}

#[test]
fn what_waits_is_merged_and_bounded() {
    let mut backlog = Backlog::default();
    assert!(backlog.is_empty());
    let usage = |at, tenant: &str| UsageRow {
        at,
        tenant: tenant.into(),
        model: "m".into(),
        counts: Counts { completed: 1, ..Counts::default() },
    };
    let batch = |pools, usage| Batch { pools, usage, ..Batch::default() };
    backlog.absorb(batch(vec![pool(1, None, b"a"), pool(2, Some(b"s"), b"b")], vec![]), false);
    backlog
        .absorb(batch(vec![pool(1, None, b"c"), pool(2, None, b"d")], vec![usage(60, "t")]), false);
    backlog.absorb(batch(vec![], vec![usage(60, "t")]), false);
    assert_eq!(backlog.pools[&PoolKey([1; 16])], pool(1, None, b"ac"));
    assert_eq!(backlog.pools[&PoolKey([2; 16])], pool(2, Some(b"s"), b"bd"));
    assert_eq!(backlog.usage.values().map(|it| it.completed).collect::<Vec<_>>(), [2]);
    backlog.absorb(batch(vec![pool(2, Some(b"t"), b"e")], vec![]), false);
    assert_eq!(backlog.pools[&PoolKey([2; 16])], pool(2, Some(b"t"), b"e"));
    let gone = Batch { dropped_pools: vec![PoolKey([1; 16])], ..Batch::default() };
    backlog.absorb(gone, false);
    assert!(backlog.dropped.contains(&PoolKey([1; 16])) && backlog.pools.len() == 1);
    assert_eq!(backlog.bytes(), 128 + 2, "what is left of it");
    backlog.absorb(batch(vec![pool(3, Some(&[0; MOST_BYTES]), b"")], vec![]), true);
    assert!(backlog.replaces && backlog.dropped.is_empty() && backlog.pools.len() == 1);
    assert!(backlog.bytes() > MOST_BYTES);
    backlog.forget_pools();
    assert_eq!((backlog.bytes(), backlog.is_empty()), (0, false), "usage is nowhere else");

    let many = (0..2 * MOST_USAGE as u64).map(|it| usage(7_200 + it * 60, "u")).collect();
    backlog.absorb(batch(vec![], many), false);
    assert!(backlog.usage.len() <= MOST_USAGE + MOST_USAGE / 60 + 1, "{}", backlog.usage.len());
    let all: u64 = backlog.usage.values().map(|it| it.completed).sum();
    assert_eq!(all, 2 + 2 * MOST_USAGE as u64, "nothing is lost of the sums");
    assert!(backlog.usage.keys().any(|(at, tenant, _)| at % 3_600 == 0 && &**tenant == OTHER));
    backlog.written();
    assert!(backlog.is_empty());
}
