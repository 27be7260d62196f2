//! The vendor's errors: flat JSON of four strings, or nested in an event where a stream had begun.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::json;

use super::quota::{Name, Unit};

/// An answer that is not a success.
#[derive(Clone, Debug)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    message: String,
    kind: &'static str,
    param: String,
    code: &'static str,
}

impl ApiError {
    fn new(
        status: StatusCode,
        (kind, code): (&'static str, &'static str),
        param: &str,
        message: impl Into<String>,
    ) -> Self {
        Self { status, message: message.into(), kind, param: param.to_owned(), code }
    }

    /// The body is not what the endpoint takes; `param` says where.
    pub(super) fn format(param: &str, message: impl Into<String>) -> Self {
        let kind = ("invalid_request_error", "wrong_api_format");
        Self::new(StatusCode::BAD_REQUEST, kind, param, message)
    }

    pub(super) fn wrong_key() -> Self {
        let kind = ("invalid_request_error", "wrong_api_key");
        Self::new(StatusCode::UNAUTHORIZED, kind, "api_key", "Wrong API Key")
    }

    pub(super) fn unknown_model(model: &str) -> Self {
        let message = format!("Model {model} does not exist or you do not have access to it.");
        let kind = ("not_found_error", "model_not_found");
        Self::new(StatusCode::NOT_FOUND, kind, "model", message)
    }

    pub(super) fn too_large() -> Self {
        let kind = ("invalid_request_error", "request_too_large");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, kind, "body", "Request body is too large.")
    }

    pub(super) fn quota(unit: Unit, name: Name) -> Self {
        let window = name.as_str();
        let (kind, message) = match unit {
            Unit::Requests => (
                ("too_many_requests_error", "request_quota_exceeded"),
                format!("Requests per {window} limit exceeded - too many requests sent."),
            ),
            Unit::Tokens => (
                ("too_many_tokens_error", "token_quota_exceeded"),
                format!("Tokens per {window} limit exceeded - too many tokens processed."),
            ),
        };
        Self::new(StatusCode::TOO_MANY_REQUESTS, kind, "quota", message)
    }

    pub(super) fn queue(status: u16) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::TOO_MANY_REQUESTS);
        let message = "We're experiencing high traffic right now! Please try again soon.";
        Self::new(status, ("too_many_requests_error", "queue_exceeded"), "queue", message)
    }

    /// The error that goes with a bare status.
    pub(super) fn status(status: u16) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let (kind, code, message) = match status.as_u16() {
            401 => return Self::wrong_key(),
            402 => ("payment_required_error", "payment_required", "Payment required."),
            403 => ("permission_denied_error", "permission_denied", "Permission denied."),
            404 => ("not_found_error", "not_found", "Not found."),
            405 => ("invalid_request_error", "method_not_allowed", "Method not allowed."),
            408 => ("request_timeout_error", "request_timeout", "Request timed out."),
            413 => return Self::too_large(),
            429 => return Self::queue(429),
            503 => ("server_error", "service_unavailable", "The service is unavailable."),
            400..=499 => ("invalid_request_error", "invalid_request", "Invalid request."),
            _ => ("server_error", "server_error", "Encountered a server error, please try again."),
        };
        Self::new(status, (kind, code), "", message)
    }

    /// The event that ends a stream whose head has already said 200.
    pub(super) fn event(&self, id: &str) -> String {
        let Self { status, message, kind, param, code } = self;
        let error =
            json!({"message": message, "type": kind, "param": param, "code": code, "id": id});
        format!("data: {}\n\n", json!({"status_code": status.as_u16(), "error": error}))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self { status, message, kind, param, code } = self;
        let body = json!({"message": message, "type": kind, "param": param, "code": code});
        let json = [(header::CONTENT_TYPE, "application/json")];
        (status, json, Body::from(body.to_string())).into_response()
    }
}
