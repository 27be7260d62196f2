//! `tidegate load` as people run it, against the simulated upstream and the gateway: what it reports
//! is compared with what they counted themselves.

mod agreement;
mod endings;

use std::process::Output;

use serde_json::Value;
use tokio::process::Command;

use crate::support::process::tidegate;

/// Runs it to its end: exit code, standard output, standard error.
async fn load(args: &[&str]) -> (Option<i32>, String, String) {
    output(command(args)).await
}

/// The command, with nothing of this program's environment.
fn command(args: &[&str]) -> Command {
    let all: Vec<&str> = ["load", "--model", "m"].iter().chain(args).copied().collect();
    let mut command = Command::from(tidegate(&all));
    command.kill_on_drop(true);
    command
}

async fn output(mut command: Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().await.expect("it starts");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

/// Runs it to its end, which must be a good one, and returns its report.
async fn report(args: &[&str]) -> Value {
    let all: Vec<&str> = args.iter().chain(&["--json", "-"]).copied().collect();
    let (code, stdout, stderr) = load(&all).await;
    assert_eq!(code, Some(0), "{stderr}");
    serde_json::from_str(&stdout).expect("JSON and nothing else")
}

/// The figures of one target.
fn measured(report: &Value, target: usize) -> &Value {
    &report["targets"][target]["measured"]
}

fn number(value: &Value, path: &str) -> u64 {
    let found = value.pointer(path).and_then(Value::as_u64);
    assert!(found.is_some(), "{path} in {value:#}");
    found.unwrap_or_default()
}

fn float(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN)
}
