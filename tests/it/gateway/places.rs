//! Places kept for requests that were refused for waiting too long and come back.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use crate::support::upstream::{Upstream, completion};
use crate::support::wire::{Wire, chat};
use crate::support::{Gateway, flat, hello, with};

const ONE_AT_A_TIME: &str = "models.\"*\".max_concurrent = 1\n";

/// A request by its name; the same name is the same body.
fn named(name: &str, headers: &str) -> Vec<u8> {
    chat(headers, with(hello(), "user", name).to_string())
}

/// An upstream whose first answer waits until it is told, and a gateway with that one under way.
struct Line {
    upstream: Upstream,
    release: Arc<Notify>,
    gateway: Gateway,
    first: Wire,
    waiting: Vec<Wire>,
}

impl Line {
    async fn start(changes: &str, headers: &str) -> Self {
        let release = Arc::new(Notify::new());
        let told = Arc::clone(&release);
        let upstream = Upstream::start(move |number, mut socket| {
            let told = Arc::clone(&told);
            async move {
                if number == 0 {
                    told.notified().await;
                }
                socket.write_all(&completion()).await.ok().map(|()| socket)
            }
        })
        .await;
        let gateway = Gateway::start(&upstream.url(), &format!("{ONE_AT_A_TIME}{changes}"));
        let first = Wire::open(gateway.api, named("first", headers)).await;
        upstream.wait_seen(1).await;
        Self { upstream, release, gateway, first, waiting: Vec::new() }
    }

    /// A request that waits too long and is refused.
    async fn refused(&self, name: &str, headers: &str) {
        let headers = format!("{headers}x-tidegate-max-wait: 30ms\r\n");
        let answer = Wire::open(self.gateway.api, named(name, &headers)).await.answer().await;
        assert_eq!(answer.status, 429, "{}", answer.text());
        flat(answer.text(), "wait_exceeded");
    }

    /// A request that joins the line.
    async fn joins(&mut self, name: &str, headers: &str) {
        self.waiting.push(Wire::open(self.gateway.api, named(name, headers)).await);
        self.gateway.wait_queued(u32::try_from(self.waiting.len()).expect("a few")).await;
    }

    /// Lets them all go, and returns the names in the order in which they were sent.
    async fn order(mut self) -> Vec<String> {
        self.release.notify_one();
        assert_eq!(self.first.answer().await.status, 200);
        for wire in &mut self.waiting {
            assert_eq!(wire.answer().await.status, 200);
        }
        let names = self.upstream.seen().into_iter().map(|seen| {
            let body: serde_json::Value = serde_json::from_slice(&seen.body).expect("JSON");
            body["user"].as_str().expect("a name").to_owned()
        });
        let names = names.collect();
        drop((self.first, self.waiting));
        self.gateway.close().await;
        names
    }
}

#[tokio::test]
async fn a_refused_request_that_comes_back_goes_before_those_who_came_between() {
    let mut line = Line::start("", "").await;
    line.refused("again", "").await;
    line.joins("between", "").await;
    line.joins("again", "x-stainless-retry-count: 1\r\n").await;
    line.joins("after", "").await;
    let (kept, taken) = ("tidegate_places_kept_total", "tidegate_places_taken_total");
    let counts = (line.gateway.metric(kept).await, line.gateway.metric(taken).await);
    assert!((counts.0 - 1.0).abs() < 0.1 && (counts.1 - 1.0).abs() < 0.1, "{counts:?}");
    assert_eq!(line.order().await, ["first", "again", "between", "after"]);
}

#[tokio::test]
async fn a_place_survives_a_second_refusal_and_serves_once() {
    let mut line = Line::start("", "").await;
    line.refused("again", "").await;
    line.joins("between", "").await;
    line.refused("again", "").await;
    line.joins("again", "").await;
    line.joins("again", "").await;
    line.joins("after", "").await;
    let order = line.order().await;
    assert_eq!(order, ["first", "again", "between", "again", "after"], "once, and then as any");
}

#[tokio::test]
async fn a_stranger_with_the_same_body_has_no_claim_to_the_place() {
    let hash = |key: &str| -> String {
        Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let changes = format!(
        "upstream.api_key = \"env:ACCOUNT_KEY\"\n[[keys]]\nname = \"a\"\nhash = \
         \"sha256:{}\"\n[[keys]]\nname = \"b\"\nhash = \"sha256:{}\"\n",
        hash("key-a"),
        hash("key-b")
    );
    let (a, b) = ("authorization: Bearer key-a\r\n", "authorization: Bearer key-b\r\n");
    let mut line = Line::start(&changes, a).await;
    line.refused("again", a).await;
    line.joins("between", a).await;
    line.joins("again", b).await;
    assert!(line.gateway.metric("tidegate_places_taken_total").await < 0.1, "not for b");
    line.joins("again", a).await;
    assert!((line.gateway.metric("tidegate_places_taken_total").await - 1.0).abs() < 0.1);
    let order = line.order().await;
    assert_eq!(order[..2], ["first", "again"], "the first of its own tenant: {order:?}");
}

#[tokio::test]
async fn a_place_is_kept_for_a_while_and_only_if_configured() {
    for keep in ["50ms", "0s"] {
        let mut line = Line::start(&format!("admission.keep_place = \"{keep}\""), "").await;
        line.refused("again", "").await;
        line.joins("between", "").await;
        // The time that is configured has to pass.
        tokio::time::sleep(Duration::from_millis(60)).await;
        line.joins("again", "").await;
        assert_eq!(line.order().await, ["first", "between", "again"], "{keep}");
    }
}

#[tokio::test]
async fn one_that_was_refused_at_the_door_has_a_place_too() {
    // One request in 1.5 s.
    let changes = "[models.\"*\"]\nlimits = [ { unit = \"requests\", limit = 1, per = \"1500ms\", \
        name = \"day\" }, { unit = \"tokens\", limit = 100_000, per = \"1d\", name = \"minute\" } ]";
    let upstream = Upstream::answering(completion()).await;
    let gateway = Gateway::start(&upstream.url(), changes);
    let mut first = Wire::open(gateway.api, named("first", "")).await;
    assert_eq!(first.answer().await.status, 200);
    gateway.settled().await;
    let hasty = named("again", "x-tidegate-max-wait: 1ms\r\n");
    assert_eq!(Wire::open(gateway.api, hasty).await.answer().await.status, 429);
    let mut between = Wire::open(gateway.api, named("between", "")).await;
    gateway.wait_queued(1).await;
    let mut again = Wire::open(gateway.api, named("again", "")).await;
    gateway.wait_queued(2).await;
    assert_eq!(again.answer().await.status, 200);
    assert_eq!(upstream.seen().len(), 2, "the one between waits on");
    assert_eq!(between.answer().await.status, 200);
    drop((first, between, again));
    gateway.close().await;
}
