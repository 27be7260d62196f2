//! Another configuration for a gateway that serves: whole or not at all, and nobody who is served, or
//! waits, notices more of it than what it says.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tidegate::config::{Origin, Overrides};
use tidegate::server::{Reloaded, Reloader};
use tidegate::simulator::quota::{Limit, Name, Unit};
use tidegate::simulator::{Latency, Options, OutputModel, Reservation, Simulator};

use crate::support::wire::{Wire, chat};
use crate::support::{
    ACCOUNT_KEY, ANY, Gateway, config_text, hello, refusal, roomy, send, wait_for, with,
};

/// A gateway whose configuration lies in a file.
struct Filed {
    gateway: Gateway,
    reloader: Reloader,
    upstream: String,
    path: PathBuf,
    _directory: TempDir,
}

impl Filed {
    fn start(upstream: &str, changes: &str) -> Self {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("tidegate.toml");
        fs::write(&path, config_text(upstream, changes)).expect("room");
        let environment = [("ACCOUNT_KEY".to_owned(), ACCOUNT_KEY.to_owned())];
        let origin = Origin::new(Some(&path), environment, Overrides::default());
        let (gateway, reloader) = Gateway::start_from(origin);
        Self { gateway, reloader, upstream: upstream.to_owned(), path, _directory: directory }
    }

    /// Goes on with other changes over the tests' own values.
    async fn reload(&self, changes: &str) -> Reloaded {
        self.reload_text(&config_text(&self.upstream, changes)).await
    }

    async fn reload_text(&self, text: &str) -> Reloaded {
        fs::write(&self.path, text).expect("room");
        self.reloader.reload().await
    }

    /// [`Self::reload`], which is taken up; returns the paths of what changed.
    async fn apply(&self, changes: &str) -> Vec<String> {
        match self.reload(changes).await {
            Reloaded::Applied(changed) => changed.into_iter().map(|it| it.path).collect(),
            other => {
                assert_eq!(other, Reloaded::Unchanged, "not taken up");
                Vec::new()
            }
        }
    }

    async fn reloads(&self, result: &str) -> f64 {
        let name = format!("tidegate_config_reloads_total{{result=\"{result}\"}}");
        self.gateway.metric(&name).await
    }
}

/// So many requests and tokens, of which nothing comes back while a test runs; but requests that have to
/// wait may hope.
fn limits(requests: u64, tokens: u64) -> String {
    format!(
        "models.\"*\".limits = [\
         {{ unit = \"requests\", limit = {requests}, per = \"5m\", name = \"day\", mode = \"sliding\", learn = \"never\" }}, \
         {{ unit = \"tokens\", limit = {tokens}, per = \"1d\", name = \"minute\", mode = \"sliding\", learn = \"never\" }} ]"
    )
}

fn key(name: &str) -> String {
    let key = format!("tg-planted-{name}");
    let hash: String = Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{{ name = \"{name}\", hash = \"sha256:{hash}\" }}")
}

fn keys(names: &[&str]) -> String {
    let keys: Vec<_> = names.iter().map(|name| key(name)).collect();
    format!("upstream.api_key = \"env:ACCOUNT_KEY\"\nkeys = [ {} ]", keys.join(", "))
}

#[tokio::test]
async fn those_who_wait_go_at_once_when_a_limit_is_raised() {
    let simulator = Simulator::start(roomy(), ANY).await.expect("a free port");
    let filed = Filed::start(&simulator.base_url(), &limits(1, 100_000));
    let gateway = &filed.gateway;
    assert_eq!(send(gateway.chat(&hello())).await.status(), 200);
    let waiting = futures_util::stream::iter(0..4)
        .map(|_| async { send(gateway.chat(&hello())).await.status().as_u16() })
        .buffer_unordered(4)
        .collect::<Vec<_>>();
    let raise = async {
        gateway.wait_queued(4).await;
        // Two of the four may go: the others keep their places.
        let changed = filed.apply(&limits(3, 100_000)).await;
        assert_eq!(changed, ["models.\"*\".limits.requests/day.limit"]);
        gateway.wait_queued(2).await;
        wait_for(&simulator, |stats| stats.completed == 3).await;
        filed.apply(&limits(1_000, 100_000)).await;
    };
    let (answers, ()) = tokio::join!(waiting, raise);
    assert_eq!(answers, [200; 4], "nobody was refused");
    assert_eq!(gateway.spent().await.0, 5, "what was spent stays spent");
    assert!((filed.reloads("applied").await - 2.0).abs() < 0.5);
    // Lowered below what was spent, it is in debt.
    filed.apply(&limits(2, 100_000)).await;
    let level = &gateway.status().await["pools"][0]["constraints"][0];
    assert_eq!((level["limit"].as_i64(), level["available"].as_i64()), (Some(2), Some(-3)));
    let request = gateway.chat(&hello()).header("x-tidegate-max-wait", "1ms");
    refusal(send(request).await, 429, "wait_exceeded").await;
    filed.gateway.close().await;
}

#[tokio::test]
async fn a_limit_that_comes_knows_what_was_used_and_one_that_goes_does_not_bind() {
    let simulator = Simulator::start(roomy(), ANY).await.expect("a free port");
    let filed = Filed::start(&simulator.base_url(), &limits(100, 100_000));
    let gateway = &filed.gateway;
    for _ in 0..2 {
        assert_eq!(send(gateway.chat(&hello())).await.status(), 200);
    }
    assert_eq!(gateway.spent().await, (2, 40));
    let more = "models.\"*\".limits = [ \
        { unit = \"tokens\", limit = 1_000, per = \"1h\", mode = \"sliding\", learn = \"never\" }, \
        { unit = \"requests\", limit = 7, per = \"1h\", mode = \"bucket\", learn = \"never\" }, \
        { unit = \"tokens\", limit = 100_000, per = \"1d\", name = \"minute\", mode = \"sliding\", learn = \"never\" } ]";
    filed.apply(more).await;
    let status = gateway.settled().await;
    let left: Vec<_> = status["pools"][0]["constraints"].as_array().expect("a list").clone();
    let left: Vec<_> = left.iter().map(|it| it["available"].as_i64().expect("a number")).collect();
    assert_eq!(left, [960, 5, 99_960]);
    filed.gateway.close().await;
}

#[tokio::test]
async fn a_key_that_is_gone_is_refused_while_its_stream_ends_in_order() {
    let latency = Latency { tokens_per_second: 40, ..Latency::ZERO };
    let options = Options { latency, chunk_tokens: 1, ..roomy() };
    let simulator = Simulator::start(options, ANY).await.expect("a free port");
    let filed = Filed::start(&simulator.base_url(), &keys(&["a", "b"]));
    let gateway = &filed.gateway;
    let stream = with(hello(), "stream", true).to_string();
    let mut wire =
        Wire::open(gateway.api, chat("authorization: Bearer tg-planted-a\r\n", stream)).await;
    assert_eq!(wire.head().await.expect("a head").status, 200);
    assert!(!wire.chunk().await.expect("a piece").is_empty());

    // With another upstream client, too: the stream has its own.
    let next =
        format!("{}\nupstream.idle_timeout = \"59s\"\n{}", keys(&["b", "c"]), limits(9, 900));
    let changed = filed.apply(&next).await;
    for path in ["keys.a.hash", "keys.c.name", "upstream.idle_timeout"] {
        assert!(changed.iter().any(|it| it == path), "{path} in {changed:?}");
    }
    let ask = async |name: &str| {
        let request = gateway.chat(&hello()).bearer_auth(format!("tg-planted-{name}"));
        send(request).await
    };
    refusal(ask("a").await, 401, "wrong_api_key").await;
    assert_eq!(ask("b").await.status(), 200);
    assert_eq!(ask("c").await.status(), 200);
    let mut text = Vec::new();
    loop {
        match wire.chunk().await.expect("the stream goes on") {
            data if data.is_empty() => break,
            data => text.extend(data),
        }
    }
    assert!(text.ends_with(b"data: [DONE]\n\n"), "to its end");
    assert_eq!(gateway.spent().await, (3, 60), "the stream was settled exactly");
    let (_, page) = gateway.page("/metrics").await;
    let of = |name: &str| format!("tidegate_tenant_requests_total{{tenant=\"{name}\"");
    assert!(["a", "b", "c"].iter().all(|it| page.contains(&of(it))), "each by its name");
    filed.gateway.close().await;
}

#[tokio::test]
async fn what_is_wrong_changes_nothing_and_every_problem_is_told() {
    let simulator = Simulator::start(roomy(), ANY).await.expect("a free port");
    let filed = Filed::start(&simulator.base_url(), &limits(10, 100_000));
    let gateway = &filed.gateway;
    assert_eq!(send(gateway.chat(&hello())).await.status(), 200);
    let before = gateway.page("/config").await;

    let wrong = config_text(
        &filed.upstream,
        &format!("{}\nadmission.max_wait = 5\nretry.max_attempts = 0", limits(20, 100_000)),
    );
    let Reloaded::Refused(why) = filed.reload_text(&wrong).await else { panic!("it is wrong") };
    for part in ["admission.max_wait (line ", "retry.max_attempts (line ", "at least 1, got 0"] {
        assert!(why.contains(part), "no {part:?} in {why}");
    }
    let told = gateway.status().await["config"].clone();
    assert_eq!((told["generation"].as_u64(), told["refused"].as_str()), (Some(1), Some(&*why)));
    assert_eq!(gateway.page("/config").await, before, "all of it stays as it was");

    // Right, but not to be had without a restart: nothing of it is taken up.
    let fixed =
        format!("{}\nserver.max_connections = 7\nstate.sync = \"full\"", limits(20, 100_000));
    let Reloaded::Refused(why) = filed.reload(&fixed).await else { panic!("it is fixed") };
    assert_eq!(why, "needs a restart: server.max_connections, state.sync");
    assert_eq!(gateway.page("/config").await, before);

    fs::remove_file(&filed.path).expect("it is there");
    assert!(matches!(filed.reloader.reload().await, Reloaded::Refused(_)), "no file at all");
    assert_eq!(filed.reload(&limits(10, 100_000)).await, Reloaded::Unchanged);
    let told = gateway.status().await["config"].clone();
    assert!(told["refused"].is_null() && told["refused_at"].is_null(), "{told}");
    for (result, count) in [("refused", 3.0), ("unchanged", 1.0), ("applied", 0.0)] {
        assert!((filed.reloads(result).await - count).abs() < 0.5, "{result}");
    }
    assert_eq!(send(gateway.chat(&hello())).await.status(), 200);
    assert_eq!(gateway.spent().await.0, 2);
    filed.gateway.close().await;
}

#[tokio::test]
async fn what_is_not_a_limit_is_taken_up_too() {
    let simulator = Simulator::start(roomy(), ANY).await.expect("a free port");
    let other = Simulator::start(roomy(), ANY).await.expect("a free port");
    let filed = Filed::start(&simulator.base_url(), "models.\"*\".max_concurrent = 1");
    let gateway = &filed.gateway;
    assert_eq!(send(gateway.chat(&hello())).await.status(), 200);

    // Another upstream, a profile of the model's own, other classes' ranks, smaller bodies.
    let others = "classes.interactive = { rank = 9 }\n\
        classes.standard = { rank = 1, share = 0.5 }\nclasses.batch = { rank = 2, paced = true }\n\
        server.max_body_bytes = 300\n";
    let text = config_text(&other.base_url(), &format!("models.m.max_concurrent = 5\n{others}"));
    assert!(matches!(filed.reload_text(&text).await, Reloaded::Applied(_)));
    assert_eq!(send(gateway.chat(&hello())).await.status(), 200);
    assert_eq!((simulator.stats().started, other.stats().started), (1, 1), "to the other one");
    let long = with(hello(), "user", "u".repeat(300));
    assert_eq!(send(gateway.chat(&long)).await.status(), 413);
    let status = gateway.settled().await;
    assert_eq!(status["pools"][0]["profile"], "m");
    assert_eq!(status["config"]["generation"], 2);
    let spent = |status: &Value| status["pools"][0]["constraints"][0]["available"].as_i64();
    assert_eq!(spent(&status), Some(998), "one pool, with what was spent before");

    // Without a profile, nobody comes any more; what is there stays.
    let mut text = config_text(&other.base_url(), others).replace("\"*\"", "n").replace("'*'", "n");
    assert!(matches!(filed.reload_text(&text).await, Reloaded::Applied(_)));
    assert_eq!(send(gateway.chat(&hello())).await.status(), 404);
    assert_eq!(spent(&gateway.status().await), Some(998));

    // A class that comes needs a restart.
    text += "[classes.more]\nrank = 12\n";
    let Reloaded::Refused(why) = filed.reload_text(&text).await else { panic!("a class came") };
    assert!(why.starts_with("needs a restart: classes.more."), "{why}");
    filed.gateway.close().await;
}

/// A simulated minute of the test below.
const MINUTE: Duration = Duration::from_secs(3);
const TRUE: u64 = 60_000;

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_change_under_load_are_never_overrun() {
    let latency = Latency { tokens_per_second: 30_000, ..Latency::default() };
    let options = Options {
        limits: vec![
            Limit::per(Unit::Requests, Name::Day, 100_000),
            Limit::per(Unit::Tokens, Name::Minute, TRUE),
        ],
        time_scale: 20.0,
        latency,
        output: OutputModel::Uniform(100, 900),
        reservation: Reservation { default: 1_000, cap: None, prompt_slack_percent: 0 },
        refund_delay: Duration::ZERO,
        ..Options::default()
    };
    let simulator = Simulator::start(options, ANY).await.expect("a free port");
    let changes = |limit: u64, more: &str| {
        let (minute, day) = (MINUTE.as_millis(), MINUTE.as_millis() * 1_440);
        format!(
            "models.\"*\".output_reservation.default = 1_000\n{more}\n\
             models.\"*\".limits = [ \
             {{ unit = \"tokens\", limit = {limit}, per = \"{minute}ms\", name = \"minute\", learn = \"never\" }}, \
             {{ unit = \"requests\", limit = 100_000, per = \"{day}ms\", name = \"day\", learn = \"never\" }} ]"
        )
    };
    let filed = Filed::start(&simulator.base_url(), &changes(TRUE / 4, ""));
    let gateway = &filed.gateway;
    let load = futures_util::stream::iter(0..160_u64)
        .map(|number| async move {
            let body = with(hello(), "stream", number.is_multiple_of(2));
            let answer = send(gateway.chat(&with(body, "max_tokens", 1_000))).await;
            let (status, body) = (answer.status().as_u16(), answer.bytes().await);
            assert!(body.is_ok(), "whole");
            status
        })
        .buffer_unordered(12)
        .collect::<Vec<_>>();
    let change = async {
        for (done, limit, more) in [
            (10, TRUE, ""),
            (30, TRUE / 3, "models.\"*\".max_concurrent = 3"),
            (50, TRUE / 2, "models.\"*\".min_gap = \"1ms\""),
            (70, TRUE / 4, "admission.settle_delay = \"100ms\""),
            (80, TRUE, ""),
        ] {
            wait_for(&simulator, |stats| stats.completed >= done).await;
            filed.apply(&changes(limit, more)).await;
        }
    };
    let (answers, ()) = tokio::join!(load, change);
    assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
    let stats = wait_for(&simulator, |stats| stats.in_flight == 0 && stats.settling == 0).await;
    assert_eq!((stats.completed, stats.rejected), (160, 0), "the upstream never refused one");
    let blamed = gateway.metric("tidegate_upstream_quota_rejections_total{").await;
    assert!(blamed.abs() < 0.5, "{blamed} attributable");
    filed.gateway.close().await;
}
