//! Streamed answers: order, shapes, where the usage stands, and pace.

use super::*;

use tidegate::simulator::UsagePlacement;

async fn stream(client: &Client, simulator: &Simulator, path: &str, body: &Value) -> String {
    let response = send(post(client, simulator, path, &with(body.clone(), "stream", true))).await;
    assert_eq!(response.status(), 200);
    let kind = header(&response, "content-type").expect("a type");
    assert!(kind.starts_with("text/event-stream"));
    response.text().await.expect("the whole stream")
}

/// The JSON events of a stream that ends as it should.
fn chunks(text: &str) -> Vec<Value> {
    let mut events = events(text);
    assert_eq!(events.pop(), Some("[DONE]"));
    events.iter().map(|event| serde_json::from_str(event).expect("JSON")).collect()
}

#[tokio::test]
async fn a_chat_stream_tells_role_content_and_end_in_order() {
    let (simulator, client) = start(Options { chunk_tokens: 4, ..options() }).await;
    let text = stream(&client, &simulator, "/v1/chat/completions", &hello()).await;
    let chunks = chunks(&text);
    assert_eq!(chunks.len(), 1 + 3 + 1, "a role, 4 + 4 + 2 tokens, an end");
    let (id, created) = (&chunks[0]["id"], &chunks[0]["created"]);
    for chunk in &chunks {
        assert_eq!((&chunk["id"], &chunk["created"]), (id, created));
        assert_eq!(
            (&chunk["object"], &chunk["model"]),
            (&"chat.completion.chunk".into(), &"m".into())
        );
    }
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let content: String = chunks[1..4]
        .iter()
        .map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().expect("text"))
        .collect();
    assert_eq!(content.split(' ').count(), 10);
    let last = &chunks[4];
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert_eq!(last["choices"][0]["delta"], json!({}));
    assert_eq!(last["usage"]["total_tokens"], 20);
    assert!(last["time_info"]["total_time"].is_number());
    assert!(chunks[..4].iter().all(|chunk| chunk.get("usage").is_none()));
    let again = stream(&client, &simulator, "/v1/chat/completions", &hello()).await;
    assert_eq!(self::chunks(&again)[1]["choices"], chunks[1]["choices"], "the same request again");
}

#[tokio::test]
async fn a_text_stream_has_every_choice_and_stops_at_the_limit() {
    let (simulator, client) = start(Options { chunk_tokens: 4, ..options() }).await;
    let body = json!({"model": "m", "prompt": "one", "n": 2, "max_tokens": 6});
    let text = stream(&client, &simulator, "/v1/completions", &body).await;
    let chunks = chunks(&text);
    for index in 0..2 {
        let of_choice = |chunk: &&Value| chunk["choices"][0]["index"] == index;
        let own: Vec<_> = chunks.iter().filter(of_choice).collect();
        let text: String = own.iter().filter_map(|c| c["choices"][0]["text"].as_str()).collect();
        assert_eq!(text.split(' ').count(), 6);
        assert_eq!(own.last().expect("an end")["choices"][0]["finish_reason"], "length");
    }
    assert!(chunks.iter().all(|chunk| chunk["object"] == "text_completion"));
    assert_eq!(chunks.last().expect("an end")["usage"]["completion_tokens"], 12);
}

#[tokio::test]
async fn usage_stands_where_the_options_say() {
    for (usage, choices) in [
        (UsagePlacement::LastChunk, Some(1)),
        (UsagePlacement::OwnChunk, Some(0)),
        (UsagePlacement::Never, None),
    ] {
        let (simulator, client) = start(Options { usage, ..options() }).await;
        let text = stream(&client, &simulator, "/v1/chat/completions", &hello()).await;
        let chunks = chunks(&text);
        let telling: Vec<_> = chunks.iter().filter(|chunk| chunk.get("usage").is_some()).collect();
        assert_eq!(telling.len(), usize::from(choices.is_some()), "{usage:?}");
        assert_eq!(
            telling.first().map(|c| c["choices"].as_array().expect("a list").len()),
            choices
        );
    }
}

#[tokio::test]
async fn a_stream_keeps_its_pace() {
    let latency =
        Latency { first_token: Duration::from_secs(1), tokens_per_second: 100, ..Latency::ZERO };
    // 20 times faster: 50 ms to the first token, half a millisecond for each of 100.
    let options =
        Options { latency, time_scale: 20.0, output: OutputModel::Fixed(100), ..options() };
    let (simulator, client) = start(options).await;
    let began = tokio::time::Instant::now();
    let mut response = send(chat(&client, &simulator, &with(hello(), "stream", true))).await;
    assert!(began.elapsed() >= Duration::from_millis(50), "the head comes with the first token");
    let (mut frames, mut text) = (0, Vec::new());
    while let Some(frame) = response.chunk().await.expect("an unbroken stream") {
        frames += 1;
        text.extend_from_slice(&frame);
    }
    assert!(began.elapsed() >= Duration::from_millis(100), "{:?}", began.elapsed());
    assert!(frames > 1, "not all at once");
    let text = String::from_utf8(text).expect("text");
    let last = chunks(&text).pop().expect("an end");
    assert!((last["time_info"]["total_time"].as_f64().expect("seconds") - 0.1).abs() < 1e-6);
}

#[tokio::test]
async fn a_reader_that_leaves_mid_stream_is_noticed_and_pays_what_it_saw() {
    let latency = Latency { tokens_per_second: 100, ..Latency::ZERO };
    let output = OutputModel::Fixed(1_000_000);
    let options = Options { latency, output, refund_on_abort: true, chunk_tokens: 1, ..options() };
    let (simulator, client) = start(options).await;
    let mut response = send(chat(&client, &simulator, &with(hello(), "stream", true))).await;
    let mut seen = String::new();
    while !seen.contains("\"content\":\" ") {
        let frame = response.chunk().await.expect("an unbroken stream").expect("more of it");
        seen.push_str(std::str::from_utf8(&frame).expect("text"));
    }
    drop(response);
    wait_for(&simulator, |stats| stats.aborted == 1 && stats.in_flight == 0).await;
    let counters = simulator.report(None, "m").expect("it was asked").counters;
    assert!((12..2_000).contains(&counters.tokens_used), "{counters:?}");
    assert_eq!(counters.tokens_held, 0);
}
