//! How bodies are read, and how bad ones are refused.

use super::*;

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(plain).expect("in memory");
    encoder.finish().expect("in memory")
}

fn raw(client: &Client, simulator: &Simulator, kind: &str, body: Vec<u8>) -> RequestBuilder {
    let url = format!("{}/v1/chat/completions", simulator.base_url());
    client.post(url).header("content-type", kind).body(body)
}

#[tokio::test]
async fn json_and_msgpack_plain_and_compressed_mean_the_same() {
    let (simulator, client) = start(options()).await;
    let json = hello().to_string().into_bytes();
    let msgpack = rmp_serde::to_vec(&hello()).expect("encodable");
    for (kind, body) in [
        ("application/json", &json),
        ("application/json; charset=utf-8", &json),
        ("application/msgpack", &msgpack),
        ("application/x-msgpack", &msgpack),
        ("application/vnd.msgpack", &msgpack),
    ] {
        let plain = raw(&client, &simulator, kind, body.clone());
        let zipped = raw(&client, &simulator, kind, gzip(body)).header("content-encoding", "gzip");
        for request in [plain, zipped] {
            let response = send(request).await;
            assert_eq!(response.status(), 200, "{kind}");
            assert_eq!(value(response).await["usage"]["prompt_tokens"], 10, "{kind}");
        }
    }
}

#[tokio::test]
async fn bad_requests_are_refused_by_name_in_flat_strings() {
    let (simulator, client) = start(options()).await;
    let both = with(with(hello(), "max_tokens", 5), "max_completion_tokens", 5);
    for (body, param) in [
        (with(hello(), "tidegate_class", "batch"), "tidegate_class"),
        (both, "max_completion_tokens"),
        (with(hello(), "max_tokens", 0), "max_tokens"),
        (with(hello(), "max_tokens", "5"), "max_tokens"),
        (with(hello(), "n", 0), "n"),
        (with(hello(), "stream", "yes"), "stream"),
        (with(hello(), "messages", json!([])), "messages"),
        (with(hello(), "messages", json!([{"content": "x"}])), "messages.0.role"),
        (json!({"messages": []}), "model"),
        (json!([]), "body"),
    ] {
        let response = send(chat(&client, &simulator, &body)).await;
        assert_eq!(response.status(), 400, "{param}");
        let error = value(response).await;
        let fields: Vec<_> = error.as_object().expect("an object").iter().collect();
        assert_eq!(fields.len(), 4);
        assert!(fields.iter().all(|(_, value)| value.is_string()), "{error}");
        assert_eq!((&error["code"], &error["param"]), (&"wrong_api_format".into(), &param.into()));
    }
    for (kind, encoding, body) in [
        ("application/json", "identity", b"{".to_vec()),
        ("application/msgpack", "identity", vec![0xC1]),
        ("text/plain", "identity", b"{}".to_vec()),
        ("application/json", "br", b"{}".to_vec()),
        ("application/json", "gzip", b"{}".to_vec()),
    ] {
        let request = raw(&client, &simulator, kind, body).header("content-encoding", encoding);
        assert_eq!(send(request).await.status(), 400, "{kind} {encoding}");
    }
    let stats = simulator.stats();
    assert_eq!((stats.started, stats.refused, stats.in_flight), (15, 15, 0));
    assert!(simulator.reports().is_empty(), "nothing was asked of any quota");
}

#[tokio::test]
async fn every_field_the_sdks_send_is_known() {
    let (simulator, client) = start(options()).await;
    let mut body = hello();
    for (name, given) in [
        ("temperature", json!(0.5)),
        ("top_p", json!(1)),
        ("seed", json!(1)),
        ("stop", json!(["x"])),
        ("tools", json!([])),
        ("tool_choice", json!("auto")),
        ("parallel_tool_calls", json!(true)),
        ("response_format", json!({"type": "text"})),
        ("logprobs", json!(true)),
        ("top_logprobs", json!(2)),
        ("user", json!("u")),
        ("service_tier", json!("flex")),
        ("prediction", json!({"type": "content", "content": "x"})),
        ("reasoning_effort", json!("low")),
        ("disable_reasoning", json!(true)),
        ("clear_thinking", json!(true)),
        ("prompt_cache_key", json!("k")),
        ("stream_options", json!({"include_usage": true})),
        ("min_completion_tokens", json!(1)),
        ("return_raw_tokens", json!(false)),
        ("metadata", json!({})),
        ("store", json!(false)),
    ] {
        body[name] = given;
    }
    assert_eq!(send(chat(&client, &simulator, &body)).await.status(), 200);
}

#[tokio::test]
async fn a_body_above_the_limit_is_too_large() {
    let (simulator, client) = start(Options { max_body_bytes: 200, ..options() }).await;
    let large = with(hello(), "user", "x".repeat(300));
    let response = send(chat(&client, &simulator, &large)).await;
    assert_eq!(response.status(), 413);
    assert_eq!(value(response).await["code"], "request_too_large");
    let small = gzip(large.to_string().as_bytes());
    assert!(small.len() < 200, "compressed it passes the first check");
    let request = raw(&client, &simulator, "application/json", small);
    assert_eq!(send(request.header("content-encoding", "gzip")).await.status(), 413);
}

#[tokio::test]
async fn a_client_that_goes_away_within_its_body_has_aborted() {
    use tokio::io::AsyncWriteExt;
    let (simulator, _) = start(options()).await;
    let mut socket = tokio::net::TcpStream::connect(simulator.addr()).await.expect("it listens");
    let part = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{";
    socket.write_all(part).await.expect("it takes the beginning");
    wait_for(&simulator, |stats| stats.in_flight == 1).await;
    drop(socket);
    wait_for(&simulator, |stats| stats.aborted == 1 && stats.in_flight == 0).await;
}
