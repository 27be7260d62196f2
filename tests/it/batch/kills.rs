//! A batch survives whatever ends the program.

use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate::simulator::Simulator;

use super::{BOUNDARY, CHAT, by_id, form, greetings};
use crate::support::process::{Process, file, path, tidegate};
use crate::support::{ANY, client, config_text, eventually, roomy};

const LINES: usize = 3_000;
const KILLS: usize = 10;

/// A gateway as a program, whose state stays.
struct Program {
    state: TempDir,
    config: tempfile::NamedTempFile,
    process: Option<Process>,
}

fn start(state: &TempDir, config: &tempfile::NamedTempFile) -> Process {
    let state = state.path().to_str().expect("text");
    let mut command = tidegate(&["serve", "--config", path(config), "--state-dir", state]);
    Process::start(command.stderr(Stdio::inherit()))
}

impl Program {
    fn new(upstream: &str) -> Self {
        let ample = r#"
            log.level = "warn"
            [models."*"]
            limits = [{ unit = "requests", limit = 1_000_000, per = "1m" }]
        "#;
        let (state, config) =
            (TempDir::new().expect("a directory"), file(&config_text(upstream, ample)));
        let process = Some(start(&state, &config));
        Self { state, config, process }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.process.as_ref().expect("it runs").api)
    }

    /// As a power cut would, for all that the program knows; and the next one starts.
    fn kill(&mut self) {
        drop(self.process.take());
        self.process = Some(start(&self.state, &self.config));
    }

    async fn get(&self, path: &str) -> Option<Value> {
        client().get(self.url(path)).send().await.ok()?.json().await.ok()
    }

    async fn batch(&self, id: &str) -> Value {
        let look = async || self.get(&format!("/v1/batches/{id}")).await;
        eventually("the batch", look).await
    }
}

#[tokio::test]
async fn a_program_that_is_killed_again_and_again_loses_no_line_and_writes_none_twice() {
    let simulator = Simulator::start(roomy(), ANY).await.expect("a free port");
    let mut program = Program::new(&simulator.base_url());
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    let upload = client().post(program.url("/v1/files")).header("content-type", kind);
    let body = form(&greetings(LINES), &[("purpose", "batch")]);
    let uploaded: Value =
        upload.body(body).send().await.expect("an answer").json().await.expect("JSON");
    let wanted = json!({
        "input_file_id": uploaded["id"], "endpoint": CHAT, "completion_window": "24h",
    });
    let made = client().post(program.url("/v1/batches")).body(wanted.to_string());
    let made: Value = made.send().await.expect("an answer").json().await.expect("JSON");
    let id = made["id"].as_str().expect("an id").to_owned();
    let mut seen = 0;
    for kill in 1..=KILLS {
        // A kill at each twelfth of the way, and one more look for whatever was answered by then.
        let goal = (LINES * kill / (KILLS + 2)) as u64;
        let far = async || {
            let counts = program.get(&format!("/v1/batches/{id}")).await?["request_counts"].clone();
            let done = counts["completed"].as_u64()?;
            (done >= goal).then_some(done)
        };
        let done = eventually("the next part of the way", far).await;
        assert!(done >= seen, "what was counted stays counted");
        seen = done;
        program.kill();
    }
    let over = async || {
        let batch = program.batch(&id).await;
        (batch["status"] == "completed").then_some(batch)
    };
    let batch = eventually("the end", over).await;
    let counts = json!({"total": LINES, "completed": LINES, "failed": 0});
    assert_eq!(batch["request_counts"], counts);
    assert_eq!(batch["error_file_id"], Value::Null);
    let output = batch["output_file_id"].as_str().expect("a file");
    let content = client().get(program.url(&format!("/v1/files/{output}/content")));
    let text = content.send().await.expect("an answer").text().await.expect("a body");
    let lines = by_id(&text);
    assert_eq!(lines.len(), LINES);
    assert!((0..LINES).all(|number| lines.contains_key(&format!("id-{number}"))));
    // Sent again was only what was at the upstream, or not committed, when it was killed.
    let again = simulator.stats().started - LINES as u64;
    assert!(again <= (KILLS * 1_000) as u64 / 2, "{again} were sent again");
    simulator.shutdown().await;
}
