//! What is asked in the wrong way, and what is asked in several ways.

use serde_json::Value;

use super::{json, run, text};
use crate::support::process::{file, path};

const JOB: [&str; 6] = ["--input-tokens", "2000", "--output-tokens", "500", "--latency", "10s"];

/// What is printed to standard error with exit code 2.
fn misused(args: &[&str]) -> String {
    let (code, out, err) = run(args);
    assert_eq!((code, out.as_str()), (Some(2), ""), "{args:?}: {err}");
    err
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let told = misused(&[
        "--input-tokens",
        "many",
        "--output-tokens",
        "99999999999",
        "--latency",
        "10",
        "--margin",
        "1.5",
        "--jobs",
        "0",
        "--price-input",
        "1.2.3",
        "--rate",
        "2",
        "--limit",
        "tokens=5",
        "--limit",
        "words=5/1m",
        "--limit",
        "tokens=0/1m",
        "--limit",
        "tokens=5/1m:loose",
        "--limit",
        "tokens=5/1m",
        "--limit",
        "tokens=6/1m",
        "--model",
        "glm",
    ]);
    for part in [
        "--input-tokens: a whole number of tokens",
        "got \"many\"",
        "--output-tokens: a whole number of tokens, at most 1000000000, is expected, got \"99999999999\"",
        "--latency: a time above zero with its unit",
        "--margin: a part of the whole is expected",
        "--jobs: a number of jobs above zero is expected, got \"0\"",
        "--price-input: a price with at most six digits",
        "--price-output: is missing beside --price-input",
        "--rate: says how to rehearse: give --simulate",
        "--limit: UNIT=N/TIME[:MODE] is expected",
        "--limit: the unit must be requests, tokens or uncached_tokens",
        "--limit: a limit must be between 1 and 2^53",
        "--limit: the mode must be bucket, fixed or sliding",
        "--limit: tokens/minute is limited twice",
    ] {
        assert!(told.contains(part), "{part:?} is missing in\n{told}");
    }
}

#[test]
fn each_way_to_ask_wrongly_has_its_own_words() {
    let broken = file("[server]\nlisten = 7\n");
    let named = file(
        "upstream.base_url = \"http://127.0.0.1:1\"\n[models.glm]\noutput_reservation = { default = 1 }\nlimits = [{ unit = \
                      \"tokens\", limit = 9, per = \"1m\" }]\n",
    );
    for (args, part) in [
        (&[][..], "--input-tokens: is missing"),
        (&[], "--output-tokens: is missing"),
        (&["--input-tokens", "1"], "--output-tokens: is missing"),
        (&["--input-tokens", "0", "--output-tokens", "0"], "at least one token"),
        (&["--profile", "x", "--input-tokens", "1"], "measured by --profile, or given"),
        (&["--input-tokens", "1", "--output-tokens", "1", "--simulate"], "give --latency"),
        (&["--config", path(&broken), "--margin", "2"], "server.listen (line 2)"),
        (&["--config", path(&broken), "--margin", "2"], "--margin: a part of the whole"),
        (&["--config", path(&named), "--model", "x"], "--model: \"x\" has no profile"),
        (&["--config", "/nowhere/at/all"], "/nowhere/at/all"),
        (&["--bogus"], "unexpected argument"),
    ] {
        let told = misused(args);
        assert!(told.contains(part), "{args:?}: {part:?} is missing in\n{told}");
    }
    let mut many = JOB.to_vec();
    many.extend(["--simulate", "--jobs", "1000001"]);
    assert!(misused(&many).contains("too many to rehearse"));
    let mut fast = JOB.to_vec();
    fast.extend(["--simulate", "--rate", "1000"]);
    assert!(misused(&fast).contains("86400000 jobs are too many to rehearse"));
}

#[test]
fn what_cannot_be_read_or_written_is_a_failure() {
    let empty = file("\n\n");
    let wrong = file("nothing\n");
    let mut nowhere = JOB.to_vec();
    nowhere.extend(["--svg", "/nowhere/at/all.svg"]);
    for (args, part) in [
        (&["--profile", "/nowhere/at/all"][..], "/nowhere/at/all: No such file"),
        (&["--profile", path(&empty)], "no line tells what a job uses"),
        (&["--profile", path(&wrong)], ":1: is not one whole JSON object"),
        (&["--profile", "/"], "Is a directory"),
        (&nowhere, "/nowhere/at/all.svg: No such file"),
    ] {
        let (code, out, err) = run(args);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{args:?}: {err}");
        assert!(err.contains(part), "{args:?}: {part:?} is missing in\n{err}");
    }
}

#[test]
fn a_job_above_a_limit_is_told_plainly() {
    let args = [
        "--input-tokens",
        "2000",
        "--output-tokens",
        "500",
        "--limit",
        "tokens=2499/1m",
        "--jobs",
        "3",
    ];
    let told = text(&args);
    for part in ["a job is above tokens/minute (2,499): none can ever be sent", "never"] {
        assert!(told.contains(part), "{part:?} is missing in\n{told}");
    }
    let answer = json(&args);
    assert_eq!(answer["sustained"]["max"]["jobs_per_day"], 0);
    assert_eq!(answer["finish"]["max"]["bucket_seconds"], Value::Null);
}

#[test]
fn limits_times_and_costs_are_those_asked_for() {
    let mut args = JOB.to_vec();
    args.extend([
        "--limit",
        "requests=60/1m:fixed",
        "--limit",
        "tokens=100_000/1m:sliding",
        "--margin",
        "50%",
        "--jobs",
        "100",
        "--price-input",
        "0.60",
        "--price-output",
        "2.20",
    ]);
    let answer = json(&args);
    for (pointer, expected) in [
        ("/limits/0/mode", Value::from("fixed")),
        ("/limits/1/mode", "sliding".into()),
        ("/limits/1/max_jobs", 40.into()),
        ("/limits/1/practical_jobs", 20.into()),
        // 40 a minute: the hundredth in the third.
        ("/finish/max/fixed_seconds", 120.0.into()),
        ("/finish/max/bucket_seconds", 90.0.into()),
        ("/finish/practical/fixed_seconds", 240.0.into()),
        ("/finish/practical/bucket_seconds", 240.0.into()),
        ("/finish/practical_paced_seconds", 297.0.into()),
        ("/sustained/max/in_flight", 6.667.into()),
        ("/sustained/max/workers", 7.into()),
        ("/cost/per_job", 0.0023.into()),
        ("/cost/per_1000_jobs", 2.3.into()),
        ("/cost/jobs", 0.23.into()),
        ("/sustained/practical/cost_per_day", 66.24.into()),
    ] {
        assert_eq!(answer.pointer(pointer), Some(&expected), "{pointer} in\n{answer:#}");
    }
}

#[test]
fn a_rehearsal_is_the_same_again_and_agrees_with_the_plan() {
    let mut args = JOB.to_vec();
    args.extend(["--simulate", "--jobs", "1000", "--seed", "5"]);
    let (first, again) = (json(&args), json(&args));
    assert_eq!(first, again);
    let run = &first["simulation"]["run"];
    assert_eq!(
        (&run["came"], &run["started"], &run["waiting"]),
        (&1_000.into(), &1_000.into(), &0.into())
    );
    assert_eq!(run["overdrawn"], 0);
    // The last starts when the plan says, but for the time of the first answers: until their heads
    // are seen, the ledger takes nothing as come back.
    assert_eq!(first["finish"]["max"]["bucket_seconds"], 440.0);
    assert_eq!(run["wait"]["max_ms"], 450_000);
    let doubled = first["simulation"]["doubled"].as_array().expect("a list");
    assert_eq!(doubled.len(), 6);
    let (minute, day) = (&doubled[0], &doubled[5]);
    assert_eq!(
        (&minute["limit"], &day["limit"]),
        (&"requests/minute".into(), &"tokens/day".into())
    );
    assert_eq!(day["more_jobs_per_day"], 48_000);
    assert_eq!(minute["more_jobs_per_day"], 0);
    let wait = |run: &Value| run["wait_p95_ms"].as_u64().expect("a number");
    assert!(
        wait(minute) * 2 < wait(day) + 1_000,
        "a thousand at once wait for requests, not tokens"
    );
    let mut random = JOB.to_vec();
    random.extend(["--simulate", "--rate", "1.9", "--for", "6h"]);
    let told = text(&random);
    assert!(told.contains("(--seed 1)"), "{told}");
    let found = "an independent count of every window found room for every one";
    assert!(told.contains(found), "{told}");
    let first = json(&random);
    random.extend(["--seed", "2"]);
    assert_ne!(first["simulation"], json(&random)["simulation"]);
}
