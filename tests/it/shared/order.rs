//! One order, nothing twice, nothing lost, while the server is well.

use std::time::Duration;

use futures_util::future::join_all;
use tidegate::store::shared::{EntryKind, Outcome, Position, Unavailable};
use tokio::time::sleep;

use super::server::{Proxy, Redis};
use super::twin::{POOL, Twin, agreed, assert_no_doubles, config};

/// Replicas that have all begun.
pub(super) async fn twins(count: usize, url: &str) -> Vec<Twin> {
    let config = config(url, "grace = \"100ms\"\n");
    join_all((0..count).map(|_| Twin::start(&config).ready())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_see_one_order_whoever_appends() {
    let redis = Redis::start().await;
    let twins = twins(3, &redis.url()).await;
    join_all(twins.iter().zip(["a", "b", "c"]).map(|(twin, name)| async move {
        for index in 0..60 {
            if index % 3 == 0 {
                twin.hold(&format!("{name}{index}")).await;
            } else {
                twin.tell(&format!("{name}{index}")).await;
            }
        }
    }))
    .await;
    let list = agreed(&twins, 180).await;
    assert_eq!(list.len(), 180);
    assert_no_doubles(&list);
    for twin in &twins {
        let known = twin.known.lock();
        assert!(known.times.is_sorted(), "the log's time does not run backwards");
        let own = format!("{}/", twin.shared.replica());
        let numbers = list.iter().filter_map(|line| line.strip_prefix(&own));
        let numbers: Vec<u64> = numbers
            .map(|it| it.split('/').next().expect("a number").parse().expect("one"))
            .collect();
        assert_eq!(numbers.len(), 60);
        assert!(numbers.is_sorted(), "what a replica says stays in its order");
    }
    // A conditional entry stands right behind what it was based on.
    for (line, place) in list.iter().zip(1_u64..) {
        if let Some((_, based)) = line.rsplit_once('.') {
            assert_eq!(based.parse::<u64>().expect("a place") + 1, place, "{line}");
        }
    }
}

#[tokio::test]
async fn what_was_missed_comes_with_the_refusal() {
    let redis = Redis::start().await;
    let twins = twins(2, &redis.url()).await;
    let before = twins[1].position();
    twins[0].tell("first").await;
    let refused = twins[1].log.append_if_current(&before, "second".into()).await;
    let Ok(Outcome::Behind(missed)) = refused else { panic!("{refused:?}") };
    let missed: Vec<_> = missed.iter().map(|it| &it.bytes[..]).collect();
    assert_eq!(missed, [b"first"]);
    // What is told goes in whatever was missed, and with the same call.
    twins[1].log.tell("third".into()).expect("room");
    let refused = twins[1].log.append_if_current(&before, "second".into()).await;
    let Ok(Outcome::Behind(missed)) = refused else { panic!("{refused:?}") };
    let missed: Vec<_> = missed.iter().map(|it| &it.bytes[..]).collect();
    assert_eq!(missed, [&b"first"[..], b"third"]);
    assert_eq!(twins[1].log.pending(), 0);
    let list = agreed(&twins, 2).await;
    assert!(!list.iter().any(|line| line.ends_with("second")), "{list:?}");
}

#[tokio::test]
async fn a_lost_reply_is_found_and_nothing_is_done_twice() {
    let redis = Redis::start().await;
    let proxy = Proxy::to(redis.port).await;
    let twins = vec![
        Twin::start(&config(&proxy.url(), "grace = \"100ms\"\n")).ready().await,
        Twin::start(&config(&redis.url(), "grace = \"100ms\"\n")).ready().await,
    ];
    for index in 0..10 {
        proxy.way.lock().lose_reply = true;
        if index % 2 == 0 {
            twins[0].hold(&format!("held{index}")).await;
        } else {
            twins[0].tell(&format!("told{index}")).await;
        }
        twins[1].tell(&format!("other{index}")).await;
    }
    let list = agreed(&twins, 20).await;
    let names: Vec<_> =
        list.iter().map(|it| it.rsplit('/').next().expect("a line").split('@').next()).collect();
    assert_eq!(names.len(), 20, "{list:#?}");
    assert_no_doubles(&list);
}

#[tokio::test]
async fn a_newcomer_begins_with_the_snapshot_and_what_follows_it() {
    let redis = Redis::start().await;
    let mut twins = twins(1, &redis.url()).await;
    for index in 0..1_500 {
        twins[0].log.tell(format!("{index}").into()).expect("room");
    }
    twins[0].flush().await;
    twins[0].until("all of it", |known| known.list.len() == 1_500).await;
    let (position, bytes) = {
        let known = twins[0].known.lock();
        (known.position.clone(), known.snapshot())
    };
    assert_eq!(twins[0].log.snapshot(&position, bytes).await, Ok(true));
    let older = Position { seq: position.seq - 1, ..position };
    assert_eq!(twins[0].log.snapshot(&older, "older".into()).await, Ok(false));
    for index in 0..1_300 {
        twins[0].log.tell(format!("more {index}").into()).expect("room");
    }
    twins[0].flush().await;
    let length: u64 = redis.ask(&["XLEN", "tidegate:{07070707070707070707070707070707}:log"]);
    assert_eq!(length, 1_024 + 1_300, "what the snapshot has is trimmed, but for the latecomers");
    let newcomer = Twin::start(&config(&redis.url(), "")).ready().await;
    twins.push(newcomer);
    assert_eq!(agreed(&twins, 2_800).await.len(), 2_800);
    // One that is behind what was trimmed has to begin anew.
    let old = Position { seq: 3, ..twins[0].position() };
    assert_eq!(twins[0].log.flush(&old).await, Ok(Outcome::Stale));
}

#[tokio::test]
async fn replicas_know_each_other_and_notice_who_is_gone() {
    let redis = Redis::start().await;
    let mut twins = twins(3, &redis.url()).await;
    let beats: Vec<_> =
        twins[..2].iter().map(|twin| twin.beating(Duration::from_millis(200))).collect();
    let gone = twins.pop().expect("the third");
    let id = gone.shared.replica();
    gone.log.beat(&gone.position(), "here".into()).await.expect("alive");
    let peers = twins[0].log.beat(&twins[0].position(), "me".into()).await.expect("alive");
    let payload = peers.iter().find(|it| it.replica == id).map(|it| it.payload.clone());
    assert_eq!(payload.as_deref(), Some(&b"here"[..]));
    drop(gone);
    let list = agreed(&twins, 1).await;
    assert_eq!(list, [format!("{id} gone")], "once, and nobody else");
    let peers = twins[0].log.beat(&twins[0].position(), "me".into()).await.expect("alive");
    assert_eq!(peers.len(), 1);
    drop(beats);
}

/// A pool that is let go of and comes back in the same process is no repetition of itself.
#[tokio::test]
async fn a_log_that_is_begun_again_goes_on() {
    let redis = Redis::start().await;
    let twins = twins(2, &redis.url()).await;
    for index in 0..3 {
        let log = twins[0].shared.log(POOL);
        for line in 0..2 {
            log.tell(format!("{index}.{line}").into()).expect("room");
        }
        let appended = log.flush(&twins[1].position()).await;
        assert!(matches!(appended, Ok(Outcome::Appended(_))), "{appended:?}");
    }
    let list = agreed(&twins[1..], 6).await;
    assert_eq!(list.len(), 6, "{list:?}");
    assert_no_doubles(&list);
}

#[tokio::test]
async fn who_leaves_is_not_missed() {
    let redis = Redis::start().await;
    let twins = twins(2, &redis.url()).await;
    for twin in &twins {
        twin.log.beat(&twin.position(), "me".into()).await.expect("alive");
    }
    twins[1].log.leave().await.expect("good-bye");
    let peers = twins[0].log.beat(&twins[0].position(), "me".into()).await;
    assert_eq!(peers, Ok(Vec::new()));
}

#[tokio::test]
async fn closing_it_leaves_no_task_behind() {
    let redis = Redis::start().await;
    let twins = twins(1, &redis.url()).await;
    twins[0].tell("one").await;
    twins[0].shared.close();
    twins[0].tasks.close();
    let ended = tokio::time::timeout(super::server::PATIENCE, twins[0].tasks.wait()).await;
    assert!(ended.is_ok(), "{} tasks are left", twins[0].tasks.len());
    let late = twins[0].within(twins[0].log.flush(&twins[0].position())).await;
    assert!(late.is_err(), "{late:?}");
}

#[tokio::test]
async fn a_forgotten_script_is_sent_again() {
    let redis = Redis::start().await;
    let twins = twins(2, &redis.url()).await;
    for index in 0..5 {
        redis.ask::<()>(&["SCRIPT", "FLUSH"]);
        twins[index % 2].hold(&format!("{index}")).await;
    }
    assert_eq!(agreed(&twins, 5).await.len(), 5);
}

#[tokio::test]
async fn a_log_of_another_format_is_refused_by_name() {
    let redis = Redis::start().await;
    let twins = twins(1, &redis.url()).await;
    let head = "tidegate:{07070707070707070707070707070707}:head";
    redis.ask::<()>(&["HSET", head, "format", "2"]);
    let refused = twins[0].log.flush(&twins[0].position()).await;
    let expected = Unavailable::Format { ours: "1".into(), theirs: "2".into() };
    assert_eq!(refused, Err(expected));
    redis.ask::<()>(&["HSET", head, "format", "1"]);
    sleep(Duration::from_millis(100)).await;
    twins[0].tell("again").await;
    assert_eq!(twins[0].known.lock().list.len(), 1);
}

#[tokio::test]
async fn nobody_follows_twice_and_nothing_is_sent_to_who_does_not() {
    let redis = Redis::start().await;
    let twins = twins(1, &redis.url()).await;
    let mut events = twins[0].log.follow(&twins[0].position());
    twins[0].tell("one").await;
    let event = tokio::time::timeout(super::server::PATIENCE, events.next()).await;
    let Ok(Some(tidegate::store::shared::Event::Entry(entry))) = event else { panic!("{event:?}") };
    assert_eq!((entry.kind, &entry.bytes[..]), (EntryKind::Own, &b"one"[..]));
    drop(events);
    twins[0].tell("two").await;
}
