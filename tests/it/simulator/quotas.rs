//! Refusals by each limit, and what settling gives back.

use super::*;

use tidegate::simulator::AcceptedKey;

#[tokio::test]
async fn each_limit_refuses_in_its_own_words() {
    for name in [Name::Second, Name::Minute, Name::Hour, Name::Day] {
        let word = name.as_str();
        for (unit, most, kind, code, message) in [
            (
                Unit::Requests,
                1,
                "too_many_requests_error",
                "request_quota_exceeded",
                format!("Requests per {word} limit exceeded - too many requests sent."),
            ),
            (
                Unit::Tokens,
                115,
                "too_many_tokens_error",
                "token_quota_exceeded",
                format!("Tokens per {word} limit exceeded - too many tokens processed."),
            ),
        ] {
            // A day long whatever its name, so that nothing comes back while the test runs.
            let window_ns = Name::Day.nominal_ns();
            let limits = vec![Limit { unit, name, limit: most, window_ns }];
            let options = Options { limits, retry_after: true, ..options() };
            let (simulator, client) = start(options).await;
            assert_eq!(send(chat(&client, &simulator, &hello())).await.status(), 200);
            let refused = send(chat(&client, &simulator, &hello())).await;
            assert_eq!(refused.status(), 429);
            let retry_after = header(&refused, "retry-after").expect("it was asked for");
            let seconds: u64 = retry_after.parse().expect("whole seconds");
            assert!((86_300..=86_390).contains(&seconds), "to the window's end: {seconds}");
            let error = json!({"message": message, "type": kind, "param": "quota", "code": code});
            assert_eq!(value(refused).await, error);
            let report = simulator.report(None, "m").expect("it was asked");
            assert_eq!((report.counters.admitted, report.levels[0].rejected), (1, 1));
            let stats = simulator.stats();
            assert_eq!((stats.completed, stats.rejected, stats.in_flight), (1, 1, 0));
        }
    }
}

#[tokio::test]
async fn too_many_at_once_is_not_the_quotas_fault() {
    let (simulator, client) = start(Options { max_in_flight: Some(1), ..options() }).await;
    let held = chat(&client, &simulator, &hello()).header("x-sim-fault", "hang");
    let held = tokio::spawn(held.send());
    wait_for(&simulator, |stats| stats.in_flight == 1).await;
    let refused = send(chat(&client, &simulator, &hello())).await;
    assert_eq!(refused.status(), 429);
    assert!(header(&refused, "retry-after").is_none());
    assert_eq!(value(refused).await["code"], "queue_exceeded");
    held.abort();
    wait_for(&simulator, |stats| stats.in_flight == 0).await;
    assert_eq!(send(chat(&client, &simulator, &hello())).await.status(), 200);
}

/// Tokens left of the minute as the next answer's header shows them, its own 110 added back.
async fn left(client: &Client, simulator: &Simulator) -> u64 {
    let response = send(chat(client, simulator, &hello())).await;
    let left = header(&response, "x-ratelimit-remaining-tokens-minute").expect("six headers");
    response.bytes().await.expect("the whole body");
    left.parse::<u64>().expect("an integer") + 110
}

#[tokio::test]
async fn an_answer_read_to_its_end_is_settled() {
    let (simulator, client) = start(options()).await;
    assert_eq!(left(&client, &simulator).await, 100_000);
    assert_eq!(left(&client, &simulator).await, 100_000 - 20, "used, not reserved");
    let stream = chat(&client, &simulator, &with(hello(), "stream", true));
    send(stream).await.bytes().await.expect("the whole stream");
    assert_eq!(left(&client, &simulator).await, 100_000 - 60);
    let above = chat(&client, &simulator, &hello()).header("x-sim-output-tokens", "500");
    assert_eq!(value(send(above).await).await["usage"]["total_tokens"], 510);
    assert_eq!(left(&client, &simulator).await, 100_000 - 80 - 510, "more than was reserved");
    let report = simulator.report(None, "m").expect("it was asked");
    assert_eq!((report.counters.tokens_used, report.counters.tokens_held), (610, 0));
    assert_eq!(report.counters.tokens_reserved, 6 * 110);
}

#[tokio::test]
async fn a_late_refund_is_seen_when_it_comes() {
    let refund_delay = Duration::from_millis(300);
    let (simulator, client) = start(Options { refund_delay, ..options() }).await;
    let began = simulator.now_ns();
    send(chat(&client, &simulator, &hello())).await.bytes().await.expect("the whole body");
    let held = simulator.report(None, "m").expect("it was asked");
    // Told with the time it was seen at, so that a slow machine proves nothing wrong.
    if held.now_ns - began < 300_000_000 {
        assert_eq!((held.counters.tokens_held, simulator.stats().settling), (110, 1));
    }
    wait_for(&simulator, |stats| stats.settling == 0).await;
    let settled = simulator.report(None, "m").expect("it was asked");
    assert!(settled.now_ns - began >= 300_000_000, "not before its time");
    assert_eq!((settled.counters.tokens_used, settled.counters.tokens_held), (20, 0));
}

#[tokio::test]
async fn a_client_that_goes_away_pays_as_the_options_say() {
    for (refund_on_abort, paid) in [(false, 110), (true, 10)] {
        let (simulator, client) = start(Options { refund_on_abort, ..options() }).await;
        // The first token takes longer than the test: the client leaves before it.
        let slow = chat(&client, &simulator, &hello()).header("x-sim-latency-ms", "60000");
        let slow = tokio::spawn(slow.send());
        wait_for(&simulator, |stats| stats.in_flight == 1).await;
        slow.abort();
        wait_for(&simulator, |stats| stats.aborted == 1).await;
        let counters = simulator.report(None, "m").expect("it was asked").counters;
        assert_eq!((counters.tokens_used, counters.tokens_held), (paid, 0));
        assert_eq!(left(&client, &simulator).await, 100_000 - paid);
    }
}

#[tokio::test]
async fn foreign_use_draws_on_the_same_pool() {
    let (simulator, client) = start(options()).await;
    simulator.spend(None, "m", 99_800).expect("it fits");
    assert_eq!(left(&client, &simulator).await, 200);
    assert!(simulator.spend(None, "m", 200).is_err());
    simulator.spend(None, "other", 200).expect("another model's pool is full");
}

#[tokio::test]
async fn a_time_scale_shortens_windows_and_resets_alike() {
    let fast = Options { time_scale: 20.0, semantics: Semantics::TokenBucket, ..options() };
    let (simulator, client) = start(fast).await;
    let response = send(chat(&client, &simulator, &hello())).await;
    let reset =
        |name| header(&response, name).expect("six headers").parse::<f64>().expect("a float");
    assert!((0.0..=3.0).contains(&reset("x-ratelimit-reset-tokens-minute")));
    assert!((3_600.0..=4_320.0).contains(&reset("x-ratelimit-reset-requests-day")));
    let report = simulator.report(None, "m").expect("it was asked");
    let windows: Vec<_> = report.levels.iter().map(|level| level.limit.window_ns).collect();
    assert_eq!(windows, [4_320_000_000_000, 3_000_000_000]);
}

#[tokio::test]
async fn reports_compare_use_with_what_was_possible() {
    let limits = vec![Limit::per(Unit::Tokens, Name::Day, 1_000)];
    let keys: Vec<AcceptedKey> = vec!["a".into()];
    let (simulator, client) = start(Options { limits, keys, ..options() }).await;
    for _ in 0..5 {
        let response = send(chat(&client, &simulator, &hello()).bearer_auth("a")).await;
        assert_eq!(response.status(), 200);
    }
    let report = simulator.report(Some("a"), "m").expect("it was asked");
    assert_eq!((report.possible_tokens, report.possible_requests), (Some(1_000), None));
    assert!((report.utilisation() - 0.1).abs() < 1e-9, "5 x 20 of 1,000");
    assert!(simulator.report(Some("b"), "m").is_none());
}
