//! Shapes, headers, models and accounts.

use super::*;

use tidegate::simulator::{Fault, HeaderStyle};

#[tokio::test]
async fn a_chat_answer_has_the_vendors_shape() {
    let (simulator, client) = start(options()).await;
    let response = send(chat(&client, &simulator, &with(hello(), "n", 2))).await;
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "content-type").as_deref(), Some("application/json"));
    assert!(header(&response, "x-request-id").is_some_and(|id| id.len() == 32));
    let answer = value(response).await;
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "m");
    assert!(answer["id"].as_str().is_some_and(|id| id.starts_with("chatcmpl-")));
    assert_eq!(answer["created"], START_NS / 1_000_000_000);
    assert!(answer["system_fingerprint"].is_string());
    let choices = answer["choices"].as_array().expect("choices");
    assert_eq!(choices.len(), 2);
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], index);
        assert_eq!(choice["finish_reason"], "stop");
        assert_eq!(choice["message"]["role"], "assistant");
        let text = choice["message"]["content"].as_str().expect("text");
        assert_eq!(text.split(' ').count(), 10, "ten tokens, a word each");
    }
    assert_ne!(choices[0]["message"], choices[1]["message"]);
    let usage = json!({"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30,
        "prompt_tokens_details": {"cached_tokens": 0}});
    assert_eq!(answer["usage"], usage);
    for name in ["queue_time", "prompt_time", "completion_time", "total_time", "created"] {
        assert!(answer["time_info"][name].is_number(), "{name}");
    }
}

#[tokio::test]
async fn a_text_answer_stops_at_the_requests_limit_and_repeats_itself() {
    let (simulator, client) = start(options()).await;
    let body = json!({"model": "m", "prompt": "one two three", "max_tokens": 4});
    let ask = || post(&client, &simulator, "/v1/completions", &body);
    let answer = value(send(ask()).await).await;
    assert_eq!(answer["object"], "text_completion");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["choices"][0]["text"].as_str().map(|text| text.split(' ').count()), Some(4));
    assert_eq!(answer["usage"]["total_tokens"], 3 + 4);
    let again = value(send(ask()).await).await;
    assert_eq!(again["choices"], answer["choices"]);
    let more = ask().header("x-sim-output-tokens", "3").header("x-sim-cached-tokens", "2");
    let more = value(send(more).await).await;
    assert_eq!(more["usage"]["completion_tokens"], 3);
    assert_eq!(more["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
}

#[tokio::test]
async fn six_headers_show_the_reservation_held_and_the_clock() {
    let (simulator, client) = start(options()).await;
    for stream in [false, true] {
        let before = simulator.report(None, "m").map_or(0, |report| report.counters.tokens_used);
        let response = send(chat(&client, &simulator, &with(hello(), "stream", stream))).await;
        let shown = |name: &str| header(&response, name).expect(name);
        assert_eq!(shown("x-ratelimit-limit-requests-day"), "1000");
        assert_eq!(shown("x-ratelimit-limit-tokens-minute"), "100000");
        let requests = if stream { "998" } else { "999" };
        assert_eq!(shown("x-ratelimit-remaining-requests-day"), requests);
        let remaining = 100_000 - before - (10 + 100);
        assert_eq!(shown("x-ratelimit-remaining-tokens-minute"), remaining.to_string());
        let seconds = |name: &str| shown(name).parse::<f64>().expect("float seconds");
        let (day, minute) =
            (seconds("x-ratelimit-reset-requests-day"), seconds("x-ratelimit-reset-tokens-minute"));
        assert!((0.0..=50.0).contains(&minute), "the test began ten seconds into the minute");
        assert!((day % 60.0 - minute).abs() < 1e-6, "both end on one clock: {day} {minute}");
        response.bytes().await.expect("the whole body");
    }
}

#[tokio::test]
async fn the_matrix_has_integers_of_every_limit_and_no_resets() {
    let style =
        Options { headers: HeaderStyle::Matrix, limits: Options::default().limits, ..options() };
    let (simulator, client) = start(style).await;
    let response = send(chat(&client, &simulator, &hello())).await;
    let limits =
        response.headers().iter().filter(|(name, _)| name.as_str().starts_with("x-ratelimit"));
    assert_eq!(limits.count(), 12);
    let shown = |name: &str| header(&response, name).expect(name);
    assert_eq!(shown("x-ratelimit-limit-requests-hour"), "7200");
    assert_eq!(shown("x-ratelimit-remaining-requests-hour"), "7199");
    assert_eq!(shown("x-ratelimit-remaining-tokens-day"), (120_000_000 - 110).to_string());
}

#[tokio::test]
async fn only_metered_answers_carry_limits() {
    for style in [HeaderStyle::Six, HeaderStyle::Omit] {
        let (simulator, client) = start(Options { headers: style, ..options() }).await;
        let metered = style == HeaderStyle::Six;
        for (fault, carries) in [
            ("", metered),
            ("500", metered),
            ("queue", metered),
            ("quota:tokens-minute", metered),
            ("402", false),
            ("blocked", false),
        ] {
            let response =
                send(chat(&client, &simulator, &hello()).header("x-sim-fault", fault)).await;
            let carried = response.headers().contains_key("x-ratelimit-limit-tokens-minute");
            assert_eq!(carried, carries, "{fault} {style:?}");
        }
        for path in ["/v1/models", "/public/v1/models", "/v1/models/m", "/v1/tcp_warming"] {
            let response = send(client.get(simulator.base_url() + path)).await;
            assert_eq!(response.status(), 200, "{path}");
            assert!(!response.headers().contains_key("x-ratelimit-limit-tokens-minute"));
        }
        assert_eq!(simulator.stats().unmetered, 4);
    }
}

#[tokio::test]
async fn models_and_paths_are_the_vendors() {
    let models = vec!["small".to_owned(), "org/large".to_owned()];
    let (simulator, client) = start(Options { models, ..options() }).await;
    let get = |path: &str| send(client.get(simulator.base_url() + path));
    let list = value(get("/v1/models").await).await;
    let ids: Vec<_> = list["data"].as_array().expect("a list").iter().map(|m| &m["id"]).collect();
    assert_eq!(ids, ["small", "org/large"]);
    assert_eq!(value(get("/v1/models/org/large").await).await["id"], "org/large");
    let missing = get("/v1/models/huge").await;
    assert_eq!(missing.status(), 404);
    assert_eq!(value(missing).await["code"], "model_not_found");
    assert_eq!(send(chat(&client, &simulator, &hello())).await.status(), 404);
    for path in ["/v1/v1/models", "/models", "/v1/responses", "/chat/completions"] {
        assert_eq!(get(path).await.status(), 404, "{path}");
    }
    assert_eq!(get("/v1/chat/completions").await.status(), 405);
}

#[tokio::test]
async fn keys_of_one_account_share_a_quota_and_strangers_are_refused() {
    let keys = vec!["one=team".into(), "two=team".into(), "three".into()];
    let (simulator, client) = start(Options { keys, ..options() }).await;
    for key in ["one", "two", "three"] {
        assert_eq!(send(chat(&client, &simulator, &hello()).bearer_auth(key)).await.status(), 200);
    }
    let requests = |key| simulator.report(Some(key), "m").expect("it was asked").counters.requests;
    assert_eq!((requests("one"), requests("two"), requests("three")), (2, 2, 1));
    assert_eq!(simulator.reports().len(), 2);
    let shown = format!("{:?}{:?}", simulator.reports(), simulator);
    assert!(!shown.contains("three"), "keys are secrets");
    for request in [
        chat(&client, &simulator, &hello()).bearer_auth("four"),
        chat(&client, &simulator, &hello()),
        client.get(simulator.base_url() + "/v1/models"),
    ] {
        let refused = send(request).await;
        assert_eq!(refused.status(), 401);
        assert_eq!(value(refused).await["code"], "wrong_api_key");
    }
    assert_eq!(send(client.get(simulator.base_url() + "/public/v1/models")).await.status(), 200);
}

#[tokio::test]
async fn http2_without_tls_is_served_too() {
    use http_body_util::{BodyExt, Full};
    use hyper_util::{client::legacy, rt::TokioExecutor};
    let (simulator, _) = start(options()).await;
    let client: legacy::Client<_, Full<bytes::Bytes>> =
        legacy::Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let ask = |fault: &str| {
        let uri = simulator.base_url() + "/v1/chat/completions";
        let request = http::Request::post(uri).header("x-sim-fault", fault);
        client.request(
            request.body(Full::<bytes::Bytes>::from(hello().to_string())).expect("well formed"),
        )
    };
    let response = ask("").await.expect("an answer");
    assert_eq!((response.version(), response.status().as_u16()), (http::Version::HTTP_2, 200));
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    let answer: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(answer["usage"]["total_tokens"], 20);
    for fault in [Fault::Close, Fault::Reset] {
        assert!(ask(&fault.to_string()).await.is_err(), "{fault}");
    }
    assert_eq!(ask("").await.expect("a new connection").status(), 200);
}

#[tokio::test]
async fn a_simulator_that_is_gone_accepts_nothing_and_its_port_is_free() {
    let (simulator, client) = start(options()).await;
    let (addr, url) = (simulator.addr(), simulator.base_url() + "/v1/models");
    assert_eq!(send(client.get(&url)).await.status(), 200);
    tokio::time::timeout(PATIENCE, simulator.shutdown()).await.expect("nothing holds it up");
    assert!(client.get(&url).send().await.is_err());
    let again = Simulator::start(options(), addr).await.expect("the port is free");
    assert_eq!(send(client.get(&url)).await.status(), 200);
    drop(again);
    let bad = Options { time_scale: 0.0, ..options() };
    assert!(Simulator::start(bad, ANY).await.is_err());
}
