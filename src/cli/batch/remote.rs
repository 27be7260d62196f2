//! Has a running gateway work a file off, by its Batch API.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use reqwest::{Client, RequestBuilder, Response};
use serde::{Deserialize, Serialize};
use tokio::fs::File;
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;

use super::progress::{Shown, View};
use super::{Ended, Failure, Place, Run, complain};
use crate::store::archive::LineProblem;

/// Where the key is looked for unless told otherwise: where OpenAI's clients look.
const USUAL_KEY: &str = "OPENAI_API_KEY";

/// How often it is asked how far it is.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Asked in vain so often, it is given up: the gateway may be restarted meanwhile.
const MOST_TRIES: u32 = 60;

/// The longest answer that is not a file.
const LONGEST: usize = 64 << 20;

/// What is known of a batch that a gateway was given.
#[derive(Debug, Deserialize, Serialize)]
struct Given {
    gateway: String,
    file: String,
    batch: String,
}

#[derive(Debug, Deserialize)]
struct Named {
    id: String,
}

/// A batch as the API shows it, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Seen {
    status: String,
    #[serde(default)]
    request_counts: Counts,
    #[serde(default)]
    usage: Usage,
    #[serde(default)]
    errors: Option<Problems>,
    #[serde(default)]
    output_file_id: Option<String>,
    #[serde(default)]
    error_file_id: Option<String>,
    #[serde(default)]
    tidegate: Option<Progress>,
}

#[derive(Debug, Default, Deserialize)]
struct Counts {
    total: u64,
    completed: u64,
    failed: u64,
}

#[derive(Debug, Default, Deserialize)]
struct Usage {
    input_tokens: u64,
    output_tokens: u64,
}

#[derive(Debug, Deserialize)]
struct Problems {
    data: Vec<LineProblem>,
}

#[derive(Debug, Deserialize)]
struct Progress {
    at_upstream: u64,
    to_retry: u64,
    limited_by: Option<String>,
    last_trouble: Option<String>,
}

/// A gateway at its base URL.
struct Gateway {
    client: Client,
    base: String,
}

impl Gateway {
    fn new(run: &Run, url: &str) -> Result<Self, Failure> {
        let name = run.api_key_env.as_deref().unwrap_or(USUAL_KEY);
        let key = std::env::var(name).ok().filter(|key| !key.is_empty());
        if run.api_key_env.is_some() && key.is_none() {
            return Err(Failure::Usage(format!("--api-key-env: {name} is not set")));
        }
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            let value = HeaderValue::from_str(&format!("Bearer {}", key.trim()));
            let mut value = value.map_err(|_| Failure::Usage(format!("{name} holds no key")))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let client = Client::builder().default_headers(headers).build()?;
        let base = url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        Ok(Self { client, base })
    }

    fn url(&self, path: &str) -> String {
        format!("{}/v1/{path}", self.base)
    }

    async fn upload(&self, place: &Place) -> Result<String, Failure> {
        // In no file: it is as random as it is long.
        let boundary: String = std::iter::repeat_with(fastrand::alphanumeric).take(48).collect();
        let name = place.input.file_name().unwrap_or_default().to_string_lossy();
        let name: String = name.chars().filter(|c| !c.is_control() && *c != '"').collect();
        let part =
            |text: &str| format!("--{boundary}\r\ncontent-disposition: form-data; {text}\r\n\r\n");
        let head = format!(
            "{}batch\r\n{}",
            part("name=\"purpose\""),
            part(&format!("name=\"file\"; filename=\"{name}\""))
        );
        let tail = format!("\r\n--{boundary}--\r\n");
        let file = ReaderStream::with_capacity(File::open(&place.input).await?, 256 << 10);
        let once = |text: String| futures_util::stream::iter([Ok(Bytes::from(text))]);
        let body = once(head).chain(file).chain(once(tail));
        let kind = format!("multipart/form-data; boundary={boundary}");
        let request = self.client.post(self.url("files")).header(CONTENT_TYPE, kind);
        let file: Named = json(good(request.body(reqwest::Body::wrap_stream(body))).await?).await?;
        Ok(file.id)
    }

    async fn create(&self, run: &Run, file: &str) -> Result<String, Failure> {
        let window = humantime::format_duration(run.completion_window).to_string();
        let wanted = serde_json::json!({
            "input_file_id": file, "endpoint": run.endpoint, "completion_window": window,
        });
        let made: Named =
            json(good(self.client.post(self.url("batches")).json(&wanted)).await?).await?;
        Ok(made.id)
    }

    async fn look(&self, batch: &str) -> Result<Seen, Failure> {
        let request = self.client.get(self.url(&format!("batches/{batch}")));
        json(good(request.timeout(Duration::from_secs(30))).await?).await
    }

    /// Fetches a file to where it belongs.
    async fn fetch(&self, file: &str, place: &Place, to: &std::path::Path) -> Result<(), Failure> {
        let answer = good(self.client.get(self.url(&format!("files/{file}/content")))).await?;
        let partial: PathBuf = place.work.join(file);
        let mut out = std::io::BufWriter::new(fs::File::create(&partial)?);
        let mut pieces = answer.bytes_stream();
        while let Some(piece) = pieces.next().await {
            out.write_all(&piece?)?;
        }
        out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        place.deliver(&partial, to)
    }

    /// Deletes a file that is of no use any more.
    async fn delete(&self, file: &str) {
        let deleted = good(self.client.delete(self.url(&format!("files/{file}")))).await;
        if let Err(Failure::Failed(problem) | Failure::Usage(problem)) = deleted {
            complain(format_args!("{file} is still at the gateway: {problem}"));
        }
    }
}

/// The answer, if it is a good one.
async fn good(request: RequestBuilder) -> Result<Response, Failure> {
    let answer = request.send().await?;
    if answer.status().is_success() {
        return Ok(answer);
    }
    let (status, url) = (answer.status(), answer.url().clone());
    let text = answer.text().await.unwrap_or_default();
    let text: String = text.chars().filter(|c| !c.is_control()).take(500).collect();
    let said = format!("{url}: {status}: {text}");
    // What the gateway will say again is not worth another try.
    let hopeless = status.is_client_error() && status.as_u16() != 429 || status.as_u16() == 501;
    Err(if hopeless { Failure::Usage(said) } else { Failure::Failed(said) })
}

async fn json<T: serde::de::DeserializeOwned>(answer: Response) -> Result<T, Failure> {
    let bytes = answer.bytes().await?;
    if bytes.len() > LONGEST {
        return Err(Failure::Failed("the gateway's answer is too long".to_owned()));
    }
    Ok(serde_json::from_slice(&bytes)?)
}

pub(super) async fn run(
    run: &Run,
    url: &str,
    place: &Place,
    stop: &CancellationToken,
) -> Result<Ended, Failure> {
    let gateway = Gateway::new(run, url)?;
    let note = place.work.join("batch.json");
    let given = match fs::read(&note) {
        Ok(text) => serde_json::from_slice::<Given>(&text)?,
        Err(_) => {
            let file = gateway.upload(place).await?;
            let batch = gateway.create(run, &file).await?;
            let given = Given { gateway: gateway.base.clone(), file, batch };
            let new = note.with_extension("new");
            fs::write(&new, serde_json::to_vec(&given)?)?;
            fs::rename(&new, &note)?;
            given
        }
    };
    if given.gateway != gateway.base {
        let (work, other) = (place.work.display(), &given.gateway);
        return Err(Failure::Usage(format!("{work} was begun at {other}: go on there")));
    }
    let (view, seen) = watch(&gateway, &given.batch, stop).await?;
    let id = &given.batch;
    match seen.status.as_str() {
        "completed" | "expired" | "cancelled" => {}
        "failed" => {
            gateway.delete(&given.file).await;
            place.clear()?;
            return Ok(Ended::Invalid(seen.errors.map_or_else(Vec::new, |it| it.data)));
        }
        _ => {
            let what = format!(
                "{id} goes on at the gateway; the same command shows how, and fetches \
                                its results"
            );
            return Ok(Ended::Interrupted(view, what));
        }
    }
    let files = [(&seen.output_file_id, &place.output), (&seen.error_file_id, &place.errors)];
    for (file, to) in files {
        if let Some(file) = file {
            gateway.fetch(file, place, to).await?;
        }
    }
    for file in [seen.output_file_id, seen.error_file_id, Some(given.file)].into_iter().flatten() {
        gateway.delete(&file).await;
    }
    place.clear()?;
    Ok(Ended::Done(view))
}

/// Shows how it gets on until it has ended, or nobody wants to see it any more.
async fn watch(
    gateway: &Gateway,
    batch: &str,
    stop: &CancellationToken,
) -> Result<(View, Seen), Failure> {
    let mut shown = Shown::new();
    let mut tries = 0;
    loop {
        match gateway.look(batch).await {
            Ok(seen) => {
                tries = 0;
                let view = view(&seen);
                let over = ["completed", "failed", "expired", "cancelled"];
                if over.contains(&seen.status.as_str()) || stop.is_cancelled() {
                    return Ok((view, seen));
                }
                shown.show(&view);
            }
            Err(Failure::Failed(problem)) if tries < MOST_TRIES && !stop.is_cancelled() => {
                tries += 1;
                if tries == 1 {
                    complain(format_args!("{problem}; asking again"));
                }
            }
            Err(failure) => return Err(failure),
        }
        tokio::select! {
            () = tokio::time::sleep(ASK_EVERY) => {}
            () = stop.cancelled() => {}
        }
    }
}

fn view(seen: &Seen) -> View {
    let progress = seen.tidegate.as_ref();
    View {
        total: seen.request_counts.total,
        completed: seen.request_counts.completed,
        failed: seen.request_counts.failed,
        prompt: seen.usage.input_tokens,
        completion: seen.usage.output_tokens,
        at_upstream: progress.map_or(0, |it| it.at_upstream),
        to_retry: progress.map_or(0, |it| it.to_retry),
        limited_by: progress.and_then(|it| it.limited_by.clone()),
        trouble: progress.and_then(|it| it.last_trouble.clone()),
    }
}
