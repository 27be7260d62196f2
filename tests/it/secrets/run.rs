//! One run of the program with everything planted: two callers, an upstream that repeats what it was
//! sent, a collector, a server that replicas share, and every error that a caller can get.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;

use super::needles::{
    ACCOUNT, ANSWER, CALLER, CODE, COLLECTOR, FILE, HEADER, LINE, OTHER, PATH, PROMPT, QUERY,
    SHARED, STRANGER, TOOL, holds,
};
use crate::shared::server::Redis;
use crate::support::process::{Process, tidegate};
use crate::support::upstream::{LAST_CHUNK, STREAM_HEAD, Seen, Upstream, answer, chunk};
use crate::support::wire::{Answer, Wire, request};
use crate::support::{config_text, eventually};
use crate::traces::collector::Collector;

const JSON: &str = "content-type: application/json\r\n";

pub(super) struct Run {
    pub(super) process: Process,
    upstream: Option<Upstream>,
    collector: Option<Collector>,
    redis: Redis,
    log: PathBuf,
    seen: Shown,
}

/// What others were shown.
#[derive(Default)]
pub(super) struct Shown {
    /// Every message to the collector.
    pub(super) collected: Vec<Vec<u8>>,
    /// Every value in the server that replicas share.
    pub(super) shared: Vec<Vec<u8>>,
    /// What the other caller was answered.
    pub(super) others: Vec<(String, Vec<u8>)>,
}

/// An upstream that does as the request's `user` says, and repeats all that it was sent.
async fn upstream() -> Upstream {
    Upstream::answering_each(std::time::Duration::ZERO, |seen: &Seen| {
        let sent = format!("{} {}", seen.head, String::from_utf8_lossy(&seen.body));
        let body: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        let error = |code: &str| {
            json!({"message": format!("{ANSWER}: {sent}"), "type": sent, "param": sent, "code": code})
        };
        let refused = |status: &str, code: &str| {
            answer(status, JSON, json!({"error": error(code)}).to_string())
        };
        if seen.line().starts_with("GET ") {
            return answer("200 OK", JSON, r#"{"object": "list", "data": []}"#);
        }
        match body["user"].as_str().unwrap_or_default() {
            "wrong" => refused("400 Bad Request", "wrong_value"),
            "key" => refused("401 Unauthorized", "wrong_api_key"),
            "quota" => refused("429 Too Many Requests", CODE),
            "broken" => refused("500 Internal Server Error", CODE),
            "no json" => answer("502 Bad Gateway", "content-type: text/html\r\n", &sent),
            "odd head" => format!("HTTP/1.1 200 OK\r\nbad header {sent}\r\n\r\n").into_bytes(),
            "cut" => {
                let whole = completion();
                whole[..whole.len() - 9].to_vec()
            }
            "stream" | "failing stream" => {
                let piece = json!({"choices": [{"delta": {"content": ANSWER}}]});
                let failed = json!({"error": error(CODE), "status_code": 500});
                let last = if body["user"] == "stream" { &piece } else { &failed };
                let events = [&piece, last].map(|it| chunk(format!("data: {it}\n\n"))).concat();
                [STREAM_HEAD.as_bytes(), &events, LAST_CHUNK].concat()
            }
            // What is kept of a batch is what the upstream said, so it says no key.
            "line" => answer("400 Bad Request", JSON, json!({"error": {"message": PROMPT}}).to_string()),
            _ => completion(),
        }
    })
    .await
}

fn completion() -> Vec<u8> {
    let call = json!({"function": {"name": "f", "arguments": TOOL}});
    let message = json!({"role": "assistant", "content": ANSWER, "tool_calls": [call]});
    let usage = json!({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7});
    let body = json!({"id": "1", "choices": [{"message": message}], "usage": usage});
    answer("200 OK", JSON, body.to_string())
}

/// A request of which everything is secret; the upstream does as `case` says.
fn chat(case: &str) -> Value {
    let call =
        json!({"id": "c", "type": "function", "function": {"name": TOOL, "arguments": TOOL}});
    json!({
        "model": "m", "user": case, "stream": case.ends_with("stream"),
        "messages": [
            {"role": "user", "name": TOOL, "content": PROMPT},
            {"role": "assistant", "tool_calls": [call]},
        ],
        "tools": [{"type": "function", "function": {"name": TOOL, "description": PROMPT}}],
        "metadata": {TOOL: PROMPT},
    })
}

/// A chat request on the wire, of a caller that has this key; `more` headers are whole lines.
fn post(key: &str, more: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let headers = format!(
        "{JSON}authorization: Bearer {key}\r\nx-secret: {HEADER}\r\nuser-agent: {HEADER}\r\n{more}"
    );
    request("POST /v1/chat/completions", &headers, body)
}

impl Run {
    pub(super) async fn start(place: &Path, format: &str) -> Self {
        let (upstream, collector) = (upstream().await, Collector::start().await);
        let redis = Redis::with(&["--requirepass", SHARED]).await;
        let hash = |key: &str| -> String {
            Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect()
        };
        let headers = place.join("collector-key");
        fs::write(&headers, format!("x-key={}", encoded(COLLECTOR))).expect("room");
        let changes = format!(
            r#"
            keys = [
              {{ name = "one", hash = "sha256:{}" }},
              {{ name = "two", hash = "sha256:{}" }},
            ]
            log = {{ level = "trace", format = "{format}" }}
            server.max_body_bytes = "64KiB"
            state.dir = {:?}
            batch.dir = {:?}
            upstream.api_key = "env:ACCOUNT_KEY"
            shared.url = "env:REDIS_URL"
            traces = {{ endpoint = "http://{}", headers = "file:{}" }}
            [models.tight]
            limits = [{{ unit = "requests", limit = 1, per = "1d" }}]
            "#,
            hash(CALLER),
            hash(OTHER),
            place.join("state"),
            place.join("batches"),
            collector.addr(),
            headers.display(),
        );
        let config = place.join("tidegate.toml");
        fs::write(&config, config_text(&upstream.url(), &changes)).expect("room");
        let log = place.join("log");
        let mut command = tidegate(&["serve", "--config", config.to_str().expect("text")]);
        command.stderr(File::create(&log).expect("a file"));
        environment(&mut command, redis.port);
        let process = Process::start(&mut command);
        let (upstream, collector) = (Some(upstream), Some(collector));
        Self { process, upstream, collector, redis, log, seen: Shown::default() }
    }

    /// Sends bytes on a connection of their own, and takes the answer.
    async fn send(&self, bytes: impl AsRef<[u8]>) -> Answer {
        Wire::open(self.process.api, bytes).await.answer().await
    }

    /// Everything that callers do.
    pub(super) async fn callers(&mut self) {
        self.answers().await;
        self.refusals().await;
        self.odd_requests().await;
        self.over_http2().await;
        self.batch().await;
        self.someone_else().await;
    }

    /// What comes of the upstream reaches whoever asked, as it is.
    async fn answers(&self) {
        for (case, status) in [
            ("right", 200),
            ("stream", 200),
            ("failing stream", 200),
            ("wrong", 400),
            ("key", 401),
            ("quota", 429),
            ("broken", 500),
            ("no json", 502),
            ("odd head", 502),
        ] {
            let answer = self.send(post(CALLER, "", chat(case).to_string())).await;
            assert_eq!(answer.status, status, "{case}: {}", answer.text());
            let own = case == "odd head";
            assert_eq!(holds(&answer.body, "-needle"), !own, "{case}: {}", answer.text());
        }
        let cut = post(CALLER, "", chat("cut").to_string());
        let _ = Wire::open(self.process.api, cut).await.try_answer().await;
        // Who hangs up leaves its prompt behind.
        let whole = post(CALLER, "", chat("right").to_string());
        drop(Wire::open(self.process.api, &whole).await);
        drop(Wire::open(self.process.api, &whole[..whole.len() - 20]).await);
        let seen = self.upstream.as_ref().expect("it is there").seen();
        assert!(seen[0].head.contains(ACCOUNT) && holds(&seen[0].body, "prompt-needle"));
    }

    /// Requests that the gateway refuses, with secrets where it is wrong.
    async fn refusals(&self) {
        let text = chat("right").to_string();
        let wrong = |key: &str, value: Value| {
            let mut body = chat("right");
            body[key] = value;
            body.to_string().into_bytes()
        };
        for (status, more, body) in [
            (400, "", text.as_bytes()[..text.len() - 1].to_vec()),
            (400, "", text.replace("user", "us\u{1}er").into_bytes()),
            (400, "", [text.as_bytes(), &[0xff]].concat()),
            (400, "", format!("[{PROMPT:?}]").into_bytes()),
            (
                400,
                "",
                text.replace("\"model\":\"m\"", "\"model\":\"m\",\"n\":1,\"n\":2").into_bytes(),
            ),
            (400, "", wrong("n", PROMPT.into())),
            (400, "", wrong("max_tokens", PROMPT.into())),
            (400, "", wrong("stream", PROMPT.into())),
            (400, "", wrong("model", format!("{PROMPT}\n").into())),
            (400, "", wrong("service_tier", json!([PROMPT]))),
            (400, "content-encoding: gzip\r\n", text.clone().into_bytes()),
            (413, "", wrong("user", PROMPT.repeat(1_500).into())),
            (415, "content-encoding: prompt-needle\r\n", text.clone().into_bytes()),
            (400, "x-tidegate-max-wait: header-needle-12\r\n", text.clone().into_bytes()),
            (400, "x-tidegate-class: header-needle-12\r\n", text.clone().into_bytes()),
            (200, "traceparent: header-needle-12\r\n", text.clone().into_bytes()),
        ] {
            let answer = self.send(post(CALLER, more, &body)).await;
            let shown = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
            assert_eq!(answer.status, status, "{more}{shown}: {}", answer.text());
        }
        let headers =
            format!("content-type: application/msgpack\r\nauthorization: Bearer {CALLER}\r\n");
        let pack = request("POST /v1/chat/completions", &headers, PROMPT);
        assert_eq!(self.send(pack).await.status, 400);
        for key in [STRANGER, "", PATH, &CALLER[..CALLER.len() - 1]] {
            assert_eq!(self.send(post(key, "", &text)).await.status, 401);
        }
        assert_eq!(self.send(request("POST /v1/chat/completions", JSON, &text)).await.status, 401);
        let tight = wrong("model", "tight".into());
        let patience = "x-tidegate-max-wait: 1ms\r\n";
        assert_eq!(self.send(post(CALLER, "", &tight)).await.status, 200);
        assert_eq!(self.send(post(CALLER, patience, &tight)).await.status, 429);
    }

    /// What is no request for a model: other paths, methods and forms, and what is not HTTP.
    async fn odd_requests(&self) {
        let headers = format!("{JSON}authorization: Bearer {CALLER}\r\ncookie: k={QUERY}\r\n");
        for line in [
            &format!("GET /v1/{PATH}?key={QUERY}"),
            &format!("POST /v1/{PATH}/../chat/completions"),
            &format!("DELETE /v1/chat/completions?key={QUERY}"),
            &format!("GET /v1/files/{PATH}?key={QUERY}"),
            &format!("GET /v1/files/{PATH}/content"),
            &format!("GET /v1/batches/{PATH}"),
            &format!("GET /v1/batches?after={QUERY}&limit={QUERY}"),
            &format!("POST /v1/batches/{PATH}/cancel"),
            &format!("GET /v1/models/{PATH}?key={QUERY}"),
            &format!("GET http://{QUERY}:secret@elsewhere/{PATH}"),
            &format!("{} /v1/models", PATH.replace('-', "")),
            "GET /v1/models",
        ] {
            let answer = self.send(request(line, &headers, "")).await;
            assert!((200..500).contains(&answer.status), "{line}: {}", answer.status);
        }
        for line in ["POST /v1/files", "POST /v1/batches"] {
            let body =
                json!({"input_file_id": PROMPT, "endpoint": PATH, "metadata": {TOOL: PROMPT}});
            let answer = self.send(request(line, &headers, body.to_string())).await;
            assert!((400..500).contains(&answer.status), "{line}: {}", answer.status);
        }
        for bytes in [
            format!("{PROMPT}\r\n\r\n"),
            format!("GET /v1/{PATH} {QUERY}\r\n\r\n"),
            format!("GET /v1/models HTTP/1.1\r\nhost: g\r\n{HEADER}\r\n\r\n"),
            format!("GET /v1/models HTTP/1.1\r\nhost: {QUERY}\r\nhost: g\r\n\r\n"),
            format!("CONNECT {QUERY}:443 HTTP/1.1\r\nhost: {QUERY}\r\n\r\n"),
        ] {
            let mut wire = Wire::open(self.process.api, &bytes).await;
            let _ = wire.try_answer().await;
        }
    }

    /// Compressed headers and framed bodies are what a library may say most about.
    async fn over_http2(&self) {
        let socket = TcpStream::connect(self.process.api).await.expect("it listens");
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
                .await
                .expect("HTTP/2");
        let connection = tokio::spawn(connection);
        for (case, key, status) in [
            ("right", CALLER, 200),
            ("stream", CALLER, 200),
            ("wrong", CALLER, 400),
            ("", STRANGER, 401),
        ] {
            let request = Request::post(format!("http://gateway/v1/chat/completions?key={QUERY}"))
                .header("content-type", "application/json")
                .header("authorization", format!("Bearer {key}"))
                .header("x-secret", HEADER)
                .body(Full::new(Bytes::from(chat(case).to_string())))
                .expect("a request");
            let answer = sender.send_request(request).await.expect("an answer");
            assert_eq!(answer.status().as_u16(), status, "{case}");
            answer.into_body().collect().await.expect("whole");
        }
        connection.abort();
    }

    /// A file with a line that is good and lines that are not, worked off and fetched.
    async fn batch(&self) {
        let line = |id: &str, body: Value| json!({"custom_id": id, "method": "POST", "url": "/v1/chat/completions", "body": body});
        let body =
            |text: &str| json!({"model": "m", "messages": [{"role": "user", "content": text}]});
        let (good, failing) = (line(TOOL, body(LINE)), line(PROMPT, chat("line")));
        let bad = format!("{}\n{{{PROMPT:?}: \n", line(LINE, json!({"model": PROMPT.repeat(9)})));
        for (lines, end) in [(format!("{good}\n{failing}\n"), "completed"), (bad, "failed")] {
            let file = self.upload(&lines).await;
            let wanted = json!({
                "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h",
                "metadata": {"name": TOOL},
            });
            let batch = self.own("POST /v1/batches", JSON, wanted.to_string()).await;
            let id = batch["id"].as_str().expect("an id").to_owned();
            let over = async || {
                let batch = self.own(&format!("GET /v1/batches/{id}"), "", "").await;
                (batch["status"] == end).then_some(batch)
            };
            let batch = eventually("the batch's end", over).await;
            if let Some(output) = batch["output_file_id"].as_str() {
                let headers = format!("authorization: Bearer {CALLER}\r\n");
                let line = format!("GET /v1/files/{output}/content");
                let content = self.send(request(&line, &headers, "")).await;
                assert!(holds(&content.body, "answer-needle"), "{}", content.text());
            }
        }
    }

    async fn upload(&self, lines: &str) -> String {
        const MARK: &str = "a-boundary-that-is-in-no-file";
        let part = |disposition: &str, text: &str| {
            format!("--{MARK}\r\ncontent-disposition: form-data; {disposition}\r\n\r\n{text}\r\n")
        };
        let file = part(&format!("name=\"file\"; filename=\"{FILE}\""), lines);
        let body = part("name=\"purpose\"", "batch") + &file + &format!("--{MARK}--\r\n");
        let kind = format!("content-type: multipart/form-data; boundary={MARK}\r\n");
        let file = self.own("POST /v1/files", &kind, body).await;
        assert_eq!(file["filename"], FILE);
        file["id"].as_str().expect("an id").to_owned()
    }

    /// A good answer to the caller whose secrets they are.
    async fn own(&self, line: &str, headers: &str, body: impl AsRef<[u8]>) -> Value {
        let headers = format!("{headers}authorization: Bearer {CALLER}\r\n");
        let answer = self.send(request(line, &headers, body)).await;
        assert_eq!(answer.status, 200, "{line}: {}", answer.text());
        serde_json::from_slice(&answer.body).expect("JSON")
    }

    /// Whatever another caller may ask for.
    async fn someone_else(&mut self) {
        let files = self.own("GET /v1/files", "", "").await;
        let batches = self.own("GET /v1/batches", "", "").await;
        let id = |list: &Value| list["data"][0]["id"].as_str().expect("there is one").to_owned();
        let (file, batch) = (id(&files), id(&batches));
        let headers = format!("{JSON}authorization: Bearer {OTHER}\r\n");
        for line in [
            "GET /v1/files".to_owned(),
            format!("GET /v1/files/{file}"),
            format!("GET /v1/files/{file}/content"),
            format!("DELETE /v1/files/{file}"),
            "GET /v1/batches".to_owned(),
            format!("GET /v1/batches/{batch}"),
            format!("POST /v1/batches/{batch}/cancel"),
            "GET /v1/models".to_owned(),
            "GET /v1/elsewhere".to_owned(),
            "POST /v1/chat/completions".to_owned(),
        ] {
            let answer = self.send(request(&line, &headers, "")).await;
            let head = format!("{:?}", answer.headers).into_bytes();
            self.seen.others.push((line, [head, answer.body].concat()));
        }
    }

    /// The others go away, each in a way that is an error.
    pub(super) async fn without_the_others(&mut self) {
        let shared = encoded(SHARED);
        let url = format!("redis://:{shared}@127.0.0.1:{}", self.redis.port);
        let client = redis::Client::open(url).expect("a URL");
        let mut connection = client.get_connection().expect("the password is right");
        let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query(&mut connection).expect("keys");
        assert!(!keys.is_empty(), "the replica has written there");
        for key in keys {
            let value: Vec<u8> = redis::cmd("DUMP").arg(&key).query(&mut connection).expect("it");
            self.seen.shared.extend([key, value]);
        }
        self.redis.kill();
        let collector = self.collector.take().expect("it was there");
        collector.wait_messages(1).await;
        let messages = collector.messages();
        assert!(messages.iter().all(|(headers, _)| headers["x-key"] == COLLECTOR));
        self.seen.collected = messages.into_iter().map(|(_, body)| body.to_vec()).collect();
        drop(collector);
        drop(self.upstream.take());
        let answer = self.send(post(CALLER, "", chat("right").to_string())).await;
        assert!((500..600).contains(&answer.status), "{}", answer.text());
        let id = answer.all("x-request-id")[0].to_owned();
        let logged = async || self.log().contains(&id).then_some(());
        eventually("the last request's line", logged).await;
    }

    fn log(&self) -> String {
        String::from_utf8(fs::read(&self.log).expect("it is ours")).expect("text")
    }

    /// Ends the program at once; all that it wrote, and what others were shown.
    pub(super) async fn kill(self) -> (String, Shown) {
        self.process.signal(Signal::KILL);
        let (stdout, _) = self.process.output().await;
        let log = fs::read(&self.log).expect("it is ours");
        (stdout + std::str::from_utf8(&log).expect("text"), self.seen)
    }
}

/// What the program's environment holds.
pub(super) fn environment(command: &mut std::process::Command, port: u16) {
    command.env("ACCOUNT_KEY", ACCOUNT);
    command.env("REDIS_URL", format!("redis://:{}@127.0.0.1:{port}", encoded(SHARED)));
}

/// With `%` and digits for whatever is not plain.
fn encoded(text: &str) -> String {
    let spell = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(spell).collect()
}
