//! Every figure of the rate-limit note that the shipped limits come from (GLM 4.7 preview, February
//! 2026), and where the note and the arithmetic part.

use serde_json::Value;

use crate::support::process::{self, tidegate};

use super::json;

/// A figure: where it stands in the note, where in the answer, and what it is.
type Figure = (&'static str, &'static str, f64);

/// The note's job, in its own rounding of time: it says nothing of latency, and its two workers at
/// two requests a second take a second each.
const JOB: &[&str] = &["--input-tokens", "2000", "--output-tokens", "500", "--latency", "1s"];

fn with(more: &[&'static str]) -> Vec<&'static str> {
    JOB.iter().chain(more).copied().collect()
}

fn check(answer: &Value, figures: &[Figure]) {
    for (place, pointer, expected) in figures {
        let found = answer.pointer(pointer).and_then(Value::as_f64);
        // Decimals are given to three digits.
        let near = found.is_some_and(|found| (found - expected).abs() <= 0.000_5);
        assert!(near, "{place}: {pointer} is {found:?}, not {expected}");
    }
}

/// To whole numbers, as the note has them after "~".
fn about(answer: &Value, pointer: &str) -> f64 {
    answer.pointer(pointer).and_then(Value::as_f64).expect(pointer).round()
}

#[test]
fn the_tables_of_limits_and_jobs() {
    let answer = json(JOB);
    check(
        &answer,
        &[
            ("Request limits, per minute", "/limits/0/limit", 120.0),
            ("Request limits, per minute, average a second", "/limits/0/per_second", 2.0),
            ("Request limits, per hour", "/limits/1/limit", 7_200.0),
            ("Request limits, per hour, average a second", "/limits/1/per_second", 2.0),
            ("Request limits, per day", "/limits/2/limit", 172_800.0),
            ("Request limits, per day, average a second", "/limits/2/per_second", 2.0),
            ("Request limits, sustained rate", "/windows/0/per_second", 2.0),
            ("Token limits, per minute", "/limits/3/limit", 1_500_000.0),
            ("Token limits, per minute, per request", "/limits/3/tokens_per_request", 12_500.0),
            ("Token limits, per hour", "/limits/4/limit", 120_000_000.0),
            ("Token limits, per day", "/limits/5/limit", 120_000_000.0),
            ("Token limits, per day, per request", "/limits/5/tokens_per_request", 694.0),
            ("Token budgeting, input", "/job/input_tokens", 2_000.0),
            ("Token budgeting, output", "/job/output_tokens", 500.0),
            ("Token budgeting, total", "/job/tokens", 2_500.0),
            ("Jobs per window, minute, tokens a job", "/limits/3/per_job", 2_500.0),
            ("Jobs per window, minute, max", "/limits/3/max_jobs", 600.0),
            ("Jobs per window, minute, practical", "/limits/3/practical_jobs", 480.0),
            ("Jobs per window, hour, max", "/limits/4/max_jobs", 48_000.0),
            ("Jobs per window, hour, practical", "/limits/4/practical_jobs", 38_400.0),
            ("Jobs per window, day, max", "/limits/5/max_jobs", 48_000.0),
            ("Jobs per window, day, practical", "/limits/5/practical_jobs", 38_400.0),
            ("Key insight, jobs a day", "/sustained/max/jobs_per_day", 48_000.0),
            ("Practical limit, the margin", "/margin", 0.8),
        ],
    );
    let bound = answer.pointer("/sustained/bound_by");
    assert_eq!(bound, Some(&serde_json::json!(["tokens/day"])), "Key insight, the bottleneck");
}

#[test]
fn workers_alerts_and_capacity() {
    let answer = json(JOB);
    check(
        &answer,
        &[
            ("Worker pool, max workers", "/windows/0/workers", 2.0),
            ("Worker pool, seconds between requests", "/windows/0/gap_seconds", 0.5),
            ("Alerts, tokens a minute at 80 %", "/limits/3/keep_below", 1_200_000.0),
            ("Alerts, tokens an hour at 80 %", "/limits/4/keep_below", 96_000_000.0),
            ("Alerts, tokens a day at 80 %", "/limits/5/keep_below", 96_000_000.0),
            ("Daily capacity, by tokens", "/limits/5/max_jobs", 48_000.0),
            ("Daily capacity, by requests", "/limits/2/max_jobs", 172_800.0),
            ("In practice, jobs a day", "/sustained/practical/jobs_per_day", 38_400.0),
            ("In practice, jobs an hour", "/sustained/practical/jobs_per_hour", 1_600.0),
            ("Environment, the minute's budget", "/limits/3/keep_below", 1_200_000.0),
            ("Environment, the hour's budget", "/limits/4/limit", 120_000_000.0),
            ("Environment, the day's budget", "/limits/5/limit", 120_000_000.0),
        ],
    );
    let minute = about(&answer, "/sustained/practical/jobs_per_minute");
    assert!((minute - 27.0).abs() < f64::EPSILON, "In practice, ~27 jobs a minute: {minute}");
    let five_sixths = json(&with(&["--margin", "5/6"]));
    check(
        &five_sixths,
        &[
            ("Alerts, requests a minute at 83 %", "/limits/0/keep_below", 100.0),
            ("Alerts, requests an hour at 83 %", "/limits/1/keep_below", 6_000.0),
            ("Alerts, 83 %", "/margin", 0.833),
        ],
    );
    let half = json(&["--input-tokens", "2000", "--output-tokens", "500", "--latency", "500ms"]);
    check(&half, &[("Worker pool, 1 worker", "/windows/0/workers", 1.0)]);
}

#[test]
fn as_many_requests_as_there_are_need_small_ones() {
    let small = json(&["--input-tokens", "600", "--output-tokens", "94"]);
    let day = "Daily constraint, requests at lower token usage";
    check(&small, &[(day, "/sustained/max/jobs_per_day", 172_800.0)]);
    let larger = json(&["--input-tokens", "600", "--output-tokens", "95"]);
    let jobs = about(&larger, "/sustained/max/jobs_per_day");
    assert!(jobs < 172_800.0, "one token more is too much: {jobs}");
}

/// Where the note says one thing and its own numbers another. docs/PLAN.md has the same list.
#[test]
fn where_the_note_contradicts_itself() {
    let answer = json(JOB);
    check(
        &answer,
        &[
            (
                "~33,333 tokens a request are not sustainable at 2 a second",
                "/limits/4/tokens_per_request",
                16_666.0,
            ),
            ("48,000 jobs an hour: requests allow 7,200", "/windows/1/max_jobs", 7_200.0),
            ("38,400 jobs an hour in practice: 5,760", "/windows/1/practical_jobs", 5_760.0),
            ("600 jobs a minute: requests allow 120", "/windows/0/max_jobs", 120.0),
            ("480 jobs a minute in practice: 96", "/windows/0/practical_jobs", 96.0),
            ("38,400 an hour beside ~1,600 an hour", "/sustained/practical/jobs_per_hour", 1_600.0),
            ("~2 jobs a second, sustained: 0.556", "/sustained/max/jobs_per_second", 0.556),
            ("2 a second use a day up in 6 h 40 min", "/sustained/at_full_speed_seconds", 24_000.0),
            ("1,389 is tokens a second, not requests a day", "/limits/5/per_second", 1_388.889),
        ],
    );
    for (window, bound) in
        [("/windows/0/bound_by/0", "requests/minute"), ("/windows/1/bound_by/0", "requests/minute")]
    {
        let found = answer.pointer(window).and_then(Value::as_str);
        assert_eq!(
            found,
            Some(bound),
            "requests/minute and /hour bind, though the summary says no"
        );
    }
    let hour = json(&with(&["--limit", "requests=3600/1h", "--limit", "tokens=120_000_000/1h"]));
    check(
        &hour,
        &[("~33,333 is for one request a second", "/limits/1/tokens_per_request", 33_333.0)],
    );
    for (tokens, jobs) in [("86000", 1_395.0), ("86400", 1_388.0)] {
        let large = json(&["--input-tokens", tokens, "--output-tokens", "0"]);
        check(&large, &[("~1,389 requests a day at 86k", "/limits/5/max_jobs", jobs)]);
    }
}

/// The note's two workers, as settings of the gateway.
#[test]
fn two_workers_are_enough_only_for_answers_of_a_second() {
    for (concurrent, gap, latency, jobs, why) in [
        ("2", "0", "1s", 120.0, "two workers keep up with two a second"),
        ("2", "0", "10s", 12.0, "with answers of ten seconds they do a tenth of that"),
        ("20", "0", "10s", 120.0, "which takes twenty"),
        ("1", "0", "1s", 60.0, "one worker with a second between requests does one a second"),
        ("2", "0.5", "1s", 120.0, "a gap of half a second is two a second"),
        ("2", "1", "500ms", 60.0, "of a whole one, one"),
    ] {
        let args = ["plan", "--input-tokens", "2000", "--output-tokens", "500", "--json"];
        let mut command = tidegate(&args);
        command.args(["--latency", latency]);
        command.env("CEREBRAS_MAX_CONCURRENT", concurrent).env("CEREBRAS_RATE_LIMIT_DELAY", gap);
        let (code, out, err) = process::run(&mut command);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{why}");
        let answer: Value = serde_json::from_str(&out).expect("JSON");
        check(&answer, &[(why, "/windows/0/max_jobs", jobs)]);
    }
}

/// The variables that the note recommends set one limit to 80 % and the others to all.
#[test]
fn the_recommended_budgets_are_not_all_alike() {
    let mut command = tidegate(&["plan", "--json"]);
    command.args(JOB);
    for (name, value) in [("MINUTES", "1200000"), ("HOURS", "120000000"), ("DAYS", "120000000")] {
        command.env(format!("CEREBRAS_{name}_BUDGET"), value);
    }
    let (code, out, err) = process::run(&mut command);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let answer: Value = serde_json::from_str(&out).expect("JSON");
    check(
        &answer,
        &[
            ("1200000 # 1.5M: it is 1.2M", "/limits/3/limit", 1_200_000.0),
            ("80 % of it", "/limits/3/max_jobs", 480.0),
            ("the hour's is all of it", "/limits/4/max_jobs", 48_000.0),
            ("the day's is all of it", "/limits/5/max_jobs", 48_000.0),
            (
                "which a day of two a second has used up before it ends",
                "/sustained/at_full_speed_seconds",
                24_000.0,
            ),
        ],
    );
}
