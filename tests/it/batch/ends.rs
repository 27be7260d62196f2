//! Batches that end before every line is answered.

use serde_json::json;
use tidegate::server::Ended;
use tidegate::simulator::Options;
use tidegate::simulator::quota::{Limit, Name, Semantics, Unit};

use super::{Place, an_hour, good, greetings};
use crate::support::{send, wait_for};

#[tokio::test]
async fn a_cancelled_batch_gives_what_it_has() {
    let (options, own) = an_hour(5);
    let place = Place::with(options, &own).await;
    let id = place.batch(&greetings(20), "24h").await;
    let done = |count: u64| {
        move |batch: &serde_json::Value| batch["request_counts"]["completed"] == json!(count)
    };
    let seen = place.seen(&id, "five answers", done(5)).await;
    assert_eq!(seen["status"], "in_progress");
    let path = format!("/v1/batches/{id}/cancel");
    let cancelled = good(place.gateway.post(&path)).await;
    assert!(cancelled["cancelling_at"].is_u64(), "{cancelled}");
    let batch = place.ended(&id, "cancelled").await;
    assert!(batch["cancelled_at"].is_u64() && batch["completed_at"].is_null());
    assert_eq!(batch["request_counts"], json!({"total": 20, "completed": 5, "failed": 15}));
    assert_eq!(place.lines(&batch["output_file_id"]).await.len(), 5);
    let errors = place.lines(&batch["error_file_id"]).await;
    assert_eq!(errors.len(), 15);
    assert!(errors.values().all(|it| it["error"]["code"] == "batch_cancelled"));
    assert!(errors.values().all(|it| it["response"].is_null()));
    assert_eq!(send(place.gateway.post(&path)).await.status(), 409, "it has ended");
    // Nothing of it waits any more.
    let status = place.gateway.settled().await;
    assert_eq!(status["pools"][0]["queued"], 0);
    assert_eq!(place.simulator.stats().started, 5);
    place.close().await;
}

#[tokio::test]
async fn an_expired_batch_gives_what_it_has() {
    let (options, own) = an_hour(3);
    let place = Place::with(options, &own).await;
    let id = place.batch(&greetings(8), "2s").await;
    let batch = place.ended(&id, "expired").await;
    assert!(batch["expired_at"].as_u64() >= batch["expires_at"].as_u64(), "{batch}");
    assert_eq!(batch["request_counts"], json!({"total": 8, "completed": 3, "failed": 5}));
    assert_eq!(place.lines(&batch["output_file_id"]).await.len(), 3);
    let errors = place.lines(&batch["error_file_id"]).await;
    assert_eq!(errors.len(), 5);
    assert!(errors.values().all(|it| it["error"]["code"] == "batch_expired"));
    place.close().await;
}

#[tokio::test]
async fn what_is_at_the_upstream_when_a_batch_ends_is_not_lost() {
    let options = crate::support::roomy();
    let place = Place::with(options, "").await;
    place.fault(&["slow-head:500"]);
    let id = place.batch(&greetings(1), "24h").await;
    wait_for(&place.simulator, |stats| stats.in_flight == 1).await;
    let cancelled = good(place.gateway.post(&format!("/v1/batches/{id}/cancel"))).await;
    assert_eq!(cancelled["status"], "cancelling");
    let again = good(place.gateway.post(&format!("/v1/batches/{id}/cancel"))).await;
    assert_eq!(again["cancelling_at"], cancelled["cancelling_at"], "once is enough");
    let batch = place.ended(&id, "cancelled").await;
    assert_eq!(batch["request_counts"], json!({"total": 1, "completed": 1, "failed": 0}));
    place.close().await;
}

#[tokio::test]
async fn a_stopped_gateway_leaves_the_rest_for_the_next() {
    let (options, own) = an_hour(4);
    let place = Place::with(options, &own).await;
    let id = place.batch(&greetings(10), "24h").await;
    let four = |batch: &serde_json::Value| batch["request_counts"]["completed"] == 4;
    place.seen(&id, "four answers", four).await;
    let Place { simulator, gateway, dir } = place;
    gateway.stop.cancel();
    assert_eq!(gateway.ended().await, Ended::Drained);
    // More quota, as on the next day.
    let changes = format!("batch.dir = {:?}", dir.path().display().to_string());
    let (another, gateway) = crate::support::pair(crate::support::roomy(), &changes).await;
    let place = Place { simulator: another, gateway, dir };
    let batch = place.ended(&id, "completed").await;
    assert_eq!(batch["request_counts"], json!({"total": 10, "completed": 10, "failed": 0}));
    assert_eq!(place.simulator.stats().started, 6, "what had its answer was not sent again");
    assert_eq!(place.lines(&batch["output_file_id"]).await.len(), 10);
    place.close().await;
    simulator.shutdown().await;
}

#[tokio::test]
async fn the_batch_of_a_caller_who_pays_goes_on_when_the_key_is_seen_again() {
    let (options, own) = an_hour(1);
    let place = Place::with(options, &format!("upstream.api_key = \"\"\n{own}")).await;
    let key = "csk-planted-own";
    let form = super::form(&greetings(3), &[("purpose", "batch")]);
    let file = good(super::upload(&place.gateway, form).bearer_auth(key)).await;
    let file = file["id"].as_str().expect("an id");
    let batch = good(place.wanted(file, "24h").bearer_auth(key)).await;
    let path = format!("/v1/batches/{}", batch["id"].as_str().expect("an id"));
    wait_for(&place.simulator, |stats| stats.completed == 1).await;
    let Place { simulator, gateway, dir } = place;
    gateway.stop.cancel();
    assert_eq!(gateway.ended().await, Ended::Drained);
    let changes =
        format!("upstream.api_key = \"\"\nbatch.dir = {:?}", dir.path().display().to_string());
    let (another, gateway) = crate::support::pair(crate::support::roomy(), &changes).await;
    let place = Place { simulator: another, gateway, dir };
    place.gateway.wait_metric("tidegate_batches_running", 1.0).await;
    assert_eq!(place.simulator.stats().started, 0, "nobody's key is known");
    let seen = async || {
        let batch = good(place.get(&path).bearer_auth(key)).await;
        (batch["status"] == "completed").then_some(batch)
    };
    let batch = crate::support::eventually("the end", seen).await;
    assert_eq!(batch["request_counts"]["completed"], 3);
    place.close().await;
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_day_that_runs_dry_pauses_a_batch_and_the_next_goes_on() {
    // A day is three seconds, and begins anew as a whole.
    let limits = vec![Limit::per(Unit::Requests, Name::Day, 5)];
    let semantics = Semantics::FixedWindow { phase_ns: 0 };
    let options =
        Options { limits, semantics, time_scale: 86_400.0 / 3.0, ..crate::support::roomy() };
    let own = "[models.\"*\"]\nlimits = [{ unit = \"requests\", limit = 5, per = \"3s\", \
               name = \"day\", mode = \"sliding\", learn = \"never\" }]";
    let place = Place::with(options, own).await;
    let id = place.batch(&greetings(8), "24h").await;
    let paused = |batch: &serde_json::Value| {
        batch["request_counts"]["completed"] == 5
            && batch["tidegate"]["limited_by"] == "requests/day"
    };
    let seen = place.seen(&id, "the pause", paused).await;
    assert_eq!((&seen["status"], &seen["tidegate"]["waiting"]), (&json!("in_progress"), &json!(3)));
    let batch = place.ended(&id, "completed").await;
    assert_eq!(batch["request_counts"], json!({"total": 8, "completed": 8, "failed": 0}));
    assert_eq!(place.simulator.stats().rejected, 0, "it did not ask in vain");
    place.close().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_read_for_a_while_is_read_later() {
    let (options, own) = an_hour(2);
    let place = Place::with(options, &own).await;
    let id = place.batch(&greetings(5), "24h").await;
    let two = |batch: &serde_json::Value| batch["request_counts"]["completed"] == 2;
    let seen = place.seen(&id, "two answers", two).await;
    let Place { simulator, gateway, dir } = place;
    gateway.stop.cancel();
    assert_eq!(gateway.ended().await, Ended::Drained);
    let file = dir.path().join("files").join(seen["input_file_id"].as_str().expect("an id"));
    let away = dir.path().join("away");
    std::fs::rename(&file, &away).expect("it is there");
    let changes = format!("batch.dir = {:?}", dir.path().display().to_string());
    let (another, gateway) = crate::support::pair(crate::support::roomy(), &changes).await;
    let place = Place { simulator: another, gateway, dir };
    let troubled = |batch: &serde_json::Value| !batch["tidegate"]["last_trouble"].is_null();
    place.seen(&id, "that it cannot be read", troubled).await;
    std::fs::rename(&away, &file).expect("it is there");
    let batch = place.ended(&id, "completed").await;
    assert_eq!(batch["request_counts"], json!({"total": 5, "completed": 5, "failed": 0}));
    place.close().await;
    simulator.shutdown().await;
}
