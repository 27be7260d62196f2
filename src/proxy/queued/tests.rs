use http_body_util::BodyExt;

use super::*;

const EVERY: Duration = Duration::from_secs(3);

fn queued(
    next: impl Future<Output = Next> + Send + 'static,
) -> Queued<impl Fn() -> String + Unpin> {
    let tick = Box::pin(tokio::time::sleep_until(Instant::now()));
    let stage = Stage::Waiting(Box::pin(next));
    Queued { stage, comment: || ": here\n\n".to_owned(), every: EVERY, tick }
}

/// Everything that comes, with the seconds after which it came.
async fn all(mut body: Queued<impl Fn() -> String + Unpin>) -> Vec<(u64, String)> {
    let (began, mut seen) = (Instant::now(), Vec::new());
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        seen.push((began.elapsed().as_secs(), String::from_utf8(data.to_vec()).unwrap()));
    }
    assert!(body.is_end_stream());
    assert!(body.frame().await.is_none(), "it stays at its end");
    seen
}

fn rows(rows: &[(u64, &str)]) -> Vec<(u64, String)> {
    rows.iter().map(|(at, text)| (*at, (*text).to_owned())).collect()
}

#[tokio::test(start_paused = true)]
async fn comments_come_at_their_time_until_there_is_something_better() {
    let after = |secs| tokio::time::sleep(Duration::from_secs(secs));
    let events = queued(async move {
        after(7).await;
        Next::Events(Body::from("data: 1\n\n"))
    });
    let here = ": here\n\n";
    assert_eq!(all(events).await, rows(&[(0, here), (3, here), (6, here), (7, "data: 1\n\n")]));
    let error = queued(async move {
        after(4).await;
        Next::Error(Bytes::from_static(b"data: {}\n\n"))
    });
    assert_eq!(all(error).await, rows(&[(0, here), (3, here), (4, "data: {}\n\n")]));
    let at_once = queued(async { Next::Events(Body::empty()) });
    assert_eq!(all(at_once).await, [], "nothing is said that is not needed");
}

#[tokio::test(start_paused = true)]
async fn who_takes_a_comment_late_gets_one_and_not_all_that_were_missed() {
    let mut body = queued(std::future::pending());
    body.frame().await.unwrap().unwrap();
    tokio::time::advance(10 * EVERY).await;
    body.frame().await.unwrap().unwrap();
    let next = tokio::time::timeout(EVERY - Duration::from_millis(1), body.frame()).await;
    assert!(next.is_err(), "the next is due after a whole span");
}

#[test]
fn only_plain_events_can_follow_comments() {
    for (kind, coding, good) in [
        (Some("text/event-stream"), None, true),
        (Some("text/event-stream; charset=utf-8"), Some("identity"), true),
        (None, None, true),
        (Some("application/json"), None, false),
        (Some("text/event-stream"), Some("gzip"), false),
    ] {
        let mut headers = HeaderMap::new();
        for (name, value) in [(CONTENT_TYPE, kind), (CONTENT_ENCODING, coding)] {
            if let Some(value) = value {
                headers.insert(name, HeaderValue::from_static(value));
            }
        }
        assert_eq!(can_follow(&headers), good, "{kind:?} {coding:?}");
    }
}
