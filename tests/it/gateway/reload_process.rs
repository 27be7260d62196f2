//! What makes the program read its configuration again, and what is there after it was killed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tidegate::simulator::Simulator;

use crate::support::process::{Process, run, tidegate};
use crate::support::{ANY, client, config_text, eventually, hello, roomy};

const APPLIED: &str = "tidegate_config_reloads_total{result=\"applied\"}";

fn limits(requests: u64) -> String {
    format!(
        "models.\"*\".limits = [ \
         {{ unit = \"requests\", limit = {requests}, per = \"1d\", mode = \"sliding\", learn = \"never\" }}, \
         {{ unit = \"tokens\", limit = 100_000, per = \"1d\", mode = \"sliding\", learn = \"never\" }} ]"
    )
}

fn serve(config: &Path, more: &[&str]) -> Process {
    let mut args = vec!["serve", "--config", config.to_str().expect("text")];
    args.extend(more);
    Process::start(&mut tidegate(&args))
}

/// Puts a file in the place of another, as an editor does.
fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).expect("room");
    fs::rename(beside, path).expect("one file system");
}

async fn ask(process: &Process) -> u16 {
    let request = client().post(format!("http://{}/v1/chat/completions", process.api));
    let request = request.header("content-type", "application/json").body(hello().to_string());
    request.send().await.expect("an answer").status().as_u16()
}

async fn status(process: &Process) -> Value {
    let page = process.page("/status").await.expect("it answers");
    serde_json::from_str(&page).expect("JSON")
}

async fn applied(process: &Process, count: u32) {
    process.wait_page("/metrics", &format!("{APPLIED} {count}\n")).await;
}

#[tokio::test]
async fn a_file_that_changes_is_taken_up_however_it_was_changed() {
    let directory = TempDir::new().expect("a directory");
    let (root, config) = (directory.path(), directory.path().join("tidegate.toml"));
    let key = root.join("key");
    let text = |max_wait: &str| {
        let reference = format!("file:{}", key.display());
        config_text(
            "http://127.0.0.1:9",
            &format!("upstream.api_key = {reference:?}\nadmission.max_wait = {max_wait:?}"),
        )
    };
    fs::write(&key, "planted-one").expect("room");
    fs::write(&config, text("1m")).expect("room");
    let process = serve(&config, &["--stateless"]);
    applied(&process, 0).await;
    // Written over, put in its place, and a secret that it refers to.
    fs::write(&config, text("2m")).expect("room");
    applied(&process, 1).await;
    replace(&config, &text("3m"));
    applied(&process, 2).await;
    replace(&key, "planted-two");
    applied(&process, 3).await;
    let page = process.page("/config").await.expect("it answers");
    assert!(page.contains("max_wait = \"3m\"") && !page.contains("planted"), "{page}");
    // What is wrong stays where it is, and the file is looked at further on.
    replace(&config, "nonsense");
    process.wait_page("/metrics", "tidegate_config_reloads_total{result=\"refused\"} 1\n").await;
    replace(&config, &text("4m"));
    applied(&process, 4).await;
    process.signal(Signal::TERM);
    let (code, log) = process.end().await;
    assert_eq!(code, Some(0), "{log}");
    for part in [
        "configuration taken up",
        "admission.max_wait",
        "upstream.api_key",
        "configuration not taken up",
        "syntax (line 1)",
    ] {
        assert!(log.contains(part), "no {part:?} in\n{log}");
    }
    assert!(!log.contains("planted"), "{log}");
}

#[tokio::test]
async fn a_directory_of_kubernetes_is_followed_through_its_links() {
    let directory = TempDir::new().expect("a directory");
    let root = directory.path();
    let version = |name: &str, max_wait: &str| {
        fs::create_dir(root.join(name)).expect("room");
        let text = config_text("http://127.0.0.1:9", &format!("admission.max_wait = {max_wait:?}"));
        fs::write(root.join(name).join("tidegate.toml"), text).expect("room");
    };
    version("..one", "1m");
    symlink("..one", root.join("..data")).expect("room");
    symlink("..data/tidegate.toml", root.join("tidegate.toml")).expect("room");
    let process = serve(&root.join("tidegate.toml"), &["--stateless"]);
    for (count, name, max_wait) in [(1, "..two", "2m"), (2, "..three", "3m")] {
        version(name, max_wait);
        symlink(name, root.join("..data_tmp")).expect("room");
        fs::rename(root.join("..data_tmp"), root.join("..data")).expect("one file system");
        applied(&process, count).await;
        let page = process.page("/config").await.expect("it answers");
        assert!(page.contains(&format!("max_wait = {max_wait:?}")), "{page}");
    }
}

#[tokio::test]
async fn a_signal_is_enough_and_what_flags_say_stays() {
    let directory = TempDir::new().expect("a directory");
    let config = directory.path().join("tidegate.toml");
    let text = |level: &str, max_wait: &str| {
        let changes = format!(
            "server.reload = \"signal\"\nlog.level = {level:?}\nadmission.max_wait = {max_wait:?}"
        );
        config_text("http://127.0.0.1:9", &changes)
    };
    fs::write(&config, text("error", "9s")).expect("room");
    let process = serve(&config, &["--stateless", "--upstream", "http://127.0.0.1:7"]);
    process.signal(Signal::HUP);
    process.wait_page("/metrics", "tidegate_config_reloads_total{result=\"unchanged\"} 1\n").await;
    replace(&config, &text("info", "7s"));
    process.signal(Signal::HUP);
    applied(&process, 1).await;
    let page = process.page("/config").await.expect("it answers");
    assert!(page.contains("max_wait = \"7s\"") && page.contains("http://127.0.0.1:7"), "{page}");
    process.signal(Signal::TERM);
    let (code, log) = process.end().await;
    assert_eq!(code, Some(0));
    assert!(
        !log.contains("nothing has changed") && log.contains("configuration taken up"),
        "{log}"
    );
}

#[tokio::test]
async fn what_was_spent_before_and_after_a_change_is_there_after_a_kill() {
    let simulator = Simulator::start(roomy(), ANY).await.expect("a free port");
    let directory = TempDir::new().expect("a directory");
    let config = directory.path().join("tidegate.toml");
    let text = |requests| config_text(&simulator.base_url(), &limits(requests));
    let state = directory.path().join("state");
    let keeping = ["--state-dir", state.to_str().expect("text")];
    fs::write(&config, text(10)).expect("room");
    let process = serve(&config, &keeping);
    for (applies, requests) in [(0, 10), (1, 40), (2, 8)] {
        if applies > 0 {
            replace(&config, &text(requests));
            applied(&process, applies).await;
        }
        assert_eq!(ask(&process).await, 200);
    }
    let left = async |process: &Process| {
        let status = status(process).await;
        let levels = status["pools"][0]["constraints"].as_array().cloned().unwrap_or_default();
        let levels = levels.iter().map(|it| (it["limit"].as_i64(), it["available"].as_i64()));
        levels.collect::<Vec<_>>()
    };
    let expected = [(Some(8), Some(5)), (Some(100_000), Some(99_940))];
    eventually("it is settled", async || (left(&process).await == expected).then_some(())).await;
    // Killed only when it has written that nothing happens any more.
    let commits = async || {
        let page = process.page("/metrics").await.expect("it answers");
        let line = page.lines().find(|it| it.starts_with("tidegate_store_commits_total "));
        line.map(ToOwned::to_owned)
    };
    let mut seen = commits().await;
    eventually("no further commit", async || {
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
        let now = commits().await;
        (std::mem::replace(&mut seen, now.clone()) == now).then_some(())
    })
    .await;
    process.signal(Signal::KILL);
    process.end().await;
    let process = serve(&config, &keeping);
    assert_eq!(ask(&process).await, 200);
    let expected = [(Some(8), Some(4)), (Some(100_000), Some(99_920))];
    eventually("it goes on", async || (left(&process).await == expected).then_some(())).await;
}

#[tokio::test]
async fn what_would_change_is_told_before_it_is_done() {
    let directory = TempDir::new().expect("a directory");
    let file = |name: &str, changes: &str| {
        let path = directory.path().join(name);
        fs::write(&path, config_text("http://127.0.0.1:9", changes)).expect("room");
        path.to_str().expect("text").to_owned()
    };
    let runs = file("runs.toml", &limits(10));
    let process = serve(Path::new(&runs), &["--stateless"]);
    let live = file("live.toml", &limits(20));
    let fixed = file("fixed.toml", &format!("{}\nserver.max_connections = 5", limits(20)));
    let limit = "models.\"*\".limits.requests/day.limit: 10 -> 20\n";
    let connections = "server.max_connections: 10000 -> 5   (needs a restart)\n";
    let url = format!("http://{}", process.admin);
    for (file, code, said) in [
        (&runs, 0, "nothing would change\n".to_owned()),
        (&live, 0, format!("{limit}a running gateway takes all of it up\n")),
        (
            &fixed,
            3,
            format!(
                "{limit}{connections}1 of 2 need a restart: until then none of it is taken up\n"
            ),
        ),
    ] {
        for how in [["--running", &url], ["--against", &runs]] {
            let args = ["check", file, "--stateless", how[0], how[1]];
            let (seen, out, error) = run(&mut tidegate(&args));
            assert_eq!((seen, &out), (Some(code), &said), "{args:?}: {error}");
        }
    }
    let wrong = file("wrong.toml", "admission.max_wait = 1");
    assert_eq!(run(&mut tidegate(&["check", "--config", &wrong, "--running", &url])).0, Some(2));
    let free = std::net::TcpListener::bind(ANY).and_then(|it| it.local_addr()).expect("a port");
    let nobody = free.to_string();
    let args = ["check", &live, "--stateless", "--running", &nobody];
    assert_eq!(run(&mut tidegate(&args)).0, Some(1));
}
