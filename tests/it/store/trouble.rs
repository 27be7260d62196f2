//! Directories that cannot be used, and disks that fail.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use tempfile::TempDir;
use tidegate::simulator::Simulator;

use super::{config, refused, text, tidegate, under};
use crate::support::process::{Process, path};
use crate::support::{ANY, roomy};

/// Exit code and standard error of `serve` with state in `dir`.
fn serve(dir: &Path) -> (Option<i32>, String) {
    let config = config("http://127.0.0.1:9", "");
    refused(&mut tidegate(&["serve", "--config", path(&config), "--state-dir", text(dir)]))
}

#[tokio::test]
async fn a_second_process_is_told_who_has_the_directory() {
    let simulator = Simulator::start(roomy(), ANY).await.expect("a free port");
    let dir = TempDir::new().expect("a directory");
    let first = Process::keeping(&simulator.base_url(), dir.path());
    let (code, error) = serve(dir.path());
    assert_eq!(code, Some(1), "{error}");
    for part in
        [text(dir.path()), &format!("process {}", first.pid().as_raw_nonzero()), "--state-dir"]
    {
        assert!(error.contains(part), "{part}: {error}");
    }
    first.complete(1).await;
    assert_eq!(first.requests().await, 1, "it is not disturbed");
    first.signal(Signal::KILL);
    first.end().await;
    drop(Process::keeping(&simulator.base_url(), dir.path()));
}

#[tokio::test]
async fn what_cannot_be_trusted_is_refused_and_left_as_it_is() {
    let simulator = Simulator::start(roomy(), ANY).await.expect("a free port");
    let dir = TempDir::new().expect("a directory");
    let process = Process::keeping(&simulator.base_url(), dir.path());
    process.complete(1).await;
    process.signal(Signal::TERM);
    process.end().await;
    let file = dir.path().join("tidegate.db");
    let whole = fs::read(&file).expect("the database");
    let mut torn = whole.clone();
    torn[4_096..].fill(0x5a);
    let mut newer = whole.clone();
    // The version stands in the head, as four bytes.
    newer[60..64].copy_from_slice(&1_000_u32.to_be_bytes());
    for (bytes, part) in
        [(&torn, "is damaged"), (&newer, "has version 1000"), (&Vec::new(), "is damaged")]
    {
        fs::write(&file, bytes).expect("room");
        let (code, error) = serve(dir.path());
        assert_eq!(code, Some(1), "{error}");
        assert!(error.contains(part) && error.contains(text(&file)), "{part}: {error}");
        assert_eq!(&fs::read(&file).expect("it is there"), bytes, "{part}");
    }
    fs::write(&file, whole).expect("room");
    let process = Process::keeping(&simulator.base_url(), dir.path());
    assert_eq!(process.requests().await, 1, "a backup goes on");
}

#[test]
fn a_start_without_a_place_says_what_would_help() {
    let file = config("http://127.0.0.1:9", "");
    let (code, error) = refused(&mut tidegate(&["serve", "--config", path(&file)]));
    assert_eq!(code, Some(2), "{error}");
    let named = ["state.dir", "XDG_STATE_HOME", "--state-dir", "--stateless"];
    assert!(named.iter().all(|part| error.contains(part)), "{error}");
    let both = ["serve", "--state-dir", "/tmp", "--stateless"];
    let (code, error) = refused(&mut tidegate(&both));
    assert!(code == Some(2) && error.contains("--stateless"), "{code:?} {error}");
    let (code, error) = serve(file.path());
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains(path(&file)) && error.contains("--stateless"), "{error}");
}

/// No byte can be written to any file; then it can again.
#[tokio::test]
async fn a_full_disk_is_not_the_requests_trouble() {
    let simulator = Simulator::start(roomy(), ANY).await.expect("a free port");
    let dir = TempDir::new().expect("a directory");
    let process = Process::keeping(&simulator.base_url(), dir.path());
    process.complete(2).await;
    assert_eq!(process.requests().await, 2);
    process.wait_metric("tidegate_store_degraded 0\n").await;
    process.limit_files(Some(1));
    process.complete(3).await;
    process.wait_metric("tidegate_store_degraded 1\n").await;
    process.complete(4).await;
    let told = process.usage("by=total&since=1h").await;
    assert_eq!(told["complete"], false, "it says that something is missing: {told:#}");
    assert_eq!(told["rows"][0]["requests"]["total"], 2, "what is on disk is told: {told:#}");
    assert_eq!(process.page("/readyz").await.as_deref(), Some("ready\n"));
    process.limit_files(None);
    process.wait_metric("tidegate_store_degraded 0\n").await;
    assert_eq!(process.requests().await, 9, "what waited was not lost, nor counted twice");
    process.signal(Signal::TERM);
    let (code, log) = process.end().await;
    assert_eq!(code, Some(0), "{log}");
    let lines = log.lines().filter(|line| line.contains("state is not written"));
    assert_eq!(lines.count(), 1, "told once: {log}");
    assert!(log.contains("state is written again"), "{log}");
}

#[tokio::test]
async fn a_start_on_a_full_disk_is_refused() {
    let simulator = Simulator::start(roomy(), ANY).await.expect("a free port");
    let dir = TempDir::new().expect("a directory");
    let process = Process::keeping(&simulator.base_url(), dir.path());
    process.complete(1).await;
    process.signal(Signal::TERM);
    process.end().await;
    let before = fs::read(dir.path().join("tidegate.db")).expect("the database");
    let config = config(&simulator.base_url(), "");
    let args = ["serve", "--config", path(&config), "--state-dir", text(dir.path())];
    let (code, error) = refused(&mut under("trap '' XFSZ; ulimit -f 0", &args));
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("tidegate.db") && error.contains("--stateless"), "{error}");
    assert!(fs::read(dir.path().join("tidegate.db")).expect("it is there") == before);
    let process = Process::keeping(&simulator.base_url(), dir.path());
    assert_eq!(process.requests().await, 1, "with room it goes on");
}

/// The end is not held up, and the next start goes on from what there is.
#[tokio::test]
async fn an_end_on_a_full_disk_is_told() {
    let simulator = Simulator::start(roomy(), ANY).await.expect("a free port");
    let dir = TempDir::new().expect("a directory");
    let process = Process::keeping(&simulator.base_url(), dir.path());
    process.complete(2).await;
    assert_eq!(process.requests().await, 2);
    process.limit_files(Some(1));
    process.complete(3).await;
    process.signal(Signal::TERM);
    let (_, log) = process.end().await;
    assert!(log.contains("the last state was not written"), "{log}");
    let process = Process::keeping(&simulator.base_url(), dir.path());
    assert_eq!(process.requests().await, 2);
}

#[tokio::test]
async fn whoever_looked_leaves_one_whole_file_at_the_end() {
    let simulator = Simulator::start(roomy(), ANY).await.expect("a free port");
    let dir = TempDir::new().expect("a directory");
    let process = Process::keeping(&simulator.base_url(), dir.path());
    process.complete(2).await;
    process.usage("by=total&since=1h").await;
    process.page("/status").await;
    process.signal(Signal::TERM);
    process.end().await;
    let left = fs::read_dir(dir.path()).expect("the directory");
    let mut left: Vec<_> = left.map(|it| it.expect("an entry").file_name()).collect();
    left.sort();
    assert_eq!(left, ["batches", "lock", "tidegate.db"], "the log is folded in");
}
