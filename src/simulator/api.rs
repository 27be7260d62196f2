//! The endpoints, and the life of a metered request: read, checked, admitted, answered.

use std::error::Error as _;
use std::sync::Arc;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Path, Request, State as Shared};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::LengthLimitError;
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

use super::answer::{Answer, Wishes};
use super::call::Call;
use super::encode::{self, Wire};
use super::error::ApiError;
use super::fault::Fault;
use super::options::UsagePlacement;
use super::pool::Pool;
use super::quota::{Level, Rejection};
use super::request::{self, Endpoint, Parsed};
use super::state::State;
use super::stats::Outcome;
use super::stream::{self, Manner};
use super::{control, failure, headers, output};

/// Names the faults of one request: [`Fault::parse_all`].
const FAULT: &str = "x-sim-fault";
/// How many tokens each choice wants to have.
const OUTPUT_TOKENS: &str = "x-sim-output-tokens";
/// How many prompt tokens the usage calls cached.
const CACHED_TOKENS: &str = "x-sim-cached-tokens";
/// Real milliseconds to the first token; the others follow at once.
const LATENCY_MS: &str = "x-sim-latency-ms";

/// Every endpoint the vendor has, and the simulator's own under `/_sim`.
pub(super) fn router(state: Arc<State>) -> Router {
    let chat = |Shared(state): Shared<Arc<State>>, request: Request| {
        metered(state, Endpoint::Chat, request)
    };
    let text = |Shared(state): Shared<Arc<State>>, request: Request| {
        metered(state, Endpoint::Text, request)
    };
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(text))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/public/v1/models", get(public_models))
        .route("/v1/tcp_warming", get(warming))
        .merge(control::router())
        .fallback(async || ApiError::status(404))
        .method_not_allowed_fallback(async || ApiError::status(405))
        .with_state(state)
}

async fn warming(Shared(state): Shared<Arc<State>>) -> StatusCode {
    state.board.update(|stats| stats.unmetered += 1);
    StatusCode::OK
}

async fn public_models(Shared(state): Shared<Arc<State>>) -> Response {
    state.board.update(|stats| stats.unmetered += 1);
    let data: Vec<_> = state.models().iter().map(|id| describe(id)).collect();
    axum_json(&json!({ "object": "list", "data": data }))
}

async fn models(shared: Shared<Arc<State>>, headers: HeaderMap) -> Response {
    match shared.account(&headers) {
        Ok(_) => public_models(shared).await,
        Err(error) => error.into_response(),
    }
}

async fn model(
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    state.board.update(|stats| stats.unmetered += 1);
    match state.account(&headers) {
        Ok(_) if state.serves(&id) => axum_json(&describe(&id)),
        Ok(_) => ApiError::unknown_model(&id).into_response(),
        Err(error) => error.into_response(),
    }
}

fn describe(id: &str) -> serde_json::Value {
    json!({ "id": id, "object": "model", "created": 0, "owned_by": "simulator" })
}

pub(super) fn axum_json(value: &serde_json::Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// A request that may be admitted.
struct Order {
    pool: Arc<Pool>,
    request: Parsed,
    faults: Vec<Fault>,
    wishes: Wishes,
    ordinal: u64,
}

async fn metered(state: Arc<State>, endpoint: Endpoint, request: Request) -> Response {
    let mut call = Call::begin(&state);
    let (parts, body) = request.into_parts();
    let body = match to_bytes(body, state.options.max_body_bytes).await {
        Ok(body) => body,
        Err(error) if error.source().is_some_and(|cause| cause.is::<LengthLimitError>()) => {
            call.end(Outcome::Refuse);
            return ApiError::too_large().into_response();
        }
        // The client went away in the middle of it: nobody will read this.
        Err(_) => {
            call.end(Outcome::Abort);
            return ApiError::format("body", "the body is not complete").into_response();
        }
    };
    let order = match read(&state, endpoint, &parts, &body) {
        Ok(order) => order,
        Err(error) => {
            call.end(Outcome::Refuse);
            return error.into_response();
        }
    };
    let link = parts.extensions.get().cloned().unwrap_or_default();
    if let Some((mut response, metered)) = failure::before_admission(&order.faults, &link) {
        if metered {
            show(&state, &order.pool.levels(state.now_ns()), &mut response);
        }
        call.end(Outcome::Fault);
        return response;
    }
    travel(&state, &order).await;
    if state.options.max_in_flight.is_some_and(|most| state.board.snapshot().in_flight > most) {
        call.end(Outcome::Reject);
        let mut response = ApiError::queue(429).into_response();
        show(&state, &order.pool.levels(state.now_ns()), &mut response);
        return response;
    }
    let estimate = order.request.estimate(state.options.reservation);
    let (decision, levels) = call.admit(Arc::clone(&order.pool), estimate);
    let mut response = match decision {
        Ok(()) => {
            if order.faults.contains(&Fault::IdleClose) {
                link.reset_on_next_request();
            }
            answer(&state, &order, call).await
        }
        Err(rejection) => {
            call.end(Outcome::Reject);
            reject(&state, rejection)
        }
    };
    show(&state, &levels, &mut response);
    response
}

/// Checks the request and draws its faults.
fn read(state: &State, endpoint: Endpoint, parts: &Parts, body: &Bytes) -> Result<Order, ApiError> {
    let max_bytes = state.options.max_body_bytes;
    let account = state.account(&parts.headers)?;
    let request = request::parse(endpoint, &parts.headers, body, max_bytes)?;
    if !state.serves(&request.model) {
        return Err(ApiError::unknown_model(&request.model));
    }
    let wish = |name: &str| match text(&parts.headers, name) {
        Some(digits) => digits
            .parse::<u64>()
            .map(Some)
            .map_err(|_| ApiError::format(name, format!("{name}: want a whole number"))),
        None => Ok(None),
    };
    let wishes = Wishes {
        output_tokens: wish(OUTPUT_TOKENS)?,
        cached_tokens: wish(CACHED_TOKENS)?,
        latency: wish(LATENCY_MS)?.map(std::time::Duration::from_millis),
    };
    let ordinal = state.next_ordinal();
    let faults = match text(&parts.headers, FAULT) {
        Some(names) => {
            Fault::parse_all(names).map_err(|e| ApiError::format(FAULT, e.to_string()))?
        }
        None => state.faults.draw(ordinal),
    };
    let pool = state.pool(account, request.model.clone());
    Ok(Order { pool, request, faults, wishes, ordinal })
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("?"))
}

/// What passes before the request reaches admission.
async fn travel(state: &State, order: &Order) {
    let most = state.options.scaled(state.options.latency.arrival);
    if !most.is_zero() {
        sleep(most.mul_f64(output::rng(!state.options.seed, order.ordinal).f64())).await;
    }
    for fault in &order.faults {
        if let Fault::Late(by) = fault {
            sleep(*by).await;
        }
    }
}

fn reject(state: &State, rejection: Rejection) -> Response {
    let limit = rejection.limit;
    let mut response = ApiError::quota(limit.unit, limit.name).into_response();
    if state.options.retry_after {
        let seconds = rejection.reset_ns.div_ceil(1_000_000_000);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn show(state: &State, levels: &[Level], response: &mut Response) {
    headers::write(state.options.headers, levels, response.headers_mut());
}

/// Answers an admitted request.
async fn answer(state: &State, order: &Order, mut call: Call) -> Response {
    let since = Instant::now();
    let options = &state.options;
    let id = format!("chatcmpl-{}", state.unique_id(order.ordinal));
    let answer = Answer::new(options, &order.request, order.wishes, id, state.now_ns());
    call.used = answer.prompt_tokens;
    let (mut wire, mut usage) = (Wire::default(), options.usage);
    let (mut cut, mut error_event) = (None, None);
    for fault in &order.faults {
        match fault {
            Fault::SlowHead(by) => sleep(*by).await,
            Fault::Hang => std::future::pending().await,
            Fault::Cut(after) => cut = Some(*after),
            Fault::ErrorEvent(after) => error_event = Some(*after),
            Fault::Gzip => wire.gzip = true,
            Fault::TinyFrames => wire.tiny_frames = true,
            Fault::NoUsage => usage = UsagePlacement::Never,
            _ => {}
        }
    }
    let mut response = if order.request.stream {
        sleep_until(since + answer.timing.first_token).await;
        let chunk_tokens = options.chunk_tokens;
        let manner = Manner { since, chunk_tokens, usage, cut, error_event };
        let mut response = encode::body(wire, stream::events(answer, manner, call)).into_response();
        let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    } else {
        sleep_until(since + answer.timing.at(answer.longest())).await;
        if error_event.is_some() {
            call.end(Outcome::Fault);
            return ApiError::status(500).into_response();
        }
        let with_usage = !order.faults.contains(&Fault::NoUsage);
        let body = Bytes::from(answer.whole(with_usage).to_string());
        if cut.is_some() {
            call.end(Outcome::Fault);
            return failure::half(&body);
        }
        call.used = answer.total_tokens();
        call.complete();
        plain(wire, body)
    };
    if wire.gzip {
        let gzip = HeaderValue::from_static("gzip");
        response.headers_mut().insert(header::CONTENT_ENCODING, gzip);
    }
    response
}

fn plain(wire: Wire, body: Bytes) -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    if !wire.gzip && !wire.tiny_frames {
        return (json, body).into_response();
    }
    let frames = futures_util::stream::once(std::future::ready(Ok(body)));
    (json, encode::body(wire, frames)).into_response()
}
