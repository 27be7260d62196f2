use std::fs;
use std::os::unix::fs::PermissionsExt;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::identity::{Account, Owner};

fn open(dir: &TempDir) -> Archive {
    Archive::open(dir.path(), Durability::Normal).expect("it can be opened")
}

fn owner(id: u64) -> Owner {
    Owner { tenant: "t".into(), id, account: Account::from_bytes([7; 32]) }
}

fn stored(id: &str, tenant: u64, bytes: &[u8]) -> StoredFile {
    StoredFile {
        id: id.to_owned(),
        tenant,
        name: "in.jsonl".to_owned(),
        purpose: Purpose::Batch,
        bytes: bytes.len() as u64,
        created: 1_000,
        expires: 2_000,
    }
}

async fn add_file(archive: &Archive, id: &str, tenant: u64, content: &[u8]) -> StoredFile {
    fs::write(archive.partial_path(id), content).unwrap();
    let file = stored(id, tenant, content);
    archive.add_file(file.clone()).await.unwrap();
    file
}

fn record() -> Record {
    Record::new("/v1/chat/completions".to_owned(), "24h".to_owned(), None, (1_000, 9_000))
}

async fn add_batch(archive: &Archive, id: &str, tenant: u64) -> Batch {
    let added = archive.add_batch(id.to_owned(), owner(tenant), "f".to_owned(), record(), 100);
    added.await.unwrap().expect("there is room")
}

fn done(line: u32, good: bool, text: &str) -> Done {
    let (completed, failed) = (u64::from(good), u64::from(!good));
    let counts = Counts { completed, failed, prompt: 3, completion: 5, ..Counts::default() };
    Done { line, good, text: Bytes::copy_from_slice(text.as_bytes()), counts }
}

fn page(after: Option<&str>, limit: u32, ascending: bool) -> Page {
    Page { after: after.map(str::to_owned), limit, ascending }
}

#[tokio::test]
async fn files_are_their_tenants_and_listed_page_by_page() {
    let dir = TempDir::new().unwrap();
    let archive = open(&dir);
    for number in 0..5 {
        add_file(&archive, &format!("f{number}"), 1, b"abc").await;
    }
    let other = add_file(&archive, "other", u64::MAX, b"defg").await;
    assert_eq!(archive.stored(), 19);
    assert_eq!(archive.file(u64::MAX, "other").await.unwrap(), Some(other));
    assert_eq!(archive.file(1, "other").await.unwrap(), None);
    assert_eq!(fs::read(archive.path("f3")).unwrap(), b"abc");
    let list = async |purpose, page| {
        let (files, more) = archive.files(1, purpose, page).await.unwrap();
        (files.into_iter().map(|file| file.id).collect::<Vec<_>>().join(" "), more)
    };
    let said = |text: &str, more| (text.to_owned(), more);
    assert_eq!(list(None, page(None, 3, false)).await, said("f4 f3 f2", true));
    assert_eq!(list(None, page(Some("f2"), 3, false)).await, said("f1 f0", false));
    assert_eq!(list(None, page(Some("f1"), 2, true)).await, said("f2 f3", true));
    assert_eq!(list(None, page(Some("other"), 9, true)).await, said("", false), "not theirs");
    assert_eq!(list(Some(Purpose::BatchOutput), page(None, 9, true)).await, said("", false));
    assert_eq!(archive.delete_file(1, "other").await.unwrap(), None);
    assert_eq!(archive.delete_file(1, "f0").await.unwrap(), Some(Ok(())));
    assert!(!archive.path("f0").exists() && archive.stored() == 16);
    archive.close().await;
    assert!(archive.file(1, "f1").await.is_err(), "nobody is there any more");
}

#[tokio::test]
async fn a_file_that_a_batch_needs_stays() {
    let dir = TempDir::new().unwrap();
    let archive = open(&dir);
    add_file(&archive, "f", 1, b"abc").await;
    let batch = add_batch(&archive, "b", 1).await;
    let in_use = InUse { batch: "b".to_owned() };
    assert_eq!(archive.delete_file(1, "f").await.unwrap(), Some(Err(in_use)));
    assert_eq!(archive.purge(5_000, 0).await.unwrap(), (0, 0), "though its time is over");
    let end = |record: &mut Record| {
        (record.state, record.cancelled) = (State::Cancelled, Some(3_000));
    };
    archive.change(1, "b", end).await.unwrap();
    assert_eq!(
        archive
            .change(1, &batch.id, |_| panic!("it has ended"))
            .await
            .unwrap()
            .unwrap()
            .record
            .state,
        State::Cancelled
    );
    assert_eq!(archive.purge(5_000, 3_000).await.unwrap(), (1, 0));
    assert_eq!(archive.purge(5_000, 3_001).await.unwrap(), (0, 1));
    assert!(!archive.path("f").exists() && archive.stored() == 0);
}

#[tokio::test]
async fn a_line_has_one_result_and_all_of_them_become_files() {
    let dir = TempDir::new().unwrap();
    let archive = open(&dir);
    let (batch, other) = (add_batch(&archive, "b", 1).await, add_batch(&archive, "c", 2).await);
    for (line, good, text) in [(7, true, "seven\n"), (0, false, "zero\n"), (7, true, "again\n")] {
        archive.finish_line(batch.number, done(line, good, text)).await.unwrap();
    }
    archive.finish_line(other.number, done(3, true, "another batch's\n")).await.unwrap();
    let seen = archive.batch(1, "b").await.unwrap().unwrap();
    let counts = Counts { completed: 1, failed: 1, prompt: 6, completion: 10, ..Counts::default() };
    assert_eq!(seen.counts, counts, "the second seven is not counted");
    assert_eq!(archive.finished_lines(batch.number).await.unwrap(), [0, 7]);
    let results = archive.results(batch.number, true, 0, 1_000).await.unwrap();
    assert_eq!(results, [(7, b"seven\n".to_vec())]);
    assert!(archive.results(batch.number, true, 8, 1_000).await.unwrap().is_empty());
    // The files are entered with the end, and the lines are gone.
    fs::write(archive.partial_path("out"), b"seven\n").unwrap();
    let mut ended = seen;
    (ended.record.state, ended.record.completed) = (State::Completed, Some(4_000));
    archive.end(&ended, vec![stored("out", 1, b"seven\n")], 2).await.unwrap();
    assert_eq!(archive.finished_lines(batch.number).await.unwrap(), [0_u32; 0]);
    assert_eq!(archive.finished_lines(other.number).await.unwrap(), [3]);
    assert_eq!(archive.batch(1, "b").await.unwrap().unwrap().counts.failed, 3, "two were not sent");
    assert_eq!(fs::read(archive.path("out")).unwrap(), b"seven\n");
    let left: Vec<_> = archive.unfinished().await.unwrap().into_iter().map(|it| it.id).collect();
    assert_eq!(left, ["c"]);
    assert_eq!(archive.stored(), "seven\n".len() as u64 + "another batch's\n".len() as u64);
}

#[tokio::test]
async fn what_was_said_to_be_kept_is_there_after_a_crash_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let archive = open(&dir);
    let file = add_file(&archive, "f", 1, b"abc").await;
    let batch = add_batch(&archive, "b", 1).await;
    archive.finish_line(batch.number, done(5, true, "five\n")).await.unwrap();
    // As a process leaves it that was killed: a second connection to the same files.
    let copy = TempDir::new().unwrap();
    fs::create_dir(copy.path().join("files")).unwrap();
    for name in ["batches.db", "batches.db-wal", "files/f"] {
        fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
    }
    fs::write(copy.path().join("files/g.part"), b"cut o").unwrap();
    fs::write(copy.path().join("files/h"), b"named, but not entered").unwrap();
    let again = open(&copy);
    assert_eq!(again.file(1, "f").await.unwrap(), Some(file));
    assert_eq!(again.finished_lines(batch.number).await.unwrap(), [5]);
    let found = again.unfinished().await.unwrap();
    assert_eq!((&found[0].id, &found[0].owner), (&"b".to_owned(), &owner(1)));
    assert_eq!((found[0].record.clone(), again.stored()), (record(), 8));
    let left: Vec<_> = fs::read_dir(copy.path().join("files")).unwrap().collect();
    assert_eq!(left.len(), 1, "what was not complete is gone: {left:?}");
}

#[tokio::test]
async fn a_batch_too_many_is_not_made() {
    let dir = TempDir::new().unwrap();
    let archive = open(&dir);
    let add = async |id: &str| {
        let added = archive.add_batch(id.to_owned(), owner(1), "f".to_owned(), record(), 2);
        added.await.unwrap().is_some()
    };
    assert!(add("a").await && add("b").await && !add("c").await);
    let end = |record: &mut Record| (record.state, record.failed) = (State::Failed, Some(1));
    archive.change(1, "a", end).await.unwrap();
    assert!(add("c").await);
    let (batches, more) = archive.batches(1, page(None, 2, false)).await.unwrap();
    let ids: Vec<_> = batches.iter().map(|batch| &*batch.id).collect();
    assert_eq!((ids, more), (vec!["c", "b"], true));
    assert!(archive.batches(2, page(None, 2, false)).await.unwrap().0.is_empty());
}

#[tokio::test]
async fn one_failing_task_does_not_undo_its_neighbours() {
    let dir = TempDir::new().unwrap();
    let archive = open(&dir);
    let owned = archive.clone();
    let bad = archive.thread.call(|connection| {
        connection.execute("INSERT INTO lines (key, good, text) VALUES (1, 1, x'00')", [])?;
        connection.execute("INSERT INTO nowhere VALUES (1)", [])
    });
    let batch = add_batch(&owned, "b", 1).await;
    let good = owned.finish_line(batch.number, done(1, true, "one\n"));
    let (bad, good) = tokio::join!(bad, good);
    assert!(bad.unwrap_err().to_string().contains("nowhere") && good.is_ok());
    let lines = |connection: &Connection| {
        connection.query_row("SELECT count(*) FROM lines", [], |row| row.get::<_, i64>(0))
    };
    assert_eq!(archive.thread.call(lines).await.unwrap(), 1, "what it did before is undone");
}

#[tokio::test]
async fn the_directory_is_private_and_one_processs() {
    let dir = TempDir::new().unwrap();
    let archive = open(&dir);
    let refused = Archive::open(dir.path(), Durability::Full).unwrap_err();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused}");
    let mode =
        |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("batches.db"), mode("files")), (0o600, 0o700));
    archive.close().await;
    Archive::open(dir.path(), Durability::Full).expect("it was let go").close().await;
    fs::write(dir.path().join("batches.db"), b"no database at all").unwrap();
    let refused = Archive::open(dir.path(), Durability::Full).unwrap_err();
    assert!(matches!(refused, OpenError::Damaged { .. }), "{refused}");
}

#[tokio::test]
async fn room_is_given_back_when_a_batch_has_ended() {
    let dir = TempDir::new().unwrap();
    let archive = open(&dir);
    let batch = add_batch(&archive, "b", 1).await;
    let text = "x".repeat(10_000);
    let keep = (0..2_500).map(|line| archive.finish_line(batch.number, done(line, true, &text)));
    futures_util::future::join_all(keep).await.into_iter().for_each(Result::unwrap);
    let pages = async |what: &'static str| {
        let count = move |connection: &Connection| {
            connection.pragma_query_value(None, what, |row| row.get::<_, i64>(0))
        };
        archive.thread.call(count).await.unwrap()
    };
    assert!(pages("page_count").await > 6_000, "25 MB");
    let mut ended = archive.batch(1, "b").await.unwrap().unwrap();
    (ended.record.state, ended.record.completed) = (State::Completed, Some(4_000));
    archive.end(&ended, Vec::new(), 0).await.unwrap();
    let (count, free) = (pages("page_count").await, pages("freelist_count").await);
    assert!(count < 100 && free < 100, "{count} pages, {free} of them free");
    assert_eq!(archive.stored(), 0);
}
