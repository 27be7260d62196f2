//! State on disk, from outside: what survives, what is told of it, and what happens when it cannot be
//! kept.

mod kept;
mod trouble;
mod usage;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};
use tidegate::config::Durability;
use tidegate::store::history::Keep;
use tidegate::store::local::{Local, Options, Saved};
use tokio::time::Instant;

use crate::support::wire::{Wire, chat};
use crate::support::{PATIENCE, client, config_text, eventually, hello};

/// The program with what is not to be in its way: too large a file is an error, not a signal.
fn tidegate(args: &[&str]) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_tidegate")]);
    command.args(args).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Exit code and standard error of a command that is to end by itself, before it is ready.
fn refused(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = command.output().expect("it starts");
    assert_eq!(String::from_utf8_lossy(&stdout), "", "it is not ready");
    (status.code(), String::from_utf8(stderr).expect("text"))
}

fn config(upstream: &str, changes: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(config_text(upstream, changes).as_bytes()).expect("room");
    file
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// A running program with state in a directory; killed when dropped.
struct Process {
    child: Child,
    api: SocketAddr,
    admin: SocketAddr,
    _config: NamedTempFile,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    fn serve(upstream: &str, dir: &Path) -> Self {
        let config = config(upstream, "");
        let args = ["serve", "--config", text(config.path()), "--state-dir", text(dir)];
        Self::ready(tidegate(&args), config)
    }

    /// Once it says that it is ready.
    fn ready(mut command: Command, config: NamedTempFile) -> Self {
        let mut child = command.spawn().expect("it starts");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let mut addrs = line.split("http://").skip(1).filter_map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':')?;
            rest[..end].parse().ok()
        });
        assert!(line.starts_with("tidegate ready: http://127.0.0.1:"), "{line:?}");
        let api = addrs.next().expect("the API's address");
        let admin = addrs.last().expect("the admin port's address");
        Self { child, api, admin, _config: config }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// From now on no file may be written beyond so many bytes.
    fn limit_files(&self, bytes: Option<u64>) {
        let limit = Rlimit { current: bytes, maximum: None };
        prlimit(Some(self.pid()), Resource::Fsize, limit).expect("it is ours");
    }

    /// Sends requests one after the other; all are answered.
    async fn complete(&self, count: usize) {
        let mut wire = Wire::connect(self.api).await;
        for _ in 0..count {
            wire.send(chat("", hello().to_string())).await;
            assert_eq!(wire.answer().await.status, 200);
        }
    }

    async fn page(&self, path: &str) -> String {
        let response = client().get(format!("http://{}{path}", self.admin)).send().await;
        response.expect("it answers").text().await.expect("text")
    }

    async fn usage(&self, query: &str) -> Value {
        serde_json::from_str(&self.page(&format!("/usage?{query}")).await).expect("JSON")
    }

    /// The requests of the last hour, if all of them are known.
    async fn requests(&self) -> u64 {
        let told = self.usage("by=total&since=1h").await;
        assert_eq!((&told["kept"], &told["complete"]), (&"disk".into(), &true.into()), "{told:#}");
        told["rows"][0]["requests"]["total"].as_u64().unwrap_or(0)
    }

    async fn wait_metric(&self, line: &str) {
        let seen = async || self.page("/metrics").await.contains(line).then_some(());
        eventually(line, seen).await;
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it runs");
    }

    /// Its exit code and what it wrote to standard error, once it has ended.
    async fn end(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is ours") {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let mut text = String::new();
        self.child.stderr.take().expect("it is piped").read_to_string(&mut text).expect("text");
        (status.code(), text)
    }
}

/// What is in a directory.
fn saved(dir: &TempDir) -> Saved {
    let day = Duration::from_secs(86_400);
    let keep = Keep { minutes: day, hours: day, days: day };
    let options = Options { sync: Durability::Normal, keep };
    Local::open(dir.path(), options).expect("it can be opened").1
}
