//! Files and batches, from the outside: uploaded, worked off through the queue, and fetched.

mod ends;
mod kills;
mod run;
mod tenant;
mod traced;
mod uploads;

use std::collections::BTreeMap;

use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate::simulator::quota::{Limit, Name, Unit};
use tidegate::simulator::{AcceptedKey, Fault, Options, Simulator};

use crate::support::{Gateway, eventually, hello, pair, roomy, send, with};

const CHAT: &str = "/v1/chat/completions";
const BOUNDARY: &str = "a-boundary-that-is-in-no-file";

/// A line of a file.
fn line(id: &str, body: &Value) -> Value {
    json!({"custom_id": id, "method": "POST", "url": CHAT, "body": body})
}

/// A file of so many lines that greet.
fn greetings(count: usize) -> String {
    (0..count).map(|number| format!("{}\n", line(&format!("id-{number}"), &hello()))).collect()
}

/// A form with a file.
fn form(content: &str, fields: &[(&str, &str)]) -> String {
    let part = |disposition: &str, text: &str| {
        format!("--{BOUNDARY}\r\ncontent-disposition: form-data; {disposition}\r\n\r\n{text}\r\n")
    };
    let mut form: String =
        fields.iter().map(|(name, text)| part(&format!("name=\"{name}\""), text)).collect();
    form += &part("name=\"file\"; filename=\"in.jsonl\"", content);
    form + &format!("--{BOUNDARY}--\r\n")
}

fn upload(gateway: &Gateway, form: String) -> RequestBuilder {
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    gateway.client.post(gateway.url("/v1/files")).header("content-type", kind).body(form)
}

/// The JSON of a good answer.
async fn good(request: RequestBuilder) -> Value {
    let response = send(request).await;
    let (status, text) = (response.status(), response.text().await.expect("a body"));
    assert!(status.is_success(), "{status}: {text}");
    serde_json::from_str(&text).expect("JSON")
}

/// A gateway with a directory for batches, `changes` on top.
struct Place {
    simulator: Simulator,
    gateway: Gateway,
    dir: TempDir,
}

impl Place {
    async fn with(options: Options, changes: &str) -> Self {
        let dir = TempDir::new().expect("a directory");
        let changes = format!("batch.dir = {:?}\n{changes}", dir.path().display().to_string());
        let (simulator, gateway) = pair(options, &changes).await;
        Self { simulator, gateway, dir }
    }

    async fn new() -> Self {
        Self::with(roomy(), "").await
    }

    /// The next requests meet these faults, one each.
    fn fault(&self, faults: &[&str]) {
        let parsed = faults.iter().map(|it| Fault::parse_all(it).expect("a fault"));
        self.simulator.script(parsed.collect::<Vec<_>>());
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.gateway.client.get(self.gateway.url(path))
    }

    /// Uploads a file; its id.
    async fn file(&self, content: &str) -> String {
        let file = good(upload(&self.gateway, form(content, &[("purpose", "batch")]))).await;
        file["id"].as_str().expect("an id").to_owned()
    }

    fn wanted(&self, file: &str, window: &str) -> RequestBuilder {
        let wanted = json!({
            "input_file_id": file, "endpoint": CHAT, "completion_window": window,
            "metadata": {"run": "nightly"},
        });
        self.gateway.post("/v1/batches").body(wanted.to_string())
    }

    /// Makes a batch of a file with this content; its id.
    async fn batch(&self, content: &str, window: &str) -> String {
        let file = self.file(content).await;
        let batch = good(self.wanted(&file, window)).await;
        assert_eq!((&batch["status"], &batch["object"]), (&json!("validating"), &json!("batch")));
        batch["id"].as_str().expect("an id").to_owned()
    }

    async fn look(&self, batch: &str) -> Value {
        good(self.get(&format!("/v1/batches/{batch}"))).await
    }

    /// The batch, once it is seen like this.
    async fn seen(&self, batch: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let look = async || Some(self.look(batch).await).filter(&is);
        eventually(what, look).await
    }

    /// The batch, once it has ended like this.
    async fn ended(&self, batch: &str, status: &str) -> Value {
        let ends = ["completed", "failed", "expired", "cancelled"];
        let over = |batch: &Value| ends.contains(&batch["status"].as_str().expect("a status"));
        let ended = self.seen(batch, "the batch's end", over).await;
        assert_eq!(ended["status"], status, "{ended}");
        ended
    }

    /// The lines of a file by `custom_id`; none if there is no file.
    async fn lines(&self, file: &Value) -> BTreeMap<String, Value> {
        let Some(id) = file.as_str() else { return BTreeMap::new() };
        let response = send(self.get(&format!("/v1/files/{id}/content"))).await;
        let text = response.text().await.expect("a body");
        by_id(&text)
    }

    async fn close(self) {
        self.gateway.close().await;
        self.simulator.shutdown().await;
    }
}

/// The lines of a file by `custom_id`, each of which is there once.
fn by_id(text: &str) -> BTreeMap<String, Value> {
    let mut lines = BTreeMap::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).expect("each line is JSON");
        let id = line["custom_id"].as_str().expect("text").to_owned();
        let twice = lines.insert(id, line);
        assert_eq!(twice, None, "one result for each line");
    }
    lines
}

/// So many requests an hour at the upstream, and in the gateway.
fn an_hour(requests: u64) -> (Options, String) {
    let limits = vec![Limit::per(Unit::Requests, Name::Hour, requests)];
    let own = format!("limits = [{{ unit = \"requests\", limit = {requests}, per = \"1h\" }}]");
    (Options { limits, ..roomy() }, format!("[models.\"*\"]\n{own}"))
}

#[tokio::test]
async fn a_batch_is_worked_off_and_every_line_has_its_answer() {
    let place = Place::with(Options { models: vec!["m".to_owned()], ..roomy() }, "").await;
    // The gateway finds nothing wrong with it, but the upstream does not know the model.
    let bad = with(hello(), "model", "n");
    let content = format!("{}\n\n{}{}", line("odd", &bad), greetings(40), line("last", &hello()));
    let id = place.batch(&content, "24h").await;
    let batch = place.ended(&id, "completed").await;
    assert_eq!(batch["request_counts"], json!({"total": 42, "completed": 41, "failed": 1}));
    assert_eq!(batch["usage"]["output_tokens"], 410);
    assert_eq!(batch["usage"]["total_tokens"], 820);
    assert_eq!((&batch["metadata"], &batch["model"]), (&json!({"run": "nightly"}), &json!("n")));
    for time in ["created_at", "in_progress_at", "finalizing_at", "completed_at", "expires_at"] {
        assert!(batch[time].is_u64(), "{time}: {batch}");
    }
    let answers = place.lines(&batch["output_file_id"]).await;
    assert_eq!(answers.len(), 41);
    let one = &answers["id-7"];
    assert_eq!((&one["response"]["status_code"], &one["error"]), (&json!(200), &Value::Null));
    assert_eq!(one["response"]["body"]["object"], "chat.completion");
    let errors = place.lines(&batch["error_file_id"]).await;
    assert_eq!(errors["odd"]["response"]["status_code"], 404, "{errors:?}");
    let output =
        good(place.get(&format!("/v1/files/{}", batch["output_file_id"].as_str().unwrap())));
    assert_eq!(output.await["purpose"], "batch_output");
    place.gateway.wait_metric("tidegate_requests_total{outcome=\"completed\"}", 41.0).await;
    place.gateway.wait_metric("tidegate_batches_running", 0.0).await;
    place.close().await;
}

#[tokio::test]
async fn every_bad_line_is_named_and_nothing_is_sent() {
    let place = Place::new().await;
    let with_url = |url: &str| {
        let mut line = line("url", &hello());
        line["url"] = url.into();
        line.to_string()
    };
    let lines: Vec<(String, Option<(&str, &str)>)> = vec![
        (line("fine", &hello()).to_string(), None),
        ("{\"custom_id\": \"cut".to_owned(), Some(("invalid_json_line", ""))),
        ("[]".to_owned(), Some(("invalid_json_line", ""))),
        (line("fine", &hello()).to_string(), Some(("duplicate_custom_id", "custom_id"))),
        (line("", &hello()).to_string(), Some(("invalid_custom_id", "custom_id"))),
        (
            json!({"custom_id": 7, "method": "POST", "url": CHAT, "body": hello()}).to_string(),
            Some(("missing_required_parameter", "custom_id")),
        ),
        (
            json!({"custom_id": "get", "method": "GET", "url": CHAT, "body": hello()}).to_string(),
            Some(("invalid_method", "method")),
        ),
        (with_url("/v1/embeddings"), Some(("url_mismatch", "url"))),
        (
            json!({"custom_id": "no body", "method": "POST", "url": CHAT}).to_string(),
            Some(("missing_required_parameter", "body")),
        ),
        (
            line("no model", &json!({"messages": []})).to_string(),
            Some(("invalid_request", "body.model")),
        ),
        (
            line("streamed", &with(hello(), "stream", true)).to_string(),
            Some(("invalid_request", "body.stream")),
        ),
        (line("fine too", &hello()).to_string(), None),
    ];
    let content: Vec<_> = lines.iter().map(|(text, _)| text.as_str()).collect();
    let id = place.batch(&content.join("\n"), "24h").await;
    let batch = place.ended(&id, "failed").await;
    let found: Vec<(u64, String, String)> = batch["errors"]["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|it| {
            let text = |key: &str| it[key].as_str().unwrap_or_default().to_owned();
            (it["line"].as_u64().expect("a number"), text("code"), text("param"))
        })
        .collect();
    let expected: Vec<_> = (1..)
        .zip(&lines)
        .filter_map(|(number, (_, problem))| {
            problem.map(|(code, param)| (number, code.to_owned(), param.to_owned()))
        })
        .collect();
    assert_eq!(found, expected);
    assert_eq!(batch["errors"]["object"], "list");
    assert_eq!(batch["output_file_id"], Value::Null);
    assert_eq!(place.simulator.stats().started, 0);
    for (content, code) in [("", "empty_file"), ("\n \n", "empty_file")] {
        let id = place.batch(content, "24h").await;
        let batch = place.ended(&id, "failed").await;
        assert_eq!(batch["errors"]["data"][0]["code"], code);
    }
    place.close().await;
    let few = Place::with(roomy(), "batch.max_lines = 3").await;
    let id = few.batch(&greetings(4), "24h").await;
    assert_eq!(few.ended(&id, "failed").await["errors"]["data"][0]["code"], "too_many_tasks");
    let id = few.batch(&greetings(3), "24h").await;
    few.ended(&id, "completed").await;
    few.close().await;
}

#[tokio::test]
async fn what_fails_is_tried_again_and_what_keeps_failing_is_an_error() {
    let changes = "retry.max_attempts = 1\nbatch.max_attempts = 2";
    let place = Place::with(roomy(), changes).await;
    place.fault(&["500"]);
    let id = place.batch(&greetings(1), "24h").await;
    let batch = place.ended(&id, "completed").await;
    assert_eq!(batch["request_counts"]["completed"], 1);
    place.gateway.wait_metric("tidegate_batch_retries_total", 1.0).await;
    place.fault(&["500", "503"]);
    let id = place.batch(&greetings(1), "24h").await;
    let batch = place.ended(&id, "completed").await;
    assert_eq!(batch["request_counts"]["failed"], 1);
    let errors = place.lines(&batch["error_file_id"]).await;
    assert_eq!(errors["id-0"]["response"]["status_code"], 503);
    place.close().await;
}

#[tokio::test]
async fn tenants_do_not_see_each_others_and_their_keys_are_nowhere_on_disk() {
    let keys = ["csk-planted-one", "csk-planted-two"];
    let accepted = keys.map(|key| AcceptedKey { key: key.to_owned(), account: key.to_owned() });
    let options = Options { keys: accepted.to_vec(), ..roomy() };
    // Callers bring their own keys.
    let place = Place::with(options, "upstream.api_key = \"\"").await;
    let form = form(&greetings(5), &[("purpose", "batch")]);
    let file = good(upload(&place.gateway, form).bearer_auth(keys[0])).await;
    let file = file["id"].as_str().expect("an id");
    let strange = send(place.wanted(file, "24h").bearer_auth(keys[1])).await;
    assert_eq!(strange.status(), 400);
    let batch = good(place.wanted(file, "24h").bearer_auth(keys[0])).await;
    let batch = batch["id"].as_str().expect("an id");
    let path = format!("/v1/batches/{batch}");
    let look = async || {
        let seen = good(place.get(&path).bearer_auth(keys[0])).await;
        (seen["status"] == "completed").then_some(seen)
    };
    let seen = eventually("the end", look).await;
    assert_eq!(seen["request_counts"]["completed"], 5, "its owner's key paid for it");
    for path in [&path, &format!("/v1/files/{file}"), &format!("/v1/files/{file}/content")] {
        assert_eq!(send(place.get(path).bearer_auth(keys[1])).await.status(), 404, "{path}");
    }
    for path in ["/v1/files", "/v1/batches"] {
        let list = good(place.get(path).bearer_auth(keys[1])).await;
        assert_eq!((&list["data"], &list["has_more"]), (&json!([]), &json!(false)));
    }
    let cancel = place.gateway.post(&format!("{path}/cancel")).bearer_auth(keys[1]);
    assert_eq!(send(cancel).await.status(), 404);
    for entry in std::fs::read_dir(place.dir.path()).expect("it is there") {
        let path = entry.expect("an entry").path();
        let bytes = std::fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("planted"), "{} holds a key", path.display());
    }
    place.close().await;
}

#[tokio::test]
async fn without_a_directory_it_is_said_what_is_missing() {
    let (simulator, gateway) = pair(roomy(), "").await;
    for path in ["/v1/files", "/v1/batches", "/files", "/v1/v1/batches/batch_x"] {
        let response = send(gateway.client.get(gateway.url(path))).await;
        assert_eq!(response.status(), 501, "{path}");
        let error: Value = response.json().await.expect("JSON");
        assert_eq!(error["code"], "batches_unavailable");
    }
    gateway.close().await;
    simulator.shutdown().await;
}

#[tokio::test]
async fn others_go_before_a_batch() {
    // Ten a second, a second's worth at once; the batch has used that up.
    let limits = vec![Limit::per(Unit::Requests, Name::Minute, 600)];
    let own = "[models.\"*\"]\nlimits = [{ unit = \"requests\", limit = 600, per = \"1m\" }]";
    let options = Options { limits, ..roomy() };
    let place = Place::with(options, own).await;
    let id = place.batch(&greetings(700), "24h").await;
    let waits = |batch: &Value| batch["tidegate"]["limited_by"] == "requests/minute";
    let seen = place.seen(&id, "it waits for quota", waits).await;
    assert!(seen["tidegate"]["waiting"].as_u64() > Some(0), "{seen}");
    let (_, text) = place.gateway.page("/status").await;
    let status: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(status["batches"][0]["batch"], id.as_str());
    assert_eq!(status["batches"][0]["limited_by"], "requests/minute");
    let done = |batch: &Value| batch["request_counts"]["completed"].as_u64().expect("a number");
    let before = done(&place.look(&id).await);
    let asked = 10;
    for _ in 0..asked {
        let request = place.gateway.chat(&hello()).header("x-tidegate-class", "interactive");
        assert_eq!(send(request).await.status(), 200);
    }
    // Of what came meanwhile the batch had its twentieth, and what was on its way.
    let after = done(&place.look(&id).await);
    assert!(after - before <= 5, "{before} to {after} while {asked} others went");
    let cancelled = good(place.gateway.post(&format!("/v1/batches/{id}/cancel"))).await;
    assert_eq!(cancelled["status"], "cancelling");
    place.ended(&id, "cancelled").await;
    place.close().await;
}
