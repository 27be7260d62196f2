//! The paths of the API, and what they have in common.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use super::object::{BatchObject, List};
use super::{Batches, files, upload};
use crate::identity::Caller;
use crate::metrics::Outcome;
use crate::proxy::{self, ApiError, ProxyError};
use crate::store::archive::{Batch, Page, Purpose, Record, State as Stage, Trouble};
use crate::telemetry::traces::Parent;

/// A request to make a batch is small; what is larger is something else.
const LONGEST_REQUEST: usize = 64 << 10;

/// Entries of a page of batches: OpenAI's bounds.
const PAGE: u32 = 20;
const LONGEST_PAGE: u32 = 100;

/// Metadata: OpenAI's bounds.
const METADATA: (usize, usize, usize) = (16, 64, 512);

/// The longest completion window: whoever waits longer has forgotten.
const LONGEST_WINDOW: Duration = Duration::from_secs(30 * 24 * 3_600);

/// The endpoints that a batch's requests may go to.
const ENDPOINTS: [&str; 2] = ["/v1/chat/completions", "/v1/completions"];

/// What an answer or a refusal is.
pub(super) type Answer = Result<Response, ProxyError>;

/// The batches, if there are any.
pub(super) type Here = State<Option<Arc<Batches>>>;

/// All routes.
pub(super) fn routes(batches: Option<&Arc<Batches>>) -> Router {
    let mut router = Router::new();
    for prefix in proxy::prefixes() {
        let path = |path: &str| format!("{prefix}{path}");
        router = router
            .route(&path("/files"), proxy::only(get(files::list).post(files::upload), "GET, POST"))
            .route(
                &path("/files/{id}"),
                proxy::only(get(files::show).delete(files::delete), "GET, DELETE"),
            )
            .route(&path("/files/{id}/content"), proxy::only(get(files::content), "GET"))
            .route(&path("/batches"), proxy::only(get(list).post(create), "GET, POST"))
            .route(&path("/batches/{id}"), proxy::only(get(show), "GET"))
            .route(&path("/batches/{id}/cancel"), proxy::only(post(cancel), "POST"));
    }
    // Uploads are bounded as they come; all others by what they read.
    router.layer(DefaultBodyLimit::disable()).with_state(batches.map(Arc::clone))
}

/// An answer in JSON.
pub(super) fn json(value: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(value).map_err(|_| ProxyError::Internal)?;
    let mut response = Response::new(Body::from(body));
    let format = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, format);
    Ok(local(response))
}

/// An answer of the gateway's own.
pub(super) fn local(mut response: Response) -> Response {
    response.extensions_mut().insert(Outcome::Local);
    response
}

/// A refusal for what `param` of the request says.
pub(super) fn invalid(param: &'static str, message: impl Into<String>) -> ProxyError {
    let (status, code) = (StatusCode::BAD_REQUEST, "invalid_value");
    ApiError { status, code, param, message: message.into() }.into()
}

/// A refusal because there is no such thing.
pub(super) fn missing(what: &str) -> ProxyError {
    let message = format!("there is no such {what}");
    ApiError { status: StatusCode::NOT_FOUND, code: "not_found", param: "id", message }.into()
}

impl From<Trouble> for ProxyError {
    fn from(trouble: Trouble) -> Self {
        tracing::error!(%trouble, "a request to the files and batches failed");
        let message = "files and batches cannot be read or written now; the gateway's log says why";
        let (status, code) = (StatusCode::SERVICE_UNAVAILABLE, "storage_unavailable");
        ApiError { status, code, param: "", message: message.to_owned() }.into()
    }
}

/// Where a request goes, and whose it is.
pub(super) fn enter(
    State(here): Here,
    headers: &HeaderMap,
) -> Result<(Arc<Batches>, Caller), ProxyError> {
    let Some(here) = here else {
        let message = "this gateway keeps no files and batches: it needs a directory (state.dir or \
                       batch.dir)";
        let (status, code) = (StatusCode::NOT_IMPLEMENTED, "batches_unavailable");
        return Err(ApiError { status, code, param: "", message: message.to_owned() }.into());
    };
    let caller = here.gateway().identify(headers)?;
    here.recognise(&caller, headers);
    Ok((here, caller))
}

impl Batches {
    /// A caller is there: if batches of theirs wait for their key, they need not any more.
    fn recognise(&self, caller: &Caller, headers: &HeaderMap) {
        let waits = || self.jobs.lock().values().any(|job| job.owner().account == caller.account);
        if caller.account.is_callers() && waits() {
            self.keys.keep(caller.account, headers.get(AUTHORIZATION).cloned());
        }
    }
}

/// What a list is asked for.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    after: Option<String>,
    limit: Option<u32>,
    order: Option<String>,
    purpose: Option<String>,
}

impl Asked {
    pub(super) fn page(&self, usual: u32, most: u32) -> Result<Page, ProxyError> {
        let limit = self.limit.unwrap_or(usual);
        if !(1..=most).contains(&limit) {
            return Err(invalid("limit", format!("limit must be 1 to {most}")));
        }
        let ascending = match self.order.as_deref() {
            None | Some("desc") => false,
            Some("asc") => true,
            Some(_) => return Err(invalid("order", "order must be \"asc\" or \"desc\"")),
        };
        let after = self.after.clone().filter(|after| !after.is_empty());
        Ok(Page { after, limit, ascending })
    }

    pub(super) fn purpose(&self) -> Option<Result<Purpose, ProxyError>> {
        let name = self.purpose.as_deref().filter(|name| !name.is_empty())?;
        let purpose = Purpose::parse(name);
        Some(purpose.ok_or_else(|| {
            invalid("purpose", "the only purposes here are \"batch\" and \"batch_output\"")
        }))
    }
}

/// What a query says that makes sense.
pub(super) fn asked(
    query: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
) -> Result<Asked, ProxyError> {
    let Query(asked) = query.map_err(|_| invalid("query", "limit must be a number"))?;
    Ok(asked)
}

/// A request to make a batch.
#[derive(Debug, Deserialize)]
struct Wanted {
    input_file_id: String,
    endpoint: String,
    completion_window: String,
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
    #[serde(default)]
    output_expires_after: Option<Expiry>,
}

/// How long the files of a batch's results are to be kept after they were made.
#[derive(Debug, Deserialize)]
struct Expiry {
    seconds: u64,
}

async fn create(here: Here, headers: HeaderMap, body: Body) -> Answer {
    let (here, caller) = enter(here, &headers)?;
    let body = axum::body::to_bytes(body, LONGEST_REQUEST);
    let timeout = here.gateway().config().server.body_timeout;
    let body: Bytes = tokio::time::timeout(timeout, body)
        .await
        .map_err(|_| ProxyError::BodyTimeout)?
        .map_err(|_| ProxyError::BodyTooLarge { limit: LONGEST_REQUEST as u64 })?;
    let wanted: Wanted = serde_json::from_slice(&body).map_err(|error| {
        let needed = "input_file_id, endpoint and completion_window are needed, as strings, and \
                      metadata may map strings to strings";
        invalid("", format!("{needed} ({})", category(&error)))
    })?;
    let batch = here.create(&caller, wanted, &headers).await?;
    json(&BatchObject::of(&batch, None))
}

/// What a parser says without the text that it parsed.
fn category(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    if error.is_data() {
        "a field is missing or of the wrong kind".to_owned()
    } else {
        format!("no JSON at line {line}, column {column}")
    }
}

/// The time that a batch is given.
fn window(text: &str) -> Result<Duration, ProxyError> {
    let span = humantime::parse_duration(text).ok();
    span.filter(|span| !span.is_zero() && *span <= LONGEST_WINDOW).ok_or_else(|| {
        let expected = "completion_window must be a duration of up to 30 days, such as \"24h\"";
        invalid("completion_window", expected)
    })
}

fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), ProxyError> {
    let (entries, key, value) = METADATA;
    let good = metadata.len() <= entries
        && metadata
            .iter()
            .all(|(name, text)| name.chars().count() <= key && text.chars().count() <= value);
    if good {
        return Ok(());
    }
    let bounds =
        format!("up to {entries} entries, keys of up to {key} and values of up to {value}");
    Err(invalid("metadata", format!("metadata may have {bounds} characters")))
}

impl Batches {
    async fn create(
        self: &Arc<Self>,
        caller: &Caller,
        wanted: Wanted,
        headers: &HeaderMap,
    ) -> Result<Batch, ProxyError> {
        let Wanted { input_file_id, endpoint, completion_window, metadata, output_expires_after } =
            wanted;
        if self.gateway().is_draining() {
            return Err(ProxyError::Draining);
        }
        if !ENDPOINTS.contains(&endpoint.as_str()) {
            let message = format!("endpoint must be one of {}", ENDPOINTS.join(", "));
            return Err(invalid("endpoint", message));
        }
        let window = window(&completion_window)?;
        metadata.as_ref().map_or(Ok(()), check_metadata)?;
        let keep = output_expires_after.map(|it| it.seconds);
        let keep = keep
            .map(|seconds| upload::checked_expiry("output_expires_after", Some(seconds)))
            .transpose()?;
        let file = self.archive.file(caller.id, &input_file_id).await?;
        let file = file.ok_or_else(|| invalid("input_file_id", "there is no such file"))?;
        if file.purpose != Purpose::Batch {
            return Err(invalid("input_file_id", "the file's purpose must be \"batch\""));
        }
        let created = self.now();
        // Not before its time is over.
        let over = self.gateway().pools().epoch().now().after(window).as_nanos();
        let expires = over.div_ceil(1_000_000_000);
        let mut record = Record::new(endpoint, completion_window, metadata, (created, expires));
        record.output_keep = keep;
        if caller.account.is_callers() {
            self.keys.keep(caller.account, headers.get(AUTHORIZATION).cloned());
        }
        let most = self.config().max_batches.get();
        let id = files::new_id("batch_");
        let added = self.archive.add_batch(id, caller.owner(), input_file_id, record, most).await?;
        let batch = added.ok_or_else(|| {
            let message = format!("{most} batches are running; wait for one to end");
            let (status, code) = (StatusCode::TOO_MANY_REQUESTS, "too_many_batches");
            ApiError { status, code, param: "", message }
        })?;
        self.start(batch.clone(), Parent::of(headers));
        Ok(batch)
    }

    /// A batch of the caller's.
    async fn find(&self, caller: &Caller, id: &str) -> Result<Batch, ProxyError> {
        self.archive.batch(caller.id, id).await?.ok_or_else(|| missing("batch"))
    }

    fn object<'a>(&self, batch: &'a Batch) -> BatchObject<'a> {
        let job = self.jobs.lock().get(&batch.id).map(Arc::clone);
        let progress = job.filter(|_| batch.record.state == Stage::InProgress);
        BatchObject::of(batch, progress.map(|job| self.progress(&job, &batch.record)))
    }
}

async fn list(
    here: Here,
    headers: HeaderMap,
    query: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
) -> Answer {
    let (here, caller) = enter(here, &headers)?;
    let page = asked(query)?.page(PAGE, LONGEST_PAGE)?;
    if let Some(after) = &page.after
        && here.archive.batch(caller.id, after).await?.is_none()
    {
        return Err(invalid("after", "there is no such batch (any more)"));
    }
    let (batches, more) = here.archive.batches(caller.id, page).await?;
    let entries = batches.iter().map(|batch| (batch.id.clone(), here.object(batch)));
    json(&List::of(entries.collect(), more))
}

async fn show(here: Here, headers: HeaderMap, Path(id): Path<String>) -> Answer {
    let (here, caller) = enter(here, &headers)?;
    let batch = here.find(&caller, &id).await?;
    json(&here.object(&batch))
}

async fn cancel(here: Here, headers: HeaderMap, Path(id): Path<String>) -> Answer {
    let (here, caller) = enter(here, &headers)?;
    let found = here.find(&caller, &id).await?;
    if found.record.state.is_final() {
        let message = format!("the batch has ended: it is {}", found.record.state.as_str());
        let (status, code) = (StatusCode::CONFLICT, "batch_ended");
        return Err(ApiError { status, code, param: "id", message }.into());
    }
    let now = here.now();
    let changed = here.archive.change(caller.id, &id, move |record| {
        if record.finalizing.is_none() {
            record.state = Stage::Cancelling;
            record.cancelling.get_or_insert(now);
        }
    });
    let batch = changed.await?.ok_or_else(|| missing("batch"))?;
    if batch.record.state == Stage::Cancelling {
        let job = here.jobs.lock().get(&id).map(Arc::clone);
        if let Some(job) = job {
            job.cancel();
        }
    }
    json(&here.object(&batch))
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        ProxyError::from(self).into_response()
    }
}
