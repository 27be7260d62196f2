//! What is there after a process has ended, in order or not.

use std::fs;

use rustix::process::Signal;
use tempfile::TempDir;
use tidegate::simulator::Simulator;

use super::{config, saved, tidegate};
use crate::support::process::{Process, path};
use crate::support::{ANY, roomy};

#[tokio::test]
async fn usage_outlives_an_end_in_order_and_a_kill() {
    let simulator = Simulator::start(roomy(), ANY).await.expect("a free port");
    let dir = TempDir::new().expect("a directory");
    let url = simulator.base_url();

    let process = Process::keeping(&url, dir.path());
    process.complete(3).await;
    process.signal(Signal::TERM);
    let (code, log) = process.end().await;
    assert_eq!(code, Some(0), "{log}");
    let left = saved(&dir);
    assert!(left.clean && left.quiet && left.last.is_some(), "{left:?}");
    let files = fs::read_dir(dir.path()).expect("a directory");
    let mut files: Vec<_> = files.map(|it| it.expect("a file").file_name()).collect();
    files.sort();
    assert_eq!(files, ["batches", "lock", "tidegate.db"], "the log is folded in");

    let process = Process::keeping(&url, dir.path());
    process.complete(4).await;
    assert_eq!(process.requests().await, 7, "it is on disk when it is told");
    process.signal(Signal::KILL);
    process.end().await;
    let left = saved(&dir);
    assert!(!left.clean, "{left:?}");

    let process = Process::keeping(&url, dir.path());
    assert_eq!(process.requests().await, 7);
    let hours = process.usage("by=total&since=1h&step=hour").await;
    let rows = hours["rows"].as_array().expect("a list").clone();
    let total = rows.iter().map(|row| row["requests"]["total"].as_u64().unwrap_or(0)).sum::<u64>();
    assert!(total == 7 && rows.len() <= 2, "{hours:#}");
}

#[tokio::test]
async fn what_is_quiet_says_so_and_commits_nothing_more() {
    let simulator = Simulator::start(roomy(), ANY).await.expect("a free port");
    let dir = TempDir::new().expect("a directory");
    let process = Process::keeping(&simulator.base_url(), dir.path());
    process.complete(1).await;
    let commits = async || {
        let page = process.page("/metrics").await.expect("it answers");
        let line = page.lines().find(|it| it.starts_with("tidegate_store_commits_total "));
        line.map(|it| it.to_owned())
    };
    // The first one, that of the request, and at last the one that says that nothing happens.
    let mut seen = commits().await;
    crate::support::eventually("no further commit", async || {
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
        let now = commits().await;
        (std::mem::replace(&mut seen, now.clone()) == now).then_some(())
    })
    .await;
    process.signal(Signal::KILL);
    process.end().await;
    let left = saved(&dir);
    assert!(left.quiet && !left.clean, "{left:?}");
}

#[tokio::test]
async fn the_directory_is_the_users_unless_one_is_named() {
    let simulator = Simulator::start(roomy(), ANY).await.expect("a free port");
    let home = TempDir::new().expect("a directory");
    for (variable, place) in [("HOME", ".local/state/tidegate"), ("XDG_STATE_HOME", "tidegate")] {
        let config = config(&simulator.base_url(), "");
        let mut command = tidegate(&["serve", "--config", path(&config)]);
        command.env(variable, home.path());
        let process = Process::start(&mut command);
        process.complete(1).await;
        assert_eq!(process.requests().await, 1);
        assert!(home.path().join(place).join("tidegate.db").exists(), "{place}");
    }
    for (named, flag) in [("", "--stateless"), ("state.stateless = true", "")] {
        let config = config(&simulator.base_url(), named);
        let mut args = vec!["serve", "--config", path(&config)];
        args.extend((!flag.is_empty()).then_some(flag));
        let process = Process::start(&mut tidegate(&args));
        process.complete(2).await;
        let told = process.usage("by=total").await;
        assert_eq!(told["kept"], "memory", "{told:#}");
        assert_eq!(told["rows"][0]["requests"]["total"], 2, "{told:#}");
    }
}
