//! What is held for a request: what the gateway learns of it, and what it gives back.

use serde_json::Value;

use crate::support::{hello, pair, roomy, send};

/// What is spent of the only pool's quota in this unit.
fn spent(status: &Value, unit: &str) -> i64 {
    let all = status["pools"][0]["constraints"].as_array().expect("a list");
    let found = all.iter().find(|it| it["unit"] == unit).expect("it is limited");
    let number = |key: &str| found[key].as_i64().expect("a number");
    number("limit") - number("available")
}

#[tokio::test]
async fn cached_tokens_come_back_where_only_the_others_are_limited() {
    let changes = r#"
        [models."*"]
        limits = [
          { unit = "uncached_tokens", limit = 1_000, per = "1d", name = "minute", mode = "sliding" },
          { unit = "tokens", limit = 3_000, per = "1d", name = "minute", mode = "sliding" },
        ]
    "#;
    let (_simulator, gateway) = pair(roomy(), changes).await;
    // Ten tokens of prompt and ten of output each; of the second, eight had been cached.
    for (cached, tokens, uncached) in [("0", 20, 20), ("8", 40, 32)] {
        let answer = send(gateway.chat(&hello()).header("x-sim-cached-tokens", cached)).await;
        assert_eq!(answer.status(), 200);
        answer.bytes().await.expect("whole");
        let status = gateway.settled().await;
        assert_eq!(
            (spent(&status, "tokens"), spent(&status, "uncached_tokens")),
            (tokens, uncached)
        );
    }
    gateway.close().await;
}
