use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::admission::pools::Named;
use crate::admission::{PoolConfig, PoolKey, TenantLimits, circuit};
use crate::config::{Config, Overrides};
use crate::limit::ColdStart;
use crate::metrics::Metrics;
use crate::time::Epoch;

const SECOND: Duration = Duration::from_secs(1);

const CONFIG: &str = r#"
[upstream]
base_url = "http://127.0.0.1:9"
[admission]
max_pools = 300
[models."*"]
output_reservation = { default = 100 }
limits = [
  { unit = "requests", limit = 100, per = "1m" },
  { unit = "tokens", limit = 1_000, per = "1h" },
]
"#;

/// An admin port without a socket.
struct Port {
    gateway: Arc<Gateway>,
    pages: Router,
    closed: CancellationToken,
    tasks: TaskTracker,
}

impl Port {
    fn open() -> Self {
        let config = Config::parse(CONFIG, [], &Overrides::default()).expect("valid");
        let classes: Vec<_> = config.classes.names().collect();
        let metrics = Arc::new(Metrics::new(&classes, &[], 10).expect("unique names"));
        let tasks = TaskTracker::new();
        let gateway = Gateway::new(Arc::new(config), metrics, Epoch::start(), tasks);
        let current = Current::new(gateway.expect("an upstream"));
        let gateway = current.get();
        let (closed, tasks) = (CancellationToken::new(), TaskTracker::new());
        let pages = app(current, None, closed.clone(), &tasks);
        Self { gateway, pages, closed, tasks }
    }

    fn pool(&self, number: u8) -> Arc<Named> {
        let profile = self.gateway.config().models.profile("m").expect("the fallback");
        let make = || {
            let config = PoolConfig {
                constraints: profile.limits.clone(),
                cold_start: ColdStart::Full,
                classes: Vec::new(),
                max_queued: 10,
                per_tenant: TenantLimits::NONE,
                settle_delay: Duration::ZERO,
                max_concurrent: None,
                min_gap: Duration::ZERO,
                circuit: circuit::Rule::OFF,
            };
            (Arc::clone(&profile.name), config)
        };
        let model = format!("model-{number}");
        self.gateway.pools().get(PoolKey([number; 16]), &model, make).expect("room")
    }

    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
        let request = Request::builder().method(method).uri(path);
        let request = headers.iter().fold(request, |it, (name, value)| it.header(*name, *value));
        let request = request.body(Body::empty()).expect("a request");
        self.pages.clone().oneshot(request).await.expect("an answer")
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let response = self.ask(Method::GET, path, &[]).await;
        (response.status(), text(response).await)
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path).await.1).expect("JSON")
    }

    /// Ends what runs beside the pages.
    async fn close(self) {
        self.closed.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn text(response: Response) -> String {
    let bytes = response.into_body().collect().await.expect("whole").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// Lets time pass, and a little more: timers are exact to a millisecond.
async fn pass(seconds: u32) {
    tokio::time::sleep(seconds * SECOND + Duration::from_millis(5)).await;
}

/// Whether a list has these numbers, to the millisecond by which timers are late.
fn about(list: &Value, expected: &[f64]) -> bool {
    let near = |(value, expected): (&Value, &f64)| {
        value.as_f64().is_some_and(|it| (it - expected).abs() <= expected / 100.0)
    };
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.len() == expected.len() && list.iter().zip(expected).all(near)
}

#[tokio::test(start_paused = true)]
async fn the_page_needs_nothing_from_elsewhere_and_its_policy_forbids_it() {
    let port = Port::open();
    let response = port.ask(Method::GET, "/", &[]).await;
    assert_eq!(response.status(), StatusCode::OK);
    let header = |name: &str| response.headers()[name].to_str().expect("text").to_owned();
    let policy = header("content-security-policy");
    for rule in [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
    ] {
        assert!(policy.split("; ").any(|it| it == rule), "{rule}: {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert_eq!(header("referrer-policy"), "no-referrer");
    assert_eq!(header("content-type"), "text/html; charset=utf-8");
    let page = text(response).await;
    for inline in ["<script>", " style=", " onload=", " onclick=", "<style", "javascript:"] {
        assert!(!page.contains(inline), "{inline}");
    }
    let links = page.split(['"', '\'']).filter(|it| it.starts_with('/') || it.contains("//"));
    let links: BTreeSet<_> = links.collect();
    assert!(links.len() >= 5, "{links:?}");
    for link in links {
        assert!(link.starts_with('/') && !link.starts_with("//"), "from elsewhere: {link}");
        assert_eq!(port.get(link).await.0, StatusCode::OK, "{link}");
    }
    port.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_page_is_read_only_and_sent_again_only_when_it_has_changed() {
    let port = Port::open();
    for path in ["/", "/page/style.css", "/page/main.js", "/page/vendor/uPlot.js"] {
        let first = port.ask(Method::GET, path, &[]).await;
        let tag = first.headers()["etag"].to_str().expect("text").to_owned();
        assert_eq!(first.headers()["cache-control"], "no-cache", "{path}");
        assert!(!text(first).await.is_empty(), "{path}");
        for (known, status) in [
            (tag.clone(), StatusCode::NOT_MODIFIED),
            (format!("W/\"x\", W/{tag}"), StatusCode::NOT_MODIFIED),
            ("*".to_owned(), StatusCode::NOT_MODIFIED),
            ("\"another\"".to_owned(), StatusCode::OK),
        ] {
            let again = port.ask(Method::GET, path, &[("if-none-match", &known)]).await;
            assert_eq!(again.status(), status, "{path} {known}");
            assert_eq!(again.headers()["etag"], tag.as_str(), "{path}");
            assert!(again.headers().contains_key("content-security-policy"), "{path}");
            assert_eq!(text(again).await.is_empty(), status == StatusCode::NOT_MODIFIED);
        }
        let head = port.ask(Method::HEAD, path, &[]).await;
        assert_eq!(
            (head.status(), &head.headers()["etag"]),
            (StatusCode::OK, &tag.parse().unwrap())
        );
        assert!(text(head).await.is_empty(), "{path}");
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            let refused = port.ask(method, path, &[]).await.status();
            assert_eq!(refused, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        }
    }
    for path in ["/history", "/events", "/status"] {
        let refused = port.ask(Method::POST, path, &[]).await.status();
        assert_eq!(refused, StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
    assert_eq!(port.get("/page/main.js.map").await.0, StatusCode::NOT_FOUND);
    port.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_last_hour_is_sampled_and_no_more_is_kept() {
    let port = Port::open();
    let pool = port.pool(1);
    assert_eq!(port.json("/history").await["times"], json!([]));
    for _ in 0..10 {
        pool.pool.recent().admitted(50, SECOND);
    }
    pass(5).await;
    let history = port.json("/history").await;
    assert_eq!(history["times"].as_array().map(Vec::len), Some(1));
    assert!(about(&history["total"]["requests_per_second"], &[2.0]), "{history:#}");
    let told = &history["pools"][0];
    assert_eq!((&told["model"], &told["profile"]), (&json!("model-1"), &json!("*")));
    assert!(about(&told["tokens_per_second"], &[100.0]), "{told:#}");
    assert!(told["wait_p95_seconds"][0].as_f64().is_some_and(|it| (0.93..1.07).contains(&it)));
    assert_eq!(told["constraints"][1]["unit"], "tokens");
    assert_eq!(told["constraints"][1]["utilisation"], json!([0.0]));

    // What is held counts as used, and an interval without requests has no wait.
    let now = port.gateway.pools().epoch().now();
    let cost = crate::limit::Cost::new(1, 250);
    let request = crate::admission::Request::new(cost, 0, now.after(SECOND));
    let held = pool.pool.admit(request).await.expect("it fits");
    pass(5).await;
    let first = history["times"][0].as_f64().expect("a number");
    let part = port.json(&format!("/history?since={first}")).await;
    assert_eq!(part["times"].as_array().map(Vec::len), Some(1));
    assert_eq!(part["pools"][0]["constraints"][1]["utilisation"], json!([0.25]));
    assert_eq!(part["pools"][0]["wait_p50_seconds"], json!([null]));
    assert_eq!(part["total"]["requests_per_second"], json!([0.0]));
    drop(held);

    pass(2 * 3_600).await;
    let history = port.json("/history").await;
    let times = history["times"].as_array().expect("a list");
    assert_eq!(times.len(), 720, "an hour");
    let span = times[719].as_f64().unwrap() - times[0].as_f64().unwrap();
    assert!((span - 3_595.0).abs() < 1.0, "{span}");
    for column in ["requests_per_second", "queued", "wait_p50_seconds"] {
        assert_eq!(history["total"][column].as_array().map(Vec::len), Some(720), "{column}");
    }
    for wrong in ["/history?since=yesterday", "/history?until=5", "/history?since=1&since=2"] {
        assert_eq!(port.get(wrong).await.0, StatusCode::BAD_REQUEST, "{wrong}");
    }
    port.close().await;
}

#[tokio::test(start_paused = true)]
async fn pools_beyond_the_bound_take_the_room_of_idle_ones() {
    let port = Port::open();
    let pools: Vec<_> = (0..120).map(|number| port.pool(number)).collect();
    pass(5).await;
    let models = async || {
        let history = port.json("/history").await;
        let pools = history["pools"].as_array().expect("a list").clone();
        pools.iter().map(|it| it["model"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    assert_eq!(models().await.len(), 20);
    for pool in &pools[100..110] {
        pool.pool.recent().admitted(1, Duration::ZERO);
    }
    pass(5).await;
    let shown = models().await;
    assert_eq!(shown.len(), 20);
    assert!((100..110).all(|it| shown.contains(&format!("model-{it}"))), "{shown:?}");
    let total = &port.json("/history").await["total"]["requests_per_second"];
    assert!(about(total, &[0.0, 2.0]), "{total}");

    let status = port.json("/status").await;
    assert_eq!(status["pools"].as_array().map(Vec::len), Some(100));
    assert_eq!(status["pools_total"], 120);
    port.close().await;
}

/// A feed that counts how often its status was worked out.
fn feed() -> (Feed, Arc<AtomicU64>, CancellationToken, TaskTracker) {
    let (closed, tasks) = (CancellationToken::new(), TaskTracker::new());
    let computed = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&computed);
    let compute = move || {
        let number = counted.fetch_add(1, Ordering::Relaxed) + 1;
        async move { format!("{{\"number\":{number}}}") }
    };
    (Feed::start(compute, closed.clone(), &tasks), computed, closed, tasks)
}

async fn frame(body: &mut Body) -> Option<String> {
    let frame = tokio::time::timeout(10 * SECOND, body.frame()).await.expect("in time")?;
    let bytes = frame.expect("whole").into_data().expect("data");
    Some(String::from_utf8(bytes.to_vec()).expect("text"))
}

#[tokio::test(start_paused = true)]
async fn the_status_is_worked_out_once_a_second_for_all_and_only_for_somebody() {
    let (feed, computed, closed, tasks) = feed();
    pass(30).await;
    assert_eq!(computed.load(Ordering::Relaxed), 0, "nobody listens");
    let response = feed.listen();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["cache-control"], "no-store");
    let mut one = response.into_body();
    let first = frame(&mut one).await;
    assert_eq!(first.as_deref(), Some("event: status\ndata: {\"number\":1}\n\n"));
    let mut two = feed.listen().into_body();
    assert_eq!(frame(&mut two).await, first, "what is there is told at once");
    for number in 2..6 {
        let expected = format!("event: status\ndata: {{\"number\":{number}}}\n\n");
        assert_eq!(frame(&mut one).await.as_ref(), Some(&expected));
        assert_eq!(frame(&mut two).await.as_ref(), Some(&expected));
    }
    // One that takes nothing for a while gets the latest, and not all that it missed.
    for _ in 6..9 {
        frame(&mut one).await;
    }
    assert!(frame(&mut two).await.is_some_and(|it| it.contains("\"number\":8")));
    drop((one, two));
    let before = computed.load(Ordering::Relaxed);
    pass(30).await;
    assert_eq!(computed.load(Ordering::Relaxed), before, "nobody listens any more");
    let mut late = feed.listen().into_body();
    let next = format!("\"number\":{}", before + 1);
    assert!(frame(&mut late).await.is_some_and(|it| it.contains(&next)), "nothing stale");
    closed.cancel();
    assert_eq!(frame(&mut late).await, None, "it ends with the port");
    tasks.close();
    tasks.wait().await;
}

#[tokio::test(start_paused = true)]
async fn only_so_many_listen_at_once() {
    let (feed, ..) = feed();
    let mut listening: Vec<_> = (0..64).map(|_| feed.listen()).collect();
    assert!(listening.iter().all(|it| it.status() == StatusCode::OK));
    let refused = feed.listen();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "5");
    listening.pop();
    assert_eq!(feed.listen().status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn events_are_statuses() {
    let port = Port::open();
    port.pool(1);
    let response = port.ask(Method::GET, "/events", &[]).await;
    let mut events = response.into_body();
    let event = frame(&mut events).await.expect("an event");
    let told = event.strip_prefix("event: status\ndata: ").expect("a status");
    let keys = |value: &Value| {
        value.as_object().map(|it| it.keys().cloned().collect::<Vec<_>>()).unwrap_or_default()
    };
    let told: Value = serde_json::from_str(told).expect("JSON in one line");
    let status = port.json("/status").await;
    assert_eq!(keys(&told), keys(&status));
    assert_eq!(told["pools"], status["pools"]);
    port.gateway.leave();
    assert!(frame(&mut events).await.is_some_and(|it| it.contains("\"draining\":true")));
    port.close().await;
    assert_eq!(frame(&mut events).await, None);
}
