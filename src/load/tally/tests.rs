use super::*;
use proptest::prelude::*;

fn ok(prompt: u64, completion: u64) -> Observation {
    let usage = crate::usage::Usage { prompt, completion, total: prompt + completion, cached: 0 };
    Observation { status: Some(200), usage: Some(usage), ..Observation::default() }
}

fn refused(source: &'static str) -> Observation {
    let mut headers = http::HeaderMap::new();
    headers.insert("x-tidegate-source", http::HeaderValue::from_static(source));
    Observation { status: Some(429), headers, ..Observation::default() }
}

fn at(start: Instant, millis: u64) -> Instant {
    start + Duration::from_millis(millis)
}

fn sent(at: Instant) -> Sent {
    Sent { due: at, at, warm_up: false }
}

#[tokio::test(start_paused = true)]
async fn every_request_is_counted_once_and_under_its_own_name() {
    let start = Instant::now();
    let mut tally = Tally::default();
    tally.begin(start, start, None);
    let failed = |failure| Observation { failure: Some(failure), ..Observation::default() };
    let mut event = Observation { status: Some(200), ..failed(Failure::ErrorEvent) };
    event.event_status = Some(429);
    let all = [
        ok(10, 5),
        Observation { usage: None, ..ok(0, 0) },
        refused("gateway"),
        refused("upstream"),
        Observation { status: Some(429), ..Observation::default() },
        event,
        failed(Failure::Connect),
        failed(Failure::Timeout),
        Observation { status: Some(503), ..Observation::default() },
    ];
    for observed in &all {
        tally.sent(&sent(start));
        tally.ended(&sent(start), observed, at(start, 100));
    }
    tally.sent(&sent(start));
    assert_eq!(tally.in_flight(), 1);
    let counts = &tally.measured;
    assert_eq!((counts.sent, counts.ended, counts.ok, counts.without_usage), (10, 9, 2, 1));
    assert_eq!(counts.statuses, BTreeMap::from([(200, 3), (429, 3), (503, 1)]));
    let refusals =
        (counts.refused_by_gateway, counts.refused_by_upstream, counts.refused_in_stream);
    assert_eq!(refusals, (1, 2, 1), "who says nothing of its source is the upstream");
    let failures = Failure::ALL.map(|kind| counts.failed(kind));
    assert_eq!(failures, [1, 1, 0, 0, 1, 0]);
    assert_eq!((counts.prompt_tokens, counts.completion_tokens), (10, 5));
    assert_eq!((counts.latency.histogram().len(), counts.latency_of_all.histogram().len()), (2, 9));
}

/// Times are those from when a request was due; what it was late itself is told apart.
#[tokio::test(start_paused = true)]
async fn a_late_start_counts_as_time_waited() {
    let start = Instant::now();
    let mut tally = Tally::default();
    tally.begin(start, start, None);
    let sent = Sent { due: start, at: at(start, 3_000), warm_up: false };
    let first_token = Some(at(start, 3_040));
    tally.sent(&sent);
    tally.ended(&sent, &Observation { first_token, ..ok(1, 1) }, at(start, 3_100));
    let counts = &tally.measured;
    for (times, millis) in
        [(&counts.latency, 3_100), (&counts.first_token, 3_040), (&counts.behind, 3_000)]
    {
        let seen = times.histogram().max();
        assert!(seen.abs_diff(millis * 1_000) <= seen / 1_000, "{seen} for {millis}");
    }
}

proptest! {
    /// Workers that are always busy with requests of one length show the same rate however long
    /// they were watched, wherever the warm-up ended and whatever was under way at both ends.
    #[test]
    fn rates_do_not_depend_on_where_the_time_is_cut(
        workers in 1..20_u64, length in 1..5_000_u64, warm_up in 0..10_000_u64, over in 1..10_000_u64
    ) {
        let start = Instant::now();
        let mut tally = Tally::default();
        let to = at(start, warm_up + over);
        tally.begin(start, at(start, warm_up), Some(to));
        let mut from = start;
        while from < to {
            let sent = Sent { due: from, at: from, warm_up: from < at(start, warm_up) };
            for _ in 0..workers {
                tally.sent(&sent);
                tally.ended(&sent, &ok(0, 7), from + Duration::from_millis(length));
            }
            from += Duration::from_millis(length);
        }
        tally.finish(from, false);
        let (within, seconds) = (tally.measured.within, tally.measured.over.as_secs_f64());
        prop_assert_eq!(tally.measured.over, Duration::from_millis(over));
        let expected = workers as f64 * 1_000.0 / length as f64;
        prop_assert!((within.ended / seconds / expected - 1.0).abs() < 1e-6);
        prop_assert!((within.completion_tokens / seconds / expected / 7.0 - 1.0).abs() < 1e-6);
        prop_assert_eq!(tally.in_flight(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_ends_with_the_last_answer_or_as_told() {
    for (to, cut, exhausted, millis, why) in [
        (None, None, true, 500, "so many requests end with the last"),
        (Some(2_000), None, false, 2_000, "a time passes though nothing happens at its end"),
        (Some(2_000), None, true, 500, "whichever is first"),
        (Some(300), None, false, 300, "what comes later is waited for, not counted in full"),
        (Some(2_000), Some(400), false, 400, "stopped"),
        (None, Some(400), false, 400, "stopped before so many were sent"),
    ] {
        let start = Instant::now();
        let mut tally = Tally::default();
        tally.begin(start, start, to.map(|to| at(start, to)));
        tally.sent(&sent(start));
        if let Some(cut) = cut {
            tally.cut_short(at(start, cut));
        }
        tally.ended(&sent(start), &ok(1, 1), at(start, 500));
        tally.finish(at(start, 2_500), exhausted);
        assert_eq!(tally.measured.over, Duration::from_millis(millis), "{why}");
        let share = (millis as f64 / 500.0).min(1.0);
        assert!((tally.measured.within.ok - share).abs() < 1e-9, "{why}");
    }
}

#[test]
fn what_takes_longer_than_a_day_does_not_break_the_histogram() {
    let mut times = Times::new();
    times.record(Duration::from_secs(1_000_000));
    times.record(Duration::ZERO);
    assert_eq!(times.histogram().len(), 2);
}
