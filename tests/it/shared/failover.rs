//! Servers that die, forget, stop or fall behind.

use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::Signal;
use tidegate::store::shared::{Outcome, Unavailable};
use tokio::time::{Instant, sleep};

use super::order::twins;
use super::server::{Proxy, Redis};
use super::twin::{Twin, agreed, assert_no_doubles, config};

const BEAT: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_forgot_comes_back_from_the_replicas() {
    let mut redis = Redis::start().await;
    let twins = twins(3, &redis.url()).await;
    let _beats: Vec<_> = twins.iter().map(|twin| twin.beating(BEAT)).collect();
    for round in 0..3 {
        join_all(twins.iter().zip(["a", "b", "c"]).map(|(twin, name)| async move {
            for index in 0..10 {
                twin.hold(&format!("{name}{round}.{index}")).await;
            }
        }))
        .await;
        let before = agreed(&twins, 10).await;
        redis.kill();
        redis.restart().await;
        // Told while there was nobody to tell.
        join_all(twins.iter().zip(["x", "y", "z"]).map(|(twin, name)| async move {
            twin.tell(&format!("{name}{round}")).await;
        }))
        .await;
        let after = agreed(&twins, before.len() + 3).await;
        assert!(after.starts_with(&before), "nothing is lost:\n{before:#?}\n{after:#?}");
        assert_no_doubles(&after);
    }
    let epochs: Vec<_> = twins.iter().map(|twin| twin.position().epoch).collect();
    assert!(epochs.iter().all(|it| *it == epochs[0]) && epochs[0].number >= 4, "{epochs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tail_that_a_failover_lost_is_brought_by_who_has_seen_most() {
    let master = Redis::start().await;
    let port = master.port.to_string();
    let replica = Redis::with(&["--replicaof", "127.0.0.1", &port]).await;
    let proxy = Proxy::to(master.port).await;
    let twins = twins(3, &proxy.url()).await;
    let _beats: Vec<_> = twins.iter().map(|twin| twin.beating(BEAT)).collect();
    let kept: Vec<_> = (0..20).map(|index| format!("kept{index}")).collect();
    for line in &kept {
        twins[0].hold(line).await;
    }
    let copied = async {
        let head = "tidegate:{07070707070707070707070707070707}:head";
        while replica.ask::<Option<u64>>(&["HGET", head, "seq"]) != Some(20) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(super::server::PATIENCE, copied).await.expect("a copy");
    replica.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
    for index in 0..10 {
        twins[index % 3].hold(&format!("tail{index}")).await;
    }
    let before = agreed(&twins, 30).await;
    drop(master);
    proxy.way.lock().port = replica.port;
    twins[1].hold("after").await;
    let after = agreed(&twins, 31).await;
    assert!(after.starts_with(&before), "{before:#?}\n{after:#?}");
    assert_no_doubles(&after);
    // And the new master is good for a newcomer.
    let newcomer = Twin::start(&config(&replica.url(), "")).ready().await;
    assert_eq!(newcomer.known.lock().list, after);
}

/// A new master that lacks the end of the log is found by somebody who lacks it as well: the two would
/// agree, and grant what is granted already.
#[tokio::test(flavor = "multi_thread")]
async fn who_missed_the_tail_cannot_grant_on_top_of_it() {
    let master = Redis::start().await;
    let port = master.port.to_string();
    let replica = Redis::with(&["--replicaof", "127.0.0.1", &port]).await;
    let proxy = Proxy::to(master.port).await;
    let patient = |url: &str| config(url, "grace = \"3s\"\n");
    let twins = join_all((0..2).map(|_| Twin::start(&patient(&proxy.url())).ready())).await;
    let beats: Vec<_> = twins.iter().map(|twin| twin.beating(BEAT)).collect();
    twins[0].hold("kept").await;
    agreed(&twins, 1).await;
    let early = twins[0].position();
    let head = "tidegate:{07070707070707070707070707070707}:head";
    let copied = async {
        while replica.ask::<Option<u64>>(&["HGET", head, "seq"]) != Some(1) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(super::server::PATIENCE, copied).await.expect("a copy");
    replica.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
    twins[1].hold("tail").await;
    let before = agreed(&twins, 2).await;
    drop(beats);
    // It is at the new master first, and has seen what that has.
    let late = Twin::start(&patient(&replica.url()));
    let answer = loop {
        if let Ok(answer) = late.log.append_if_current(&early, "blind".into()).await {
            break answer;
        }
        sleep(BEAT).await;
    };
    assert!(matches!(answer, Outcome::Wait(_)), "{answer:?}");
    drop(master);
    proxy.way.lock().port = replica.port;
    twins[0].hold("after").await;
    let after = agreed(&twins, 3).await;
    assert!(after.starts_with(&before), "{before:#?}\n{after:#?}");
    late.until("the same", |known| known.list == after).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_state_is_taken_whoever_comes_first() {
    let mut redis = Redis::start().await;
    let (near, far) = (Proxy::to(redis.port).await, Proxy::to(redis.port).await);
    let start = |proxy: &Proxy| Twin::start(&config(&proxy.url(), "grace = \"3s\"\n")).ready();
    let twins = vec![start(&near).await, start(&near).await, start(&far).await];
    let _beats: Vec<_> = twins.iter().map(|twin| twin.beating(BEAT)).collect();
    twins[0].hold("seen by all").await;
    agreed(&twins, 1).await;
    sleep(BEAT * 3).await;
    let nowhere = super::server::free_port();
    far.way.lock().port = nowhere;
    for index in 0..5 {
        twins[index % 2].hold(&format!("seen by two {index}")).await;
    }
    let before = agreed(&twins[..2], 6).await;
    near.way.lock().port = nowhere;
    redis.kill();
    redis.restart().await;
    far.way.lock().port = redis.port;
    twins[2].until("its turn", |known| known.events.contains(&"reassert")).await;
    sleep(BEAT).await;
    near.way.lock().port = redis.port;
    twins[2].hold("after").await;
    let after = agreed(&twins, 7).await;
    assert!(after.starts_with(&before), "{before:#?}\n{after:#?}");
}

/// What was told while the server was away stands before anything that is granted when it is back,
/// and what it had got already is not said again.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_meanwhile_comes_first_and_once() {
    let mut redis = Redis::start().await;
    let proxy = Proxy::to(redis.port).await;
    let start = |url: &str| Twin::start(&config(url, "grace = \"3s\"\n")).ready();
    let twins = vec![start(&proxy.url()).await, start(&redis.url()).await];
    let _beats: Vec<_> = twins.iter().map(|twin| twin.beating(BEAT)).collect();
    twins[0].hold("before").await;
    agreed(&twins, 1).await;
    sleep(BEAT * 3).await;
    // Appended, and its writer does not hear of it.
    proxy.way.lock().delay = super::twin::BUDGET * 3;
    twins[0].log.tell("heard by one".into()).expect("room");
    let unheard = twins[0].within(twins[0].log.flush(&twins[0].position())).await;
    assert!(unheard.is_err(), "{unheard:?}");
    twins[1].until("it", |known| known.list.len() == 2).await;
    redis.kill();
    twins[0].log.tell("told to nobody".into()).expect("room");
    proxy.way.lock().delay = Duration::ZERO;
    redis.restart().await;
    twins[1].hold("after").await;
    let list = agreed(&twins, 4).await;
    let names: Vec<_> = list.iter().map(|it| it.rsplit('/').next().expect("a line")).collect();
    assert!(names[0].starts_with("before") && names[3].starts_with("after"), "{list:#?}");
    assert_eq!(names[1..3], ["heard by one", "told to nobody"]);
    twins[0].flush().await;
    assert_eq!(agreed(&twins, 4).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_kept_everything_is_believed() {
    let mut redis = Redis::with(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let twins = twins(2, &redis.url()).await;
    let _beats: Vec<_> = twins.iter().map(|twin| twin.beating(BEAT)).collect();
    for index in 0..20 {
        twins[index % 2].hold(&format!("{index}")).await;
    }
    redis.kill();
    redis.restart().await;
    twins[0].hold("after").await;
    let list = agreed(&twins, 21).await;
    assert_eq!(list.len(), 21);
    assert_no_doubles(&list);
}

/// A replica that is dead when the server is lost is waited for, but not for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_does_not_come_is_waited_for_until_the_grace_ends() {
    let mut redis = Redis::start().await;
    let mut twins = twins(2, &redis.url()).await;
    let beat = twins[0].beating(BEAT);
    twins[1].log.beat(&twins[1].position(), "me".into()).await.expect("alive");
    twins[1].hold("last words").await;
    sleep(BEAT * 3).await;
    drop(twins.pop());
    redis.kill();
    redis.restart().await;
    twins[0].hold("alone").await;
    drop(beat);
    let list = agreed(&twins, 2).await;
    assert!(list[0].contains("last words") && list[1].contains("alone"), "{list:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_holds_up_nobody() {
    let redis = Redis::start().await;
    let twins = twins(3, &redis.url()).await;
    let _beats: Vec<_> = twins.iter().map(|twin| twin.beating(BEAT)).collect();
    twins[0].hold("before").await;
    agreed(&twins, 1).await;
    redis.signal(Signal::STOP);
    let stopped = Instant::now();
    let mut refused_at_once = 0;
    for twin in &twins {
        twin.log.tell("meanwhile".to_string().into()).expect("room");
    }
    while stopped.elapsed() < Duration::from_secs(5) {
        for twin in &twins {
            // `within` has its say about how long it takes.
            let result = twin.within(twin.log.flush(&twin.position())).await;
            refused_at_once += u32::from(result == Err(Unavailable::Open));
        }
        sleep(Duration::from_millis(50)).await;
    }
    assert!(refused_at_once > 100, "the breaker opened: {refused_at_once}");
    redis.signal(Signal::CONT);
    join_all(twins.iter().map(Twin::flush)).await;
    twins[2].hold("after").await;
    let list = agreed(&twins, 5).await;
    let count = |name: &str| list.iter().filter(|it| it.contains(name)).count();
    assert_eq!((count("meanwhile"), count("gone")), (3, 0), "{list:#?}");
    for twin in &twins {
        let events = twin.known.lock().events.clone();
        assert!(events.contains(&"lost") && events.contains(&"back"), "{events:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_slow_counts_as_down_until_it_is_fast() {
    let redis = Redis::start().await;
    let proxy = Proxy::to(redis.port).await;
    let slow = config(&proxy.url(), "grace = \"100ms\"\n");
    let slow = tidegate::config::Shared { timeout: Duration::from_millis(50), ..slow };
    let twins = vec![Twin::start(&slow).ready().await];
    proxy.way.lock().delay = Duration::from_millis(200);
    for index in 0..20 {
        let result = twins[0].within(twins[0].log.flush(&twins[0].position())).await;
        assert!(result.is_err(), "{result:?}");
        if index >= 3 {
            assert_eq!(result, Err(Unavailable::Open));
        }
    }
    proxy.way.lock().delay = Duration::ZERO;
    twins[0].tell("fast again").await;
    assert_eq!(agreed(&twins, 1).await.len(), 1);
}

#[tokio::test]
async fn without_a_server_every_call_ends_in_time_and_none_is_needed_to_begin() {
    let port = super::server::free_port();
    let config = config(&format!("redis://127.0.0.1:{port}"), "grace = \"100ms\"\n");
    let twin = Twin::start(&config);
    for _ in 0..5 {
        let result = twin.within(twin.log.flush(&twin.position())).await;
        assert!(result.is_err(), "{result:?}");
    }
    assert!(!twin.shared.is_up());
}
