//! `/usage`: the same from memory and from disk.

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate::simulator::Simulator;

use crate::support::{ANY, Gateway, hello, roomy, send, with};

/// Two tenants; the first one's key is `key-a`.
const KEYS: &str = r#"
upstream.api_key = "env:ACCOUNT_KEY"
retry.max_attempts = 1
[[keys]]
name = "team-a"
hash = "sha256:f10f781241e2246678b6b45c857069208152a53863e47fac33f607ab405006f4"
[[keys]]
name = "team-b"
hash = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
"#;

async fn json(gateway: &Gateway, query: &str) -> Value {
    let (status, text) = gateway.page(&format!("/usage?{query}")).await;
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).expect("JSON")
}

/// What of several kinds of end is told, by whom and of what.
async fn told(gateway: &Gateway, kept: &str) {
    let chat = |body: &Value, key: &str, fault: &str| {
        let request = gateway.chat(body).header("authorization", format!("Bearer {key}"));
        send(request.header("x-sim-fault", fault.to_owned()))
    };
    let other = with(hello(), "model", "=other");
    for (body, key, fault, status) in [
        (&hello(), "key-a", "", 200),
        (&hello(), "key-a", "", 200),
        (&other, "key-a", "", 200),
        (&hello(), "key-a", "status:500", 500),
        (&with(hello(), "max_completion_tokens", 200_000), "key-a", "", 413),
        (&hello(), "stranger", "", 401),
    ] {
        let response = chat(body, key, fault).await;
        assert_eq!(response.status().as_u16(), status);
        response.bytes().await.expect("whole");
    }
    gateway.settled().await;
    let page = json(gateway, "by=tenant&since=1h").await;
    assert_eq!((&page["kept"], &page["complete"]), (&json!(kept), &json!(true)), "{page:#}");
    assert_eq!((&page["step"], &page["truncated"]), (&json!("total"), &json!(false)));
    let rows = page["rows"].as_array().expect("a list");
    let tenants: Vec<_> = rows.iter().map(|row| row["tenant"].as_str()).collect();
    assert_eq!(tenants, [Some("(none)"), Some("team-a")], "{page:#}");
    let expected = json!({"total": 5, "completed": 3, "failed": 1, "refused": 1, "gone": 0});
    assert_eq!(rows[1]["requests"], expected, "{page:#}");
    let expected = json!({"prompt": 30, "completion": 30, "cached": 0});
    assert_eq!(rows[1]["tokens"], expected, "{page:#}");
    assert!(rows[1]["queue_wait_seconds"]["sum"].is_number(), "{page:#}");
    let page = json(gateway, "by=model&since=1h&step=day").await;
    let models = page["rows"].as_array().expect("a list").iter().map(|row| row["model"].clone());
    assert_eq!(models.collect::<Vec<_>>(), ["(none)", "=other", "m"], "{page:#}");
    let page = json(gateway, "by=total&since=2020-01-01&until=2020-02-01").await;
    assert_eq!(page["rows"], json!([]));
}

async fn csv(gateway: &Gateway) {
    let url = format!("http://{}/usage?by=tenant,model&since=1h", gateway.admin);
    for request in [
        gateway.client.get(format!("{url}&format=csv")),
        gateway.client.get(&url).header(ACCEPT, "text/csv, */*;q=0.1"),
    ] {
        let response = send(request).await;
        let kind = response.headers()[CONTENT_TYPE].to_str().expect("text").to_owned();
        assert!(kind.starts_with("text/csv"), "{kind}");
        assert_eq!(response.headers()["x-tidegate-complete"], "true");
        assert_eq!(response.headers()["x-tidegate-truncated"], "false");
        let text = response.text().await.expect("text");
        let lines: Vec<_> = text.split("\r\n").collect();
        assert!(lines[0].starts_with("at,tenant,model,requests,completed,failed,"), "{text}");
        assert_eq!((lines.len(), lines[4]), (5, ""), "{text}");
        let columns = lines[0].split(',').count();
        for line in &lines[1..4] {
            assert_eq!(line.split(',').count(), columns, "{text}");
        }
        assert!(lines[2].contains(",\"team-a\",\"'=other\",1,1,0,0,0,10,10,0,"), "{text}");
        assert!(lines[3].contains(",\"team-a\",\"m\",4,2,1,1,0,20,20,0,"), "{text}");
    }
}

async fn wrong(gateway: &Gateway) {
    let (status, text) = gateway.page("/usage?by=key&since=soon&limit=5").await;
    let page: Value = serde_json::from_str(&text).expect("JSON");
    let problems = page["problems"].as_array().expect("a list");
    let named: Vec<_> = problems.iter().map(|it| it["parameter"].as_str()).collect();
    assert_eq!((status, named), (400, vec![Some("by"), Some("since"), Some("")]), "{text}");
}

/// The status has the same of today, without a look at the disk.
async fn today(gateway: &Gateway) {
    let today = &gateway.status().await["today"];
    assert!(today["since"].as_str().is_some_and(|it| it.ends_with("T00:00:00.000000Z")));
    let expected = json!([
        {"tenant": "team-a", "tokens": 60, "prompt_tokens": 30, "completion_tokens": 30,
         "requests": 5, "completed": 3, "refused": 1},
        {"tenant": "(none)", "tokens": 0, "prompt_tokens": 0, "completion_tokens": 0,
         "requests": 1, "completed": 0, "refused": 1},
    ]);
    assert_eq!(today["tenants"], expected);
}

#[tokio::test]
async fn usage_is_told_from_memory() {
    let simulator = Simulator::start(roomy(), ANY).await.expect("a free port");
    let gateway = Gateway::start(&simulator.base_url(), KEYS);
    told(&gateway, "memory").await;
    today(&gateway).await;
    csv(&gateway).await;
    wrong(&gateway).await;
    gateway.close().await;
}

#[tokio::test]
async fn usage_is_told_from_disk_also_by_the_next_process() {
    let simulator = Simulator::start(roomy(), ANY).await.expect("a free port");
    let dir = TempDir::new().expect("a directory");
    let changes = format!("{KEYS}\n[state]\ndir = {:?}", dir.path());
    let gateway = Gateway::start(&simulator.base_url(), &changes);
    told(&gateway, "disk").await;
    today(&gateway).await;
    csv(&gateway).await;
    wrong(&gateway).await;
    gateway.close().await;
    let gateway = Gateway::start(&simulator.base_url(), &changes);
    csv(&gateway).await;
    today(&gateway).await;
    gateway.close().await;
}
