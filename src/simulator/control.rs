//! The simulator's own endpoints, for tests in other languages.
//!
//! `GET /_sim/stats` tells counts and reports. `POST /_sim/faults` takes
//! `{"clear": true, "script": ["503", "", "cut:2,gzip"], "rates": {"queue": 0.1}}`, each optional.
//! `POST /_sim/spend` takes `{"key": "…", "model": "…", "tokens": 1000}`: use of the quota by others.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::api::axum_json;
use super::error::ApiError;
use super::fault::Fault;
use super::options::Options;
use super::pool::Report;
use super::quota::Rejection;
use super::state::State;

pub(super) fn router() -> Router<Arc<State>> {
    Router::new()
        .route("/_sim/stats", get(stats))
        .route("/_sim/faults", post(faults))
        .route("/_sim/spend", post(spend_endpoint))
}

async fn stats(Shared(state): Shared<Arc<State>>) -> Response {
    let with_share = |report: Report| {
        let utilisation = report.utilisation();
        json!({ "report": report, "utilisation": utilisation })
    };
    let pools: Vec<_> = state.reports().into_iter().map(with_share).collect();
    axum_json(&json!({ "stats": state.board.snapshot(), "pools": pools }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewFaults {
    #[serde(default)]
    clear: bool,
    #[serde(default)]
    script: Vec<String>,
    rates: Option<BTreeMap<String, f64>>,
}

async fn faults(Shared(state): Shared<Arc<State>>, body: Bytes) -> Response {
    let new = match read::<NewFaults>(&body) {
        Ok(new) => new,
        Err(error) => return error.into_response(),
    };
    let script: Result<Vec<_>, _> =
        new.script.iter().map(|entry| Fault::parse_all(entry)).collect();
    let rates = new.rates.unwrap_or_default().into_iter();
    let rates: Result<Vec<_>, _> = rates.map(|(name, rate)| Ok((name.parse()?, rate))).collect();
    let (script, rates) = match (script, rates) {
        (Ok(script), Ok(rates)) => (script, rates),
        (Err(error), _) | (_, Err(error)) => {
            return ApiError::format("faults", error.to_string()).into_response();
        }
    };
    if let Err(problem) = (Options { fault_rates: rates.clone(), ..Options::default() }).check() {
        return ApiError::format("rates", problem).into_response();
    }
    if new.clear {
        state.faults.clear();
    }
    if !rates.is_empty() {
        state.faults.set_rates(rates);
    }
    state.faults.script(script);
    axum_json(&json!({}))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spending {
    key: Option<String>,
    model: String,
    tokens: u64,
}

async fn spend_endpoint(Shared(state): Shared<Arc<State>>, body: Bytes) -> Response {
    let spending = match read::<Spending>(&body) {
        Ok(spending) => spending,
        Err(error) => return error.into_response(),
    };
    match spend(&state, spending.key.as_deref(), &spending.model, spending.tokens) {
        None => ApiError::wrong_key().into_response(),
        Some(Err(rejection)) => {
            ApiError::quota(rejection.limit.unit, rejection.limit.name).into_response()
        }
        Some(Ok(())) => axum_json(&json!({})),
    }
}

/// Charges a pool as another of its users would; `None` if the key is not accepted.
pub(super) fn spend(
    state: &State,
    key: Option<&str>,
    model: &str,
    tokens: u64,
) -> Option<Result<(), Rejection>> {
    let pool = state.pool(state.account_of(key)?, model.to_owned());
    let (decision, _) = pool.admit(state.now_ns(), tokens);
    Some(decision.map(|admission| pool.keep(admission)))
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::format("body", error.to_string()))
}
