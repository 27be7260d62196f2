//! The simulated upstream over real loopback connections: what the gateway is tested against has
//! to be right itself.

mod answers;
mod bodies;
mod faults;
mod quotas;
mod streams;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use tidegate::simulator::quota::{Limit, Name, Semantics, Unit};
use tidegate::simulator::{Latency, Options, OutputModel, Reservation, Simulator};

/// Long enough for any machine; a test that meets it has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// A midnight (UTC) and ten seconds, so that no window ends while a test runs.
const START_NS: u64 = (1_772_064_000 + 10) * 1_000_000_000;
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Instant answers of ten tokens, 100 reserved; windows on the clock, so that levels stand still.
fn options() -> Options {
    Options {
        limits: vec![
            Limit::per(Unit::Requests, Name::Day, 1_000),
            Limit::per(Unit::Tokens, Name::Minute, 100_000),
        ],
        semantics: Semantics::FixedWindow { phase_ns: 0 },
        start_unix_ns: Some(START_NS),
        latency: Latency::ZERO,
        output: OutputModel::Fixed(10),
        reservation: Reservation { default: 100, cap: None, prompt_slack_percent: 0 },
        ..Options::default()
    }
}

async fn start(options: Options) -> (Simulator, Client) {
    let simulator = Simulator::start(options, ANY).await.expect("a free loopback port");
    let client = Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client");
    (simulator, client)
}

/// Waits for the simulator's counts, but not for ever.
async fn wait_for(simulator: &Simulator, wanted: impl FnMut(&tidegate::simulator::Stats) -> bool) {
    let waited = tokio::time::timeout(PATIENCE, simulator.wait_for(wanted)).await;
    assert!(waited.is_ok(), "still {:?}", simulator.stats());
}

/// Ten prompt tokens: three for the answer's opening, four for the message, three words.
fn hello() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "one two three"}]})
}

fn with(mut body: Value, key: &str, value: impl Into<Value>) -> Value {
    body[key] = value.into();
    body
}

fn post(client: &Client, simulator: &Simulator, path: &str, body: &Value) -> RequestBuilder {
    client.post(format!("{}{path}", simulator.base_url())).json(body)
}

fn chat(client: &Client, simulator: &Simulator, body: &Value) -> RequestBuilder {
    post(client, simulator, "/v1/chat/completions", body)
}

async fn send(request: RequestBuilder) -> Response {
    request.send().await.expect("an answer")
}

async fn value(response: Response) -> Value {
    response.json().await.expect("a JSON body")
}

fn header(response: &Response, name: &str) -> Option<String> {
    Some(response.headers().get(name)?.to_str().expect("text").to_owned())
}

/// The data of each event of a stream.
fn events(text: &str) -> Vec<&str> {
    let events = text.split_terminator("\n\n");
    events.map(|event| event.strip_prefix("data: ").expect("only data lines")).collect()
}
