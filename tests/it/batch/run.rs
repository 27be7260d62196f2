//! `tidegate batch run`: files in, files out, whatever comes between.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate::simulator::quota::{Limit, Name, Unit};
use tidegate::simulator::{Options, Simulator};

use super::{Place, by_id, greetings, line};
use crate::support::process::{run, tidegate};
use crate::support::{ANY, config_text, eventually, hello, roomy, wait_for, with};

/// A folder with an input, a configuration and, in the end, an output.
struct Folder {
    dir: TempDir,
    simulator: Simulator,
}

const AMPLE: &str = "limits = [{ unit = \"requests\", limit = 1_000_000, per = \"1m\" }]";

impl Folder {
    async fn new(options: Options, profile: &str, input: &str) -> Self {
        let simulator = Simulator::start(options, ANY).await.expect("a free port");
        let dir = TempDir::new().expect("a directory");
        let text = config_text(&simulator.base_url(), &format!("[models.\"*\"]\n{profile}"));
        fs::write(dir.path().join("tidegate.toml"), text).expect("room");
        fs::write(dir.path().join("in.jsonl"), input).expect("room");
        Self { dir, simulator }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, more: &[&str]) -> std::process::Command {
        let mut command = tidegate(&["batch", "run", "in.jsonl", "-o", "out.jsonl"]);
        command.current_dir(self.dir.path()).args(more);
        command
    }

    fn own(&self) -> std::process::Command {
        self.command(&["--config", "tidegate.toml", "--state-dir", "state"])
    }

    /// Exit code, standard output and standard error of a command that runs to its end.
    async fn end(&self, mut command: std::process::Command) -> (Option<i32>, String, String) {
        tokio::task::spawn_blocking(move || run(&mut command)).await.expect("no panic")
    }

    fn lines(&self, name: &str) -> BTreeMap<String, Value> {
        by_id(&fs::read_to_string(self.path(name)).expect("it was written"))
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).expect("it is there");
        let name = |entry: fs::DirEntry| entry.file_name().into_string().expect("text");
        let mut names: Vec<_> = entries.map(|entry| name(entry.expect("an entry"))).collect();
        names.sort();
        names
    }
}

/// A command that runs; killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn start(mut command: std::process::Command) -> Self {
        Self(command.stderr(Stdio::null()).spawn().expect("it starts"))
    }

    async fn interrupt(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.0), Signal::INT).expect("it runs");
        let over = async || self.0.try_wait().expect("it is ours");
        eventually("its end", over).await.code()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_becomes_a_file_and_is_not_written_over() {
    let folder = Folder::new(roomy(), AMPLE, &greetings(120)).await;
    let (code, said, log) = folder.end(folder.own()).await;
    assert_eq!(code, Some(0), "{said}{log}");
    assert_eq!(
        said,
        "120 answered, 0 failed; tokens: 1200 prompt, 1200 completion\nanswers: out.jsonl\n"
    );
    let lines = folder.lines("out.jsonl");
    assert_eq!(lines.len(), 120);
    assert!(lines.values().all(|it| it["response"]["status_code"] == 200));
    assert_eq!(folder.names(), ["in.jsonl", "out.jsonl", "state", "tidegate.toml"]);
    let (code, _, log) = folder.end(folder.own()).await;
    assert_eq!(code, Some(2));
    assert!(log.contains("out.jsonl is there already"), "{log}");
    assert_eq!(folder.simulator.stats().completed, 120);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_is_in_a_file_of_its_own() {
    let odd = line("odd", &with(hello(), "model", "n"));
    let input = format!("{}{odd}\n", greetings(3));
    let options = Options { models: vec!["m".to_owned()], ..roomy() };
    let folder = Folder::new(options, AMPLE, &input).await;
    let (code, said, _) = folder.end(folder.own()).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("3 answered, 1 failed") && said.contains("out.errors.jsonl"), "{said}");
    let errors = folder.lines("out.errors.jsonl");
    assert_eq!(errors["odd"]["response"]["status_code"], 404);
    assert_eq!(folder.lines("out.jsonl").len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_the_input_is_said_line_by_line() {
    let input = format!("{}nonsense\n\n{}", greetings(1), greetings(1));
    let folder = Folder::new(roomy(), AMPLE, &input).await;
    let (code, _, log) = folder.end(folder.own()).await;
    assert_eq!(code, Some(2));
    assert!(log.contains("in.jsonl:2: ") && log.contains("in.jsonl:4: "), "{log}");
    assert!(log.contains("(duplicate_custom_id)") && log.contains("nothing was sent"), "{log}");
    assert_eq!(folder.names(), ["in.jsonl", "state", "tidegate.toml"]);
    assert_eq!(folder.simulator.stats().started, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interrupted_or_killed_it_goes_on_where_it_was() {
    // The first 200 go at once, the others at a hundred a second.
    let limits = vec![Limit::per(Unit::Requests, Name::Minute, 6_000)];
    let profile =
        "limits = [{ unit = \"requests\", limit = 200, per = \"2s\", name = \"minute\" }]";
    let options = Options { limits, ..roomy() };
    let folder = Folder::new(options, profile, &greetings(500)).await;
    let running = Running::start(folder.own());
    wait_for(&folder.simulator, |stats| stats.completed >= 220).await;
    assert_eq!(running.interrupt().await, Some(1));
    assert!(folder.path("out.jsonl.tidegate").is_dir() && !folder.path("out.jsonl").exists());
    assert_eq!(
        folder.simulator.stats().completed,
        folder.simulator.stats().started,
        "what was at the upstream was waited for"
    );
    let before = folder.simulator.stats().started;
    let running = Running::start(folder.own());
    wait_for(&folder.simulator, |stats| stats.completed >= before + 100).await;
    drop(running);
    // Another input is not this one's.
    let input = fs::read(folder.path("in.jsonl")).expect("text");
    fs::write(folder.path("in.jsonl"), greetings(4)).expect("room");
    let (code, _, log) = folder.end(folder.own()).await;
    assert_eq!(code, Some(2));
    assert!(log.contains("was begun with another input"), "{log}");
    fs::write(folder.path("in.jsonl"), input).expect("room");
    let (code, said, log) = folder.end(folder.own()).await;
    assert_eq!(code, Some(0), "{said}{log}");
    assert_eq!(folder.lines("out.jsonl").len(), 500);
    let stats = folder.simulator.stats();
    assert!(stats.started <= 500 + 40, "only what was on its way when it was killed: {stats:?}");
    assert_eq!(stats.rejected, 0, "the quota that was used is known after each start");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_gateway_does_the_work_and_nothing_is_left_there() {
    let limits = vec![Limit::per(Unit::Requests, Name::Hour, 4)];
    let own = "[models.\"*\"]\nlimits = [{ unit = \"requests\", limit = 4, per = \"1h\" }]";
    let place = Place::with(Options { limits, ..roomy() }, own).await;
    let folder = Folder::new(roomy(), AMPLE, &greetings(6)).await;
    let gateway = place.gateway.url("");
    let there = || folder.command(&["--gateway", &gateway, "--completion-window", "3s"]);
    let running = Running::start(there());
    wait_for(&place.simulator, |stats| stats.completed == 4).await;
    assert_eq!(running.interrupt().await, Some(1));
    let (code, said, log) = folder.end(there()).await;
    assert_eq!(code, Some(1), "two expired: {said}{log}");
    assert!(said.contains("4 answered, 2 failed"), "{said}");
    assert_eq!(folder.lines("out.jsonl").len(), 4);
    let errors = folder.lines("out.errors.jsonl");
    assert!(errors.values().all(|it| it["error"]["code"] == "batch_expired"), "{errors:?}");
    let list = super::good(place.get("/v1/files")).await;
    assert_eq!(list["data"], json!([]), "what was fetched is deleted");
    let (code, _, log) = folder.end(folder.command(&["--gateway", "http://127.0.0.1:1"])).await;
    assert_eq!(code, Some(2), "{log}");
    place.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_a_gateway_has_is_not_taken_from_it() {
    let folder = Folder::new(roomy(), AMPLE, &greetings(1)).await;
    let mut other = tidegate(&["serve", "--config", "tidegate.toml", "--state-dir", "state"]);
    other.current_dir(folder.dir.path());
    let gateway = crate::support::process::Process::start(other.stderr(Stdio::inherit()));
    let (code, _, log) = folder.end(folder.own()).await;
    assert_eq!(code, Some(2));
    assert!(log.contains("--gateway URL"), "{log}");
    let url = format!("http://{}/v1/", gateway.api);
    let missing = folder.command(&["--gateway", &url, "--api-key-env", "NO_SUCH"]);
    assert!(folder.end(missing).await.2.contains("NO_SUCH is not set"));
    let (code, said, log) = folder.end(folder.command(&["--gateway", &url])).await;
    assert_eq!(code, Some(0), "{said}{log}");
    assert_eq!(folder.lines("out.jsonl").len(), 1);
    assert!(Path::new(&folder.path("out.jsonl")).exists());
}
