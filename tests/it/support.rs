//! A gateway in process on free ports, between a client of the test's own and an upstream of its
//! choice: the simulator, or a script on a socket ([`upstream`]).

pub(crate) mod process;
pub(crate) mod prompts;
pub(crate) mod steady;
pub(crate) mod upstream;
pub(crate) mod wire;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use tidegate::config::{Config, Origin, Overrides};
use tidegate::server::{Ended, Reloader, Server};
use tidegate::simulator::quota::{Limit, Name, Unit};
use tidegate::simulator::{Latency, Options, OutputModel, Reservation, Simulator, Stats};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Long enough for any machine; a test that meets it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// The account's key where the gateway holds it.
pub(crate) const ACCOUNT_KEY: &str = "csk-planted-account-key";
/// Any free port of this machine.
pub(crate) const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

pub(crate) const REQUESTS: u64 = 1_000;
pub(crate) const TOKENS: u64 = 100_000;

/// Windows so long that nothing comes back while a test runs: what is missing was spent.
const BASE: &str = r#"
[server]
listen = "127.0.0.1:0"
admin = "127.0.0.1:0"
[admission]
settle_delay = "20ms"
[retry]
backoff = "1ms"
max_backoff = "2ms"
budget_per_second = 1000
[breaker]
failures = 0
[models."*"]
output_reservation = { default = 100 }
limits = [
  { unit = "requests", limit = 1_000, per = "1d", name = "day", mode = "sliding", learn = "never" },
  { unit = "tokens", limit = 100_000, per = "1d", name = "minute", mode = "sliding", learn = "never" },
]
"#;

/// A gateway that serves; dropping it aborts it.
pub(crate) struct Gateway {
    pub(crate) api: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) client: Client,
    run: JoinHandle<Ended>,
    _abort: DropGuard,
}

/// The text of a configuration: the tests' own, with `changes` (TOML) put over it.
pub(crate) fn config_text(upstream: &str, changes: &str) -> String {
    let mut tree: toml::Table = BASE.parse().expect("the base is TOML");
    let url = format!("upstream.base_url = {upstream:?}\n{changes}");
    merge(&mut tree, url.parse().expect("the changes are TOML"));
    toml::to_string(&tree).expect("a tree is TOML")
}

/// Puts one tree over another.
pub(crate) fn merge(tree: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (tree.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => merge(below, above),
            (_, value) => {
                tree.insert(key, value);
            }
        }
    }
}

/// A client that keeps its connections to itself.
pub(crate) fn client() -> Client {
    Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client")
}

impl Gateway {
    /// Starts one in front of `upstream`, configured with `changes` over the tests' own values.
    pub(crate) fn start(upstream: &str, changes: &str) -> Self {
        Self::start_text(&config_text(upstream, changes))
    }

    /// Starts one with this configuration.
    pub(crate) fn start_text(text: &str) -> Self {
        Self::start_in(text, [("ACCOUNT_KEY".to_owned(), ACCOUNT_KEY.to_owned())])
    }

    /// Starts one with this configuration and environment.
    pub(crate) fn start_in(
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let config = Config::parse(text, environment, &Overrides::default());
        Self::serve(Server::bind(Arc::new(config.expect("it is valid"))).expect("free ports"))
    }

    /// Starts one whose configuration can be read again.
    pub(crate) fn start_from(origin: Origin) -> (Self, Reloader) {
        let config = origin.read().expect("it is valid");
        let server = Server::bind(Arc::new(config)).expect("free ports");
        let reloader = server.reloader(origin);
        (Self::serve(server), reloader)
    }

    fn serve(server: Server) -> Self {
        let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
        let api = server.api_addr().expect("bound");
        let admin = server.admin_addr().expect("bound");
        let run = tokio::spawn(server.run(stop.clone(), abort.clone()));
        Self { api, admin, stop, client: client(), run, _abort: abort.drop_guard() }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.api)
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(self.url(path)).header("content-type", "application/json")
    }

    /// A chat request.
    pub(crate) fn chat(&self, body: &Value) -> RequestBuilder {
        self.post("/v1/chat/completions").body(body.to_string())
    }

    /// A page of the admin port: status and text.
    pub(crate) async fn page(&self, path: &str) -> (u16, String) {
        let url = format!("http://{}{path}", self.admin);
        let response = self.client.get(url).send().await.expect("the admin port answers");
        (response.status().as_u16(), response.text().await.expect("text"))
    }

    pub(crate) async fn status(&self) -> Value {
        serde_json::from_str(&self.page("/status").await.1).expect("JSON")
    }

    /// The value of a metric, by its name and labels as they stand in the text; sums those that
    /// begin so.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.page("/metrics").await;
        let values = text.lines().filter(|line| line.starts_with(name));
        values
            .map(|line| line.rsplit_once(' ').map_or("", |(_, value)| value))
            .fold(0.0, |sum, value| sum + value.parse::<f64>().expect("a number"))
    }

    /// Requests that ended so.
    pub(crate) async fn outcome(&self, outcome: &str) -> f64 {
        self.metric(&format!("tidegate_requests_total{{outcome=\"{outcome}\"}}")).await
    }

    /// Waits until a metric has a value.
    pub(crate) async fn wait_metric(&self, name: &str, value: f64) {
        eventually(&format!("{name} = {value}"), async || {
            ((self.metric(name).await - value).abs() < 0.5).then_some(())
        })
        .await;
    }

    /// Waits until so many requests wait in the queue.
    pub(crate) async fn wait_queued(&self, count: u32) {
        self.wait_metric("tidegate_queue_depth ", f64::from(count)).await;
    }

    /// Waits until nothing is left of any request: nothing held, queued, running or kept.
    pub(crate) async fn settled(&self) -> Value {
        let mut last = Value::Null;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            last = self.status().await;
            if is_idle(&last) {
                return last;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(is_idle(&last), "something is left: {last:#}");
        last
    }

    /// Units of the only pool that were spent, once nothing is held any more: requests and tokens.
    pub(crate) async fn spent(&self) -> (i64, i64) {
        let status = self.settled().await;
        let pools = status["pools"].as_array().expect("a list");
        assert_eq!(pools.len(), 1, "one account and model: {status:#}");
        let of = |unit: &str| {
            let all = pools[0]["constraints"].as_array().expect("a list");
            let found = all.iter().find(|it| it["unit"] == unit).expect("it is limited");
            let number = |key: &str| found[key].as_i64().expect("a number");
            number("limit") - number("available")
        };
        (of("requests"), of("tokens"))
    }

    /// Ends every test: nothing is left of any request, and the gateway drains in order.
    pub(crate) async fn close(self) {
        self.settled().await;
        self.stop.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.run).await;
        assert_eq!(ended.expect("it drains").expect("no panic"), Ended::Drained);
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(self) -> Ended {
        tokio::time::timeout(PATIENCE, self.run).await.expect("an end").expect("no panic")
    }
}

fn is_idle(status: &Value) -> bool {
    let zero = |value: &Value| value.as_i64() == Some(0);
    let constraints = |pool: &Value| pool["constraints"].as_array().cloned().unwrap_or_default();
    let pools = status["pools"].as_array().cloned().unwrap_or_default();
    let at_rest = |pool: &Value| {
        let counts = ["queued", "queued_bytes", "in_flight"].iter().all(|key| zero(&pool[*key]));
        counts && pool["stalled"] == false && constraints(pool).iter().all(|it| zero(&it["held"]))
    };
    let tenants = status["tenants"].as_array().cloned().unwrap_or_default();
    let tenant_at_rest = |tenant: &Value| {
        let counts = ["queued", "in_flight"].iter().all(|key| zero(&tenant[*key]));
        counts
            && tenant["stalled"] == false
            && constraints(tenant).iter().all(|it| zero(&it["held"]))
    };
    zero(&status["in_flight"])
        && zero(&status["body_bytes"])
        && pools.iter().all(at_rest)
        && tenants.iter().all(tenant_at_rest)
}

/// Looks again every few milliseconds until there is something to see.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < deadline, "still waiting for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A simulated upstream whose own limits are out of the way: ten tokens at once, 100 reserved.
pub(crate) fn roomy() -> Options {
    Options {
        limits: vec![
            Limit::per(Unit::Requests, Name::Day, 1_000_000),
            Limit::per(Unit::Tokens, Name::Minute, 1_000_000_000),
        ],
        latency: Latency::ZERO,
        output: OutputModel::Fixed(10),
        reservation: Reservation { default: 100, cap: None, prompt_slack_percent: 0 },
        ..Options::default()
    }
}

/// A simulated upstream and a gateway in front of it.
pub(crate) async fn pair(options: Options, changes: &str) -> (Simulator, Gateway) {
    let simulator = Simulator::start(options, ANY).await.expect("a free port");
    let gateway = Gateway::start(&simulator.base_url(), changes);
    (simulator, gateway)
}

/// Waits for the simulator's counts, but not for ever.
pub(crate) async fn wait_for(simulator: &Simulator, wanted: impl FnMut(&Stats) -> bool) -> Stats {
    let waited = tokio::time::timeout(PATIENCE, simulator.wait_for(wanted)).await;
    waited.unwrap_or_else(|_| simulator_stuck(simulator))
}

fn simulator_stuck(simulator: &Simulator) -> Stats {
    let stats = simulator.stats();
    assert_eq!(stats.started, u64::MAX, "the simulator still has {stats:?}");
    stats
}

/// Ten prompt tokens by the simulator's count: seven of framing and three words.
pub(crate) fn hello() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "one two three"}]})
}

pub(crate) fn with(mut body: Value, key: &str, value: impl Into<Value>) -> Value {
    body[key] = value.into();
    body
}

pub(crate) async fn send(request: RequestBuilder) -> Response {
    request.send().await.expect("an answer")
}

pub(crate) fn header(response: &Response, name: &str) -> Option<String> {
    Some(response.headers().get(name)?.to_str().expect("text").to_owned())
}

/// A whole number from a header.
pub(crate) fn number(response: &Response, name: &str) -> u64 {
    let text = header(response, name);
    let number = text.as_ref().and_then(|text| text.parse().ok());
    assert!(number.is_some(), "{name}: {text:?}");
    number.unwrap_or_default()
}

/// Checks that an answer is the gateway's own refusal in the upstream's shape; returns its error.
pub(crate) async fn refusal(response: Response, status: u16, code: &str) -> Value {
    let (seen, kind) = (response.status(), header(&response, "content-type"));
    assert!(header(&response, "x-request-id").is_some(), "every answer has a name");
    let text = response.text().await.expect("a body");
    assert_eq!((seen.as_u16(), kind.as_deref()), (status, Some("application/json")), "{text}");
    flat(&text, code)
}

/// Checks that a body is a flat error of four strings with this code.
pub(crate) fn flat(text: &str, code: &str) -> Value {
    let error: Value = serde_json::from_str(text).unwrap_or(Value::Null);
    let fields = error.as_object().map(|it| it.keys().cloned().collect::<Vec<_>>());
    let expected = ["code", "message", "param", "type"].map(String::from).to_vec();
    assert_eq!(fields, Some(expected), "{text}");
    let strings = error.as_object().is_some_and(|it| it.values().all(Value::is_string));
    assert!(strings && error["code"] == code, "{code} expected: {text}");
    error
}
