//! `tidegate plan`, as it is run.

mod figures;
mod flags;
mod measured;
mod pages;

use serde_json::Value;

use crate::support::process::{self, tidegate};

/// Exit code, standard output and standard error of `tidegate plan`.
fn run(args: &[&str]) -> (Option<i32>, String, String) {
    process::run(tidegate(&["plan"]).args(args))
}

/// What it says without complaint.
fn text(args: &[&str]) -> String {
    let (code, out, err) = run(args);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{args:?}");
    out
}

/// The same, for programs.
fn json(args: &[&str]) -> Value {
    let args: Vec<_> = args.iter().copied().chain(["--json"]).collect();
    serde_json::from_str(&text(&args)).expect("JSON")
}
