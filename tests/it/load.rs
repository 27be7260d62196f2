//! `tidegate load` as people run it, against the simulated upstream and the gateway: what it reports
//! is compared with what they counted themselves.

mod agreement;
mod endings;

use std::process::Command;

use serde_json::Value;

use crate::support::process::{run, tidegate};

/// Runs it to its end: exit code, standard output, standard error.
async fn load(args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = command(args);
    // The simulator goes on meanwhile.
    tokio::task::spawn_blocking(move || run(&mut command)).await.expect("no panic")
}

/// The command, with nothing of this program's environment.
fn command(args: &[&str]) -> Command {
    let all: Vec<&str> = ["load", "--model", "m"].iter().chain(args).copied().collect();
    tidegate(&all)
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
