//! What is uploaded, and what is not taken.

use std::fs;

use serde_json::{Value, json};

use super::{BOUNDARY, Place, form, good, greetings, line, upload};
use crate::support::{eventually, hello, roomy, send};

impl Place {
    /// The files on disk, whole or not.
    fn on_disk(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join("files")).expect("it is there");
        let name = |entry: fs::DirEntry| entry.file_name().into_string().expect("text");
        entries.map(|entry| name(entry.expect("an entry"))).collect()
    }

    async fn refused(&self, request: reqwest::RequestBuilder, status: u16, code: &str) -> Value {
        let response = send(request).await;
        let seen = response.status();
        let error: Value = response.json().await.expect("JSON");
        assert_eq!((seen.as_u16(), error["code"].as_str()), (status, Some(code)), "{error}");
        error
    }
}

#[tokio::test]
async fn a_file_comes_back_as_it_was() {
    let place = Place::new().await;
    let content = "any bytes\r\n\r\n--a-boundary\u{0}é";
    let name = "../../etc/in put.jsonl";
    let body = form(content, &[("purpose", "batch")]).replace("in.jsonl", name);
    let file = good(upload(&place.gateway, body)).await;
    assert_eq!((&file["object"], &file["purpose"]), (&json!("file"), &json!("batch")));
    assert_eq!(
        (&file["filename"], &file["bytes"]),
        (&json!("in put.jsonl"), &json!(content.len()))
    );
    let id = file["id"].as_str().expect("an id");
    assert_eq!(good(place.get(&format!("/v1/files/{id}"))).await, file);
    let response = send(place.get(&format!("/v1/files/{id}/content"))).await;
    assert_eq!(response.headers()["content-length"], content.len().to_string());
    assert_eq!(response.text().await.expect("a body"), content);
    assert_eq!(place.on_disk(), [id]);
    let delete = || place.gateway.client.delete(place.gateway.url(&format!("/v1/files/{id}")));
    assert_eq!(good(delete()).await, json!({"id": id, "object": "file", "deleted": true}));
    place.refused(delete(), 404, "not_found").await;
    assert_eq!(place.on_disk(), [""; 0]);
    place.gateway.wait_metric("tidegate_batch_stored_bytes", 0.0).await;
    place.close().await;
}

#[tokio::test]
async fn what_is_no_upload_is_refused_and_leaves_nothing() {
    let changes = "batch.max_file_bytes = 1000\nbatch.max_stored_bytes = 1500";
    let place = Place::with(roomy(), changes).await;
    let batch = [("purpose", "batch")];
    let no_form = place.gateway.post("/v1/files").body("{}");
    let error = place.refused(no_form, 400, "invalid_value").await;
    assert_eq!(error["param"], "file");
    for (fields, param) in [
        (&[][..], "purpose"),
        (&[("purpose", "fine-tune")], "purpose"),
        (&[("purpose", "batch"), ("expires_after[seconds]", "5")], "expires_after"),
    ] {
        let error = place.refused(upload(&place.gateway, form("x", fields)), 400, "invalid_value");
        assert_eq!(error.await["param"], param);
    }
    let twice = form("x", &batch).replace("\"purpose\"", "\"file\"");
    place.refused(upload(&place.gateway, twice), 400, "invalid_value").await;
    let none = format!(
        "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--{BOUNDARY}--\r\n"
    );
    assert_eq!(
        place.refused(upload(&place.gateway, none), 400, "invalid_value").await["param"],
        "file"
    );
    let broken = form(&"x".repeat(500), &batch).replace(&format!("--{BOUNDARY}--"), "");
    place.refused(upload(&place.gateway, broken), 400, "invalid_value").await;
    let large = upload(&place.gateway, form(&"x".repeat(1_001), &batch));
    place.refused(large, 413, "request_too_large").await;
    assert_eq!(place.on_disk(), [""; 0], "nothing is left of them");
    good(upload(&place.gateway, form(&"x".repeat(1_000), &batch))).await;
    let full = upload(&place.gateway, form(&"x".repeat(501), &batch));
    place.refused(full, 507, "storage_full").await;
    good(upload(&place.gateway, form(&"x".repeat(500), &batch))).await;
    assert_eq!(place.on_disk().len(), 2);
    place.gateway.wait_metric("tidegate_batch_stored_bytes", 1_500.0).await;
    place.close().await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    use tokio::io::AsyncWriteExt;
    let place = Place::new().await;
    let mut stream = tokio::net::TcpStream::connect(place.gateway.api).await.expect("it listens");
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\
         content-type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    );
    let part = form(&"x".repeat(5_000), &[("purpose", "batch")]);
    let part = part.trim_end_matches(&format!("--{BOUNDARY}--\r\n"));
    stream.write_all(format!("{head}{part}").as_bytes()).await.expect("it reads");
    eventually("the file being written", async || (place.on_disk().len() == 1).then_some(())).await;
    drop(stream);
    eventually("its removal", async || place.on_disk().is_empty().then_some(())).await;
    place.close().await;
}

#[tokio::test]
async fn what_is_no_batch_is_refused() {
    let place = Place::with(roomy(), "batch.max_batches = 1").await;
    let file = place.file(&greetings(1)).await;
    let wanted = |change: fn(&mut Value)| {
        let mut body = json!({
            "input_file_id": file, "endpoint": super::CHAT, "completion_window": "24h",
        });
        change(&mut body);
        place.gateway.post("/v1/batches").body(body.to_string())
    };
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 7] = [
        (|it| it["input_file_id"] = json!("file-none"), "input_file_id"),
        (|it| it["endpoint"] = json!("/v1/embeddings"), "endpoint"),
        (|it| it["completion_window"] = json!("soon"), "completion_window"),
        (|it| it["completion_window"] = json!("400d"), "completion_window"),
        (|it| it["metadata"] = json!({"k": "v".repeat(513)}), "metadata"),
        (|it| it["metadata"] = json!({"k": 7}), ""),
        (|it| *it = json!([1]), ""),
    ];
    for (change, param) in cases {
        let error = place.refused(wanted(change), 400, "invalid_value").await;
        assert_eq!(error["param"], param, "{error}");
    }
    let huge = place.gateway.post("/v1/batches").body(" ".repeat(100_000));
    place.refused(huge, 413, "request_too_large").await;
    for path in ["/v1/batches/batch_none", "/v1/files/file-none", "/v1/files/file-none/content"] {
        place.refused(place.get(path), 404, "not_found").await;
    }
    for path in
        ["/v1/files?limit=0", "/v1/files?limit=x", "/v1/files?order=up", "/v1/files?purpose=vision"]
    {
        place.refused(place.get(path), 400, "invalid_value").await;
    }
    let wrong = place.gateway.client.put(place.gateway.url("/v1/files"));
    place.refused(wrong, 405, "method_not_allowed").await;
    // One batch that waits, so that the next is one too many.
    place.fault(&["slow-head:500"]);
    let first = good(wanted(|_| {})).await;
    place.refused(wanted(|_| {}), 429, "too_many_batches").await;
    let delete = place.gateway.client.delete(place.gateway.url(&format!("/v1/files/{file}")));
    place.refused(delete, 409, "file_in_use").await;
    place.ended(first["id"].as_str().expect("an id"), "completed").await;
    place.close().await;
}

#[tokio::test]
async fn a_line_larger_than_a_body_may_be_is_a_bad_line() {
    let place = Place::with(roomy(), "server.max_body_bytes = 2000").await;
    let mut long = hello();
    long["user"] = "x".repeat(2_500).into();
    let content = format!("{}{}\n{}", greetings(2), line("long", &long), line("next", &hello()));
    let id = place.batch(&content, "24h").await;
    let batch = place.ended(&id, "failed").await;
    let problems = batch["errors"]["data"].as_array().expect("a list");
    assert_eq!(problems.len(), 1);
    assert_eq!(
        (&problems[0]["code"], &problems[0]["line"]),
        (&json!("request_too_large"), &json!(3))
    );
    place.close().await;
}
