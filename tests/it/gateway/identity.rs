//! Who asks, whose quota that is, and what nobody gets to see.

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::wire::{Wire, chat, request};
use crate::support::{ACCOUNT_KEY, Gateway, flat, hello, pair, roomy, send, with};

const ACCOUNT: &str = "upstream.api_key = \"env:ACCOUNT_KEY\"";
const TEAM_KEY: &str = "tg-planted-virtual-key";
const PROMPT: &str = "planted prompt text";

fn with_keys() -> String {
    let hash: String = Sha256::digest(TEAM_KEY).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{ACCOUNT}\nkeys = [ {{ name = \"team-a\", hash = \"sha256:{hash}\" }} ]")
}

/// Requests spent in every pool, by its model, in order.
async fn spent(gateway: &Gateway) -> Vec<(String, i64)> {
    let status = gateway.settled().await;
    let pools = status["pools"].as_array().expect("a list").iter();
    let of = |pool: &Value| {
        let level = &pool["constraints"][0];
        let spent = level["limit"].as_i64().zip(level["available"].as_i64());
        (pool["model"].as_str().expect("text").to_owned(), spent.map_or(0, |(a, b)| a - b))
    };
    let mut spent: Vec<_> = pools.map(of).collect();
    spent.sort();
    spent
}

async fn ask(gateway: &Gateway, key: Option<&str>, model: &str) -> u16 {
    let mut request = gateway.chat(&with(hello(), "model", model));
    if let Some(key) = key {
        request = request.bearer_auth(key);
    }
    send(request).await.status().as_u16()
}

#[tokio::test]
async fn without_a_key_of_its_own_each_callers_key_and_model_has_a_pool() {
    let (simulator, gateway) = pair(roomy(), "").await;
    for (key, model) in [
        (Some("one"), "m"),
        (Some("one"), "m"),
        (Some("two"), "m"),
        (Some("one"), "n"),
        (None, "m"),
    ] {
        assert_eq!(ask(&gateway, key, model).await, 200);
    }
    let pools = [("m", 1), ("m", 1), ("m", 2), ("n", 1)].map(|(it, n)| (it.to_owned(), n));
    assert_eq!(spent(&gateway).await, pools);
    let admitted = |key| simulator.report(key, "m").expect("it was asked").counters.admitted;
    assert_eq!([Some("one"), Some("two"), None].map(admitted), [2, 1, 1], "as theirs");
    gateway.close().await;
}

#[tokio::test]
async fn with_the_accounts_key_all_callers_share_one_pool() {
    let (simulator, gateway) = pair(roomy(), ACCOUNT).await;
    for key in [Some("one"), Some("two"), None] {
        assert_eq!(ask(&gateway, key, "m").await, 200);
    }
    assert_eq!(spent(&gateway).await, [("m".to_owned(), 3)]);
    let report = simulator.report(Some(ACCOUNT_KEY), "m").expect("it was asked");
    assert_eq!((simulator.reports().len(), report.counters.admitted), (1, 3));
    gateway.close().await;
}

#[tokio::test]
async fn only_holders_of_a_configured_key_are_let_in() {
    let (simulator, gateway) = pair(roomy(), &with_keys()).await;
    assert_eq!(ask(&gateway, Some(TEAM_KEY), "m").await, 200);
    let body = hello().to_string();
    let wrong = [
        String::new(),
        "authorization: Bearer wrong\r\n".to_owned(),
        "authorization: Bearer\r\n".to_owned(),
        "authorization: \r\n".to_owned(),
        format!("authorization: Bearer {TEAM_KEY}x\r\n"),
        format!("authorization: Basic {TEAM_KEY}\r\n"),
        format!("authorization: Bearer {ACCOUNT_KEY}\r\n"),
        format!("api-key: {TEAM_KEY}\r\n"),
    ];
    for headers in &wrong {
        let get = request("GET /v1/models", headers, "");
        for bytes in [chat(headers, &body), get] {
            let answer = Wire::open(gateway.api, bytes).await.answer().await;
            assert_eq!(answer.status, 401, "{headers}");
            assert_eq!(flat(answer.text(), "wrong_api_key")["param"], "api_key");
        }
    }
    let get = request("GET /v1/models", &format!("authorization: bearer {TEAM_KEY}\r\n"), "");
    assert_eq!(Wire::open(gateway.api, get).await.answer().await.status, 200);
    let stats = simulator.stats();
    assert_eq!((stats.started, stats.unmetered), (1, 1), "strangers get nowhere");
    assert!((gateway.outcome("unauthorized").await - 16.0).abs() < 0.1);
    gateway.close().await;
}

#[tokio::test]
async fn no_body_is_read_for_a_stranger() {
    let (_simulator, gateway) = pair(roomy(), &with_keys()).await;
    // The body is asked for only once the key is right; here it never comes.
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nexpect: 100-continue\r\n\
                content-type: application/json\r\ncontent-length: 1000\r\n";
    let wrong = format!("{head}authorization: Bearer wrong\r\n\r\n");
    let mut wire = Wire::open(gateway.api, wrong).await;
    assert_eq!(wire.head().await.expect("an answer").status, 401);
    drop(wire);
    let right = format!("{head}authorization: Bearer {TEAM_KEY}\r\n\r\n");
    let mut wire = Wire::open(gateway.api, right).await;
    assert_eq!(wire.head().await.expect("an answer").status, 100);
    drop(wire);
    gateway.close().await;
}

#[tokio::test]
async fn secrets_and_prompts_show_up_nowhere() {
    let (simulator, gateway) = pair(roomy(), &with_keys()).await;
    let body = with(hello(), "messages", serde_json::json!([{"role": "user", "content": PROMPT}]));
    let mut texts = Vec::new();
    for (fault, max_tokens, key) in [
        ("", 10, TEAM_KEY),
        ("status:500", 10, TEAM_KEY),
        ("cut", 10, TEAM_KEY),
        ("", 200_000, TEAM_KEY),
        ("", 10, "tg-planted-virtual-key-that-is-wrong"),
    ] {
        let request = gateway.chat(&with(body.clone(), "max_completion_tokens", max_tokens));
        let request = request.bearer_auth(key).header("x-sim-fault", fault);
        let response = send(request).await;
        texts.push(format!("{:?}", response.headers()));
        texts.push(response.text().await.unwrap_or_default());
    }
    let malformed = format!("{{\"model\": \"m\", {PROMPT} \"{TEAM_KEY}\"}}");
    let headers = format!("authorization: Bearer {TEAM_KEY}\r\n");
    let answer = Wire::open(gateway.api, chat(&headers, malformed)).await.answer().await;
    assert_eq!(answer.status, 400);
    texts.push(answer.text().to_owned());
    for page in ["/metrics", "/status", "/config", "/readyz", "/livez"] {
        texts.push(gateway.page(page).await.1);
    }
    for text in &texts {
        for planted in [ACCOUNT_KEY, "planted-virtual", PROMPT] {
            assert!(!text.contains(planted), "{planted}: {text}");
        }
    }
    assert!(simulator.stats().started >= 3, "the requests went through");
    gateway.close().await;
}
