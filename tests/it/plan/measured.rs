//! Jobs measured from files: requests to be made, and the gateway's own log of those made.

use std::fmt::Write;

use rustix::process::Signal;
use tidegate::simulator::{Latency, Simulator};

use super::{json, run};
use crate::support::process::{Process, file, path, tidegate};
use crate::support::wire::{Wire, chat};
use crate::support::{ANY, config_text, hello, roomy};

#[test]
fn a_batch_is_measured_and_its_bad_lines_are_told() {
    let mut text = String::new();
    for number in 0..100 {
        let content = "word ".repeat(100 + number);
        writeln!(
            text,
            "{{\"custom_id\":\"{number}\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\
             \"body\":{{\"model\":\"m\",\"max_completion_tokens\":50,\"messages\":\
             [{{\"role\":\"user\",\"content\":\"{content}\"}}]}}}}"
        )
        .expect("text");
    }
    text.push_str("{\"custom_id\":\"x\"}\nsecret prompt\n");
    let jobs = file(&text);
    let (code, out, err) = run(&["--profile", path(&jobs), "--json"]);
    assert_eq!(code, Some(0));
    assert!(err.contains(":101: is neither a request") && err.contains(":102: is not"), "{err}");
    assert!(!err.contains("secret") && !out.contains("secret"));
    let answer: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    let profile = &answer["profile"];
    assert_eq!((&profile["request_lines"], &profile["bad_lines"]), (&100.into(), &2.into()));
    let mean = answer["job"]["input_tokens"].as_f64().expect("a number");
    // Words of one token each, 149.5 of them on the average, and a message around them.
    assert!((149.0..=165.0).contains(&mean), "{mean}");
    assert_eq!(
        (&answer["job"]["output_tokens"], &profile["output_tokens"]["p95"]),
        (&50.0.into(), &50.into())
    );
    let [median, most] = ["p50", "p95"].map(|it| profile["input_tokens"][it].as_u64().expect(it));
    assert!((44..=46).contains(&(most - median)), "{median} {most}");
    // What an answer is expected to have may be said instead.
    let (_, out, _) = run(&["--profile", path(&jobs), "--json", "--output-tokens", "7"]);
    let answer: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(answer["job"]["output_tokens"], 7.0);
}

#[tokio::test]
async fn the_gateways_own_log_says_what_jobs_used() {
    let latency = Latency { first_token: std::time::Duration::from_millis(20), ..Latency::ZERO };
    let options = tidegate::simulator::Options { latency, ..roomy() };
    let simulator = Simulator::start(options, ANY).await.expect("a free port");
    let config = config_text(
        &simulator.base_url(),
        "log.format = \"json\"\nlog.requests = true\nlog.level = \"info\"",
    );
    let config = file(&config);
    let process =
        Process::start(&mut tidegate(&["serve", "--stateless", "--config", path(&config)]));
    let mut wire = Wire::connect(process.api).await;
    let mut tokens = [0, 0];
    for _ in 0..5 {
        wire.send(chat("", hello().to_string())).await;
        let answer = wire.answer().await;
        let body: serde_json::Value = serde_json::from_str(answer.text()).expect("JSON");
        for (sum, field) in tokens.iter_mut().zip(["prompt_tokens", "completion_tokens"]) {
            *sum += body["usage"][field].as_u64().expect(field);
        }
    }
    // One that is refused tells no usage.
    wire.send(chat("", "{}")).await;
    assert_eq!(wire.answer().await.status, 400);
    drop(wire);
    process.signal(Signal::TERM);
    let (code, log) = process.end().await;
    assert_eq!(code, Some(0));
    let log = file(&log);
    let answer = json(&["--profile", path(&log)]);
    let profile = &answer["profile"];
    assert_eq!(
        (&profile["log_lines"], &profile["log_lines_without_usage"]),
        (&5.into(), &1.into())
    );
    assert_eq!(profile["bad_lines"], 0, "{profile}");
    for (name, sum) in ["input_tokens", "output_tokens"].into_iter().zip(tokens) {
        let mean = answer["job"][name].as_f64().expect(name);
        assert!(
            (mean * 5.0 - u32::try_from(sum).map(f64::from).expect("few")).abs() < 0.01,
            "{name}"
        );
    }
    let latency = answer["job"]["latency_seconds"].as_f64().expect("it was measured");
    assert!((0.02..5.0).contains(&latency), "{latency}");
    assert!(answer["sustained"]["max"]["workers"].is_u64());
}
