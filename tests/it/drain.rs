//! The end under load: the program is told to stop while hundreds of requests are under way, and
//! every one of them gets its answer, whole, once.

use std::sync::Arc;

use futures_util::future::join_all;
use parking_lot::Mutex;
use rustix::process::Signal;
use serde_json::{Value, json};
use tidegate::simulator::Simulator;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::support::process::{Process, file, path, tidegate};
use crate::support::upstream::{LAST_CHUNK, STREAM_HEAD, Seen, Upstream, answer, chunk};
use crate::support::wire::{Answer, Wire, chat};
use crate::support::{ANY, config_text, eventually, hello, roomy, with};

/// Requests under way when the signal comes: half of them are streams.
const UNDER_WAY: usize = 500;

/// Long enough for any machine: it is a bound on what goes wrong, not a measure.
const DRAIN: &str = "server.drain_timeout = \"60s\"\nlog.requests = false\n";

fn request(number: usize) -> Value {
    let text = format!("request number {number}.");
    let body = json!({"model": "m", "messages": [{"role": "user", "content": text}]});
    if number.is_multiple_of(2) { with(body, "stream", true) } else { body }
}

/// What the answer to a request says, which no other answer does; half of them in two pieces.
fn pieces(seen: &Seen) -> (Vec<u8>, Vec<u8>) {
    let body = std::str::from_utf8(&seen.body).expect("text");
    let rest = body.split("request number ").nth(1).expect("a number");
    let number = rest.split('.').next().expect("a number");
    let usage = "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4,\"total_tokens\":7}";
    if !body.contains("\"stream\":true") {
        let text =
            format!("{{\"choices\":[{{\"message\":{{\"content\":\"{number}\"}}}}],{usage}}}");
        return (Vec::new(), answer("200 OK", "content-type: application/json\r\n", text));
    }
    let delta = |text: &str| {
        format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n")
    };
    let last = format!("{}data: {{\"choices\":[],{usage}}}\n\ndata: [DONE]\n\n", delta(number));
    let first = [STREAM_HEAD.as_bytes(), &chunk(delta("answer "))].concat();
    (first, [&chunk(&last)[..], LAST_CHUNK].concat())
}

/// What a whole answer has to say.
fn expected(number: usize) -> String {
    if number.is_multiple_of(2) { format!("answer {number}") } else { number.to_string() }
}

/// What it says.
fn said(answer: &Answer, number: usize) -> String {
    assert_eq!(answer.status, 200, "{number}: {}", answer.text());
    let content = |text: &str, part: &str| {
        let value: Value = serde_json::from_str(text).expect("JSON");
        value["choices"][0][part]["content"].as_str().unwrap_or_default().to_owned()
    };
    if number % 2 == 1 {
        return content(answer.text(), "message");
    }
    let events = answer.text().strip_suffix("data: [DONE]\n\n").expect("a stream that is whole");
    let events = events.split("\n\n").filter_map(|it| it.strip_prefix("data: "));
    events.map(|event| content(event, "delta")).collect()
}

#[tokio::test]
async fn nothing_that_is_under_way_is_lost_or_sent_twice() {
    raise_descriptor_limit();
    let (seen, gate) = (Arc::new(Mutex::new(Vec::new())), watch::Sender::new(false));
    let (kept, open) = (Arc::clone(&seen), gate.subscribe());
    let upstream = Upstream::start_on(seen, move |number, mut socket| {
        let (first, last) = pieces(&kept.lock()[number]);
        let mut open = open.clone();
        async move {
            socket.write_all(&first).await.ok()?;
            open.wait_for(|open| *open).await.ok()?;
            socket.write_all(&last).await.ok().map(|()| socket)
        }
    })
    .await;
    let config = file(&config_text(&upstream.url(), DRAIN));
    let process =
        Process::start(&mut tidegate(&["serve", "--stateless", "--config", path(&config)]));
    let api = process.api;
    let calls: Vec<_> = (0..UNDER_WAY)
        .map(|number| {
            let mut open = gate.subscribe();
            tokio::spawn(async move {
                let mut wire = Wire::open(api, chat("", request(number).to_string())).await;
                open.wait_for(|open| *open).await.expect("it opens");
                wire.answer().await
            })
        })
        .collect();
    upstream.wait_seen(UNDER_WAY).await;
    process.signal(Signal::TERM);
    process.wait_page("/readyz", "draining").await;
    let refused = async || TcpStream::connect(api).await.is_err().then_some(());
    eventually("nobody new is let in", refused).await;
    gate.send_replace(true);
    for (number, answer) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(said(&answer.expect("no panic"), number), expected(number));
    }
    let (code, log) = process.end().await;
    assert_eq!(code, Some(0), "before the deadline: {log}");
    upstream.last_of(UNDER_WAY);
}

/// Two descriptors for each request are in this program.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("it is allowed");
}

#[tokio::test]
async fn a_load_balancer_has_time_to_see_it() {
    let simulator = Simulator::start(roomy(), ANY).await.expect("a free port");
    let changes = format!("server.drain_delay = \"1h\"\n{DRAIN}");
    let config = file(&config_text(&simulator.base_url(), &changes));
    let process =
        Process::start(&mut tidegate(&["serve", "--stateless", "--config", path(&config)]));
    let whole = chat("", hello().to_string());
    let mut kept = Wire::open(process.api, &whole).await;
    let first = kept.answer().await;
    assert_eq!((first.status, first.all("connection").len()), (200, 0), "it is kept");
    process.signal(Signal::TERM);
    process.wait_page("/readyz", "draining").await;
    // Whoever comes all the same is served, and told not to come here again.
    let mut fresh = Wire::open(process.api, &whole).await;
    kept.send(&whole).await;
    for wire in [&mut fresh, &mut kept] {
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.all("connection")), (200, vec!["close"]));
        assert!(wire.end().await.is_empty(), "and that was all");
    }
    // The second signal ends the delay as well.
    process.signal(Signal::TERM);
    process.end().await;
    assert_eq!(simulator.stats().completed, 3);
}
