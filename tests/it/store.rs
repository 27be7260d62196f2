//! State on disk, from outside: what survives, what is told of it, and what happens when it cannot be
//! kept.

mod kept;
mod trouble;
mod usage;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, prlimit};
use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};
use tidegate::config::Durability;
use tidegate::store::history::Keep;
use tidegate::store::local::{Local, Options, Saved};

use crate::support::process::{self, Process, alone, file, path};
use crate::support::wire::{Wire, chat};
use crate::support::{config_text, hello};

/// The program with what is not to be in its way: too large a file is an error, not a signal.
fn tidegate(args: &[&str]) -> Command {
    under("trap '' XFSZ", args)
}

/// The program after a line of shell, in whose process it runs.
fn under(line: &str, args: &[&str]) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &format!("{line}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_tidegate")]);
    alone(command.args(args));
    command
}

/// Exit code and standard error of a command that is to end by itself, before it is ready.
fn refused(command: &mut Command) -> (Option<i32>, String) {
    let (code, out, error) = process::run(command);
    assert_eq!(out, "", "it is not ready");
    (code, error)
}

fn config(upstream: &str, changes: &str) -> NamedTempFile {
    file(&config_text(upstream, changes))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

impl Process {
    /// `tidegate serve` with state in a directory.
    fn keeping(upstream: &str, dir: &Path) -> Self {
        let config = config(upstream, "");
        let args = ["serve", "--config", path(&config), "--state-dir", text(dir)];
        Self::start(&mut tidegate(&args))
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

    async fn usage(&self, query: &str) -> Value {
        let page = self.page(&format!("/usage?{query}")).await.expect("it answers");
        serde_json::from_str(&page).expect("JSON")
    }

    /// The requests of the last hour, if all of them are known.
    async fn requests(&self) -> u64 {
        let told = self.usage("by=total&since=1h").await;
        assert_eq!((&told["kept"], &told["complete"]), (&"disk".into(), &true.into()), "{told:#}");
        told["rows"][0]["requests"]["total"].as_u64().unwrap_or(0)
    }

    async fn wait_metric(&self, line: &str) {
        self.wait_page("/metrics", line).await;
    }
}

/// What is in a directory.
fn saved(dir: &TempDir) -> Saved {
    let day = Duration::from_secs(86_400);
    let keep = Keep { minutes: day, hours: day, days: day };
    let options = Options { sync: Durability::Normal, keep };
    Local::open(dir.path(), options).expect("it can be opened").1
}
