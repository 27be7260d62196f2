//! Tenants' own limits: kept exactly, beside the account's, in nobody else's way.

use futures_util::future::join_all;
use serde_json::Value;
use tempfile::TempDir;
use tidegate::simulator::{Fault, Simulator};

use super::{ask, entry, with_entries};
use crate::support::wire::{Wire, chat};
use crate::support::{
    ANY, Gateway, config_text, header, hello, number, pair, refusal, roomy, send, wait_for, with,
};

/// A window so long that nothing comes back while a test runs.
fn a_day(unit: &str, limit: u32) -> String {
    format!("limits = [{{ unit = {unit:?}, limit = {limit}, per = \"1d\", mode = \"sliding\" }}]")
}

/// What a tenant has spent of its first limit, once nothing is held any more.
async fn spent(gateway: &Gateway, tenant: &str) -> i64 {
    let status = gateway.settled().await;
    let tenants = status["tenants"].as_array().expect("a list");
    let found = tenants.iter().find(|it| it["tenant"] == tenant).expect("it has limits");
    let level = &found["constraints"][0];
    let number = |key: &str| level[key].as_i64().expect("a number");
    number("limit") - number("available")
}

/// As many requests at once as are asked for; how many were answered and how many refused.
async fn at_once(gateway: &Gateway, key: &str, count: usize) -> (usize, usize) {
    let answers = join_all((0..count).map(|_| ask(gateway, key, "m"))).await;
    let good = answers.iter().filter(|(status, _)| *status == 200).count();
    let late = answers.iter().filter(|(_, code)| code == "wait_exceeded").count();
    (good, late)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_gets_what_it_may_use_and_not_one_more_while_others_go_on() {
    let entries = entry("few", &a_day("requests", 5)) + &entry("all", "");
    let (simulator, gateway) = pair(roomy(), &with_entries(&entries)).await;
    let ((few, refused), (all, none)) =
        tokio::join!(at_once(&gateway, "planted-few", 12), at_once(&gateway, "planted-all", 20));
    assert_eq!(((few, refused), (all, none)), ((5, 7), (20, 0)));
    assert_eq!(simulator.stats().completed, 25, "what was refused never went");
    assert_eq!(spent(&gateway, "few").await, 5);
    let answer = send(gateway.chat(&hello()).bearer_auth("planted-few")).await;
    assert_eq!(header(&answer, "x-tidegate-limited-by").as_deref(), Some("tenant:requests/day"));
    assert_eq!(
        (number(&answer, "x-tidegate-limit"), number(&answer, "x-tidegate-limit-used")),
        (5, 5)
    );
    assert_eq!(number(&answer, "retry-after"), 60, "it takes a day, and clients are told a minute");
    let error = refusal(answer, 429, "wait_exceeded").await;
    let message = error["message"].as_str().expect("text");
    assert!(
        message.starts_with("tenant:requests/day: limit 5, used 5 (of which 0 held)"),
        "{message}"
    );
    assert_eq!(gateway.spent().await.0, 25, "the account has paid for what went");
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_used_counts_and_not_what_was_held() {
    // Ten tokens of prompt and ten of answer each, of which more than a hundred are held meanwhile.
    let entries = entry("some", &a_day("tokens", 400));
    let (simulator, gateway) = pair(roomy(), &with_entries(&entries)).await;
    let mut good = 0;
    while ask(&gateway, "planted-some", "m").await.0 == 200 {
        good += 1;
        assert_eq!(spent(&gateway, "some").await, 20 * good, "the rest came back");
    }
    assert!((5..=20).contains(&good), "{good}");
    let used = simulator.report(Some(crate::support::ACCOUNT_KEY), "m").expect("it was asked");
    assert_eq!(i64::try_from(used.counters.admitted), Ok(good));
    assert_eq!(gateway.spent().await, (good, 20 * good), "as the account's");
    gateway.close().await;
}

#[tokio::test]
async fn who_waits_for_its_own_limit_is_in_nobodys_way() {
    let entries = entry("one", "max_concurrent = 1") + &entry("all", "");
    let (simulator, gateway) = pair(roomy(), &with_entries(&entries)).await;
    simulator.script([vec![Fault::Hang]]);
    let key = "authorization: Bearer planted-one\r\n";
    let first = Wire::open(gateway.api, chat(key, hello().to_string())).await;
    wait_for(&simulator, |stats| stats.in_flight == 1).await;
    let second = gateway.chat(&hello()).bearer_auth("planted-one");
    let second = tokio::spawn(send(second));
    gateway.wait_metric("tidegate_tenant_limits_queue_depth", 1.0).await;
    gateway.wait_metric("tidegate_tenant_queue_depth{tenant=\"one\"}", 1.0).await;
    gateway.wait_metric("tidegate_queue_depth ", 0.0).await;
    assert_eq!(ask(&gateway, "planted-all", "m").await.0, 200);
    let status = gateway.status().await;
    let one = &status["tenants"][0];
    assert_eq!((&one["tenant"], &one["limited_by"]), (&"one".into(), &"concurrency".into()));
    assert_eq!((&one["queued"], &one["in_flight"]), (&1.into(), &1.into()));
    assert_eq!(status["pools"].as_array().map(Vec::len), Some(1), "tenants are no models");
    drop(first);
    let second = second.await.expect("no panic");
    assert_eq!(second.status(), 200);
    assert_eq!(header(&second, "x-tidegate-limited-by").as_deref(), Some("tenant:concurrency"));
    second.bytes().await.expect("whole");
    gateway.close().await;
}

#[tokio::test]
async fn a_stream_that_waits_for_its_tenants_limit_says_so() {
    let entries = entry("one", "max_concurrent = 1");
    let beats = "admission.heartbeat_after = \"40ms\"\nadmission.heartbeat_every = \"40ms\"\n";
    let (simulator, gateway) = pair(roomy(), &with_entries(&format!("{beats}{entries}"))).await;
    simulator.script([vec![Fault::Hang]]);
    let key = "authorization: Bearer planted-one\r\n";
    let first = Wire::open(gateway.api, chat(key, hello().to_string())).await;
    wait_for(&simulator, |stats| stats.in_flight == 1).await;
    let stream = with(hello(), "stream", true).to_string();
    let mut second = Wire::open(gateway.api, chat(key, stream)).await;
    let head = second.head().await.expect("a head");
    assert_eq!(head.all("x-tidegate-limited-by"), ["tenant:concurrency"]);
    let comment = second.chunk().await.expect("a sign of life");
    let comment = String::from_utf8(comment).expect("text");
    assert!(comment.contains("waiting for tenant:concurrency"), "{comment}");
    drop(first);
    let mut text = Vec::new();
    loop {
        let piece = second.chunk().await.expect("a piece");
        if piece.is_empty() {
            break;
        }
        text.extend(piece);
    }
    assert!(String::from_utf8_lossy(&text).contains("[DONE]"), "the answer follows");
    gateway.close().await;
}

#[tokio::test]
async fn an_answer_is_paid_once_however_often_it_was_asked_for() {
    let entries = entry("a", &a_day("requests", 100));
    let (simulator, gateway) = pair(roomy(), &with_entries(&entries)).await;
    for (faults, status, paid) in [
        (&["status:500", "queue", "reset"][..], 200, 1),
        (&["status:400"], 400, 0),
        (&["blocked"], 403, 0),
        (&["status:404"], 404, 0),
        (&["cut"], 200, 1),
    ] {
        let before = spent_or_none(&gateway).await;
        simulator.script(faults.iter().map(|it| Fault::parse_all(it).expect("a fault")));
        let answer = send(gateway.chat(&hello()).bearer_auth("planted-a")).await;
        assert_eq!(answer.status(), status, "{faults:?}");
        // Where it was cut there is no whole.
        let _ = answer.bytes().await;
        assert_eq!(spent(&gateway, "a").await - before, paid, "{faults:?}");
    }
    gateway.close().await;
}

async fn spent_or_none(gateway: &Gateway) -> i64 {
    let status = gateway.settled().await;
    let any = status["tenants"].as_array().is_some_and(|tenants| !tenants.is_empty());
    if any { spent(gateway, "a").await } else { 0 }
}

#[tokio::test]
async fn an_upstream_that_only_refuses_costs_a_tenant_nothing() {
    let entries = entry("a", &a_day("requests", 10));
    let changes = format!("retry.max_attempts = 3\n{}", with_entries(&entries));
    let (simulator, gateway) = pair(roomy(), &changes).await;
    simulator.set_fault_rates(vec![(Fault::Queue(429), 1.0)]).expect("a share");
    assert_eq!(ask(&gateway, "planted-a", "m").await.0, 429);
    assert_eq!(spent(&gateway, "a").await, 0);
    simulator.set_fault_rates(vec![(Fault::Status(500), 1.0)]).expect("a share");
    assert_eq!(ask(&gateway, "planted-a", "m").await.0, 500);
    assert_eq!(spent(&gateway, "a").await, 1, "that may have been charged, once for the tenant");
    gateway.close().await;
}

#[tokio::test]
async fn whoever_hangs_up_leaves_nothing_behind_wherever_it_stood() {
    let entries = entry("a", &format!("{}\nmax_concurrent = 2", a_day("requests", 100)));
    let changes = format!("models.\"*\".max_concurrent = 1\n{}", with_entries(&entries));
    let (simulator, gateway) = pair(roomy(), &changes).await;
    simulator.script([vec![Fault::Hang]]);
    let key = "authorization: Bearer planted-a\r\n";
    let open = || Wire::open(gateway.api, chat(key, hello().to_string()));
    let at_upstream = open().await;
    wait_for(&simulator, |stats| stats.in_flight == 1).await;
    let in_line = open().await;
    gateway.wait_queued(1).await;
    let at_gate = open().await;
    gateway.wait_metric("tidegate_tenant_limits_queue_depth", 1.0).await;
    drop(at_gate);
    gateway.wait_metric("tidegate_tenant_limits_queue_depth", 0.0).await;
    drop(in_line);
    gateway.wait_queued(0).await;
    drop(at_upstream);
    assert_eq!(spent(&gateway, "a").await, 1, "what was at the upstream was sent");
    assert_eq!(ask(&gateway, "planted-a", "m").await.0, 200);
    assert_eq!(spent(&gateway, "a").await, 2);
    gateway.close().await;
}

#[tokio::test]
async fn what_never_fits_is_said_by_the_tenants_own_number() {
    let entries = entry("a", &a_day("tokens", 15));
    let (simulator, gateway) = pair(roomy(), &with_entries(&entries)).await;
    let long = with(hello(), "max_completion_tokens", 500);
    let answer = send(gateway.chat(&long).bearer_auth("planted-a")).await;
    assert_eq!(header(&answer, "x-tidegate-limited-by").as_deref(), Some("tenant:tokens/day"));
    let error = refusal(answer, 413, "above_limit").await;
    let message = error["message"].as_str().expect("text");
    assert!(message.contains("tenant:tokens/day never allows more than 15"), "{message}");
    assert_eq!(simulator.stats().started, 0);
    gateway.close().await;
}

/// A gateway with state in `dir` and a tenant whose key is `key`.
async fn with_state(simulator: &Simulator, dir: &TempDir, key: &str) -> Gateway {
    let entry =
        entry(key, &a_day("requests", 5)).replace(&format!("name = {key:?}"), "name = \"team\"");
    let state = format!("state.dir = {:?}\n", dir.path().join("state").display().to_string());
    let changes = format!("{state}{}", with_entries(&entry));
    Gateway::start_text(&config_text(&simulator.base_url(), &changes))
}

#[tokio::test]
async fn a_budget_outlives_the_process_and_the_key() {
    let simulator = Simulator::start(roomy(), ANY).await.expect("a free port");
    let dir = TempDir::new().expect("a directory");
    let before = with_state(&simulator, &dir, "old").await;
    assert_eq!(at_once(&before, "planted-old", 3).await, (3, 0));
    before.close().await;
    let after = with_state(&simulator, &dir, "new").await;
    assert_eq!(ask(&after, "planted-old", "m").await.1, "wrong_api_key");
    assert_eq!(at_once(&after, "planted-new", 4).await, (2, 2));
    assert_eq!(spent(&after, "team").await, 5);
    after.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_many_tenants_and_the_accounts_are_kept_at_once() {
    let entries: String =
        (0..6).map(|number| entry(&format!("t{number}"), &a_day("requests", 7))).collect();
    let account = "[[models.\"*\".limits]]\nunit = \"requests\"\nlimit = 30\nper = \"1d\"\n\
                   mode = \"sliding\"\nlearn = \"never\"\n";
    let (simulator, gateway) = pair(roomy(), &with_entries(&format!("{account}{entries}"))).await;
    let keys: Vec<_> = (0..6).map(|number| format!("planted-t{number}")).collect();
    let all = join_all(keys.iter().map(|key| at_once(&gateway, key, 10))).await;
    assert!(all.iter().all(|(good, _)| *good <= 7), "{all:?}");
    assert_eq!(all.iter().map(|(good, _)| good).sum::<usize>(), 30, "{all:?}");
    assert_eq!(all.iter().map(|(_, late)| late).sum::<usize>(), 30, "{all:?}");
    assert_eq!(simulator.stats().completed, 30);
    let status = gateway.settled().await;
    let left = |it: &Value| it["constraints"][0]["available"].as_i64();
    let tenants = status["tenants"].as_array().expect("a list");
    let spent: i64 = tenants.iter().filter_map(left).map(|left| 7 - left).sum();
    assert_eq!(spent, 30, "what the account refused came back to its tenants");
    gateway.close().await;
}
