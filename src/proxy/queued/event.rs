//! Failures of a stream that has begun: the upstream's nested error event, all of it strings.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::proxy::error::ProxyError;
use crate::proxy::verdict::{LONGEST_ERROR, unpack};

/// The longest part of an error page that is not JSON which is repeated to the caller.
const LONGEST_TEXT: usize = 200;
/// An error whose body takes longer is told without it.
const READ_FOR: Duration = Duration::from_secs(5);

#[derive(Serialize)]
struct Event<'a> {
    status_code: u16,
    error: Error<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    message: &'a str,
    r#type: &'a str,
    param: &'a str,
    code: &'a str,
    id: &'a str,
}

impl Event<'_> {
    fn bytes(&self) -> Bytes {
        // Strings and a number cannot fail to become JSON, which has no line breaks of its own.
        let json = serde_json::to_string(self).unwrap_or_default();
        Bytes::from(format!("data: {json}\n\n"))
    }
}

/// The event for an error of the gateway's own.
pub(super) fn own(error: &ProxyError, id: &str) -> Bytes {
    let (kind, message) = (error.kind(), error.to_string());
    let error =
        Error { message: &message, r#type: kind.class, param: error.param(), code: kind.code, id };
    Event { status_code: kind.status.as_u16(), error }.bytes()
}

/// The event for an unsuccessful answer of the upstream.
pub(super) async fn upstream(answer: Response, id: &str) -> Bytes {
    let (head, body) = answer.into_parts();
    let text = tokio::time::timeout(READ_FOR, read(body)).await.unwrap_or_default();
    translate(head.status, &head.headers, &text, id)
}

async fn read(mut body: Body) -> Bytes {
    let mut text = BytesMut::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        text.extend_from_slice(&data);
        if text.len() > LONGEST_ERROR {
            break;
        }
    }
    text.freeze()
}

fn translate(status: StatusCode, headers: &HeaderMap, body: &[u8], id: &str) -> Bytes {
    let body = unpack(headers, body).unwrap_or_default();
    let fields = match serde_json::from_slice(&body) {
        Ok(Value::Object(mut outer)) => match outer.remove("error") {
            Some(Value::Object(inner)) => inner,
            _ => outer,
        },
        _ => Map::new(),
    };
    let field = |name: &str| match fields.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    };
    let mut message = field("message");
    if message.is_empty() {
        message = describe(status, &body);
    }
    let (r#type, param, code, named) = (field("type"), field("param"), field("code"), field("id"));
    let id = if named.is_empty() { id } else { &named };
    let error = Error { message: &message, r#type: &r#type, param: &param, code: &code, id };
    Event { status_code: status.as_u16(), error }.bytes()
}

/// An error that is not told in JSON: its status, and its text if that is short and plain.
fn describe(status: StatusCode, body: &[u8]) -> String {
    let plain = std::str::from_utf8(body).ok().map(str::trim).filter(|text| {
        let printable = text.chars().all(|c| !c.is_control());
        !text.is_empty() && text.len() <= LONGEST_TEXT && printable && !text.starts_with('<')
    });
    let status = status.as_u16();
    match plain {
        Some(text) => format!("the upstream answered {status}: {text}"),
        None => format!("the upstream answered {status}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(status: u16, body: &str) -> Value {
        let status = StatusCode::from_u16(status).unwrap();
        let bytes = translate(status, &HeaderMap::new(), body.as_bytes(), "req_1");
        let text = std::str::from_utf8(&bytes).unwrap();
        let data = text.strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap();
        assert!(!data.contains('\n'), "one line");
        serde_json::from_str(data).unwrap()
    }

    #[test]
    fn an_error_of_any_shape_becomes_the_nested_one_of_strings() {
        let full = |message: &str, kind: &str, param: &str, code: &str, id: &str| json!({"message": message, "type": kind, "param": param, "code": code, "id": id});
        for (status, body, expected) in [
            (
                402,
                r#"{"message":"Pay\nup","type":"p","param":"quota","code":"payment_required"}"#,
                full("Pay\nup", "p", "quota", "payment_required", "req_1"),
            ),
            (
                500,
                r#"{"error":{"message":"no","type":"s","param":null,"code":17,"id":"theirs"}}"#,
                full("no", "s", "", "17", "theirs"),
            ),
            (
                400,
                r#"{"error":"no"}"#,
                full("the upstream answered 400: {\"error\":\"no\"}", "", "", "", "req_1"),
            ),
            (
                403,
                "error code: 1010\n",
                full("the upstream answered 403: error code: 1010", "", "", "", "req_1"),
            ),
            (
                502,
                "<html>bad gateway</html>",
                full("the upstream answered 502", "", "", "", "req_1"),
            ),
            (503, "", full("the upstream answered 503", "", "", "", "req_1")),
            (500, "[1]", full("the upstream answered 500: [1]", "", "", "", "req_1")),
        ] {
            assert_eq!(event(status, body), json!({"status_code": status, "error": expected}));
        }
    }

    #[test]
    fn an_own_error_says_the_same_as_it_would_in_a_body() {
        let error = ProxyError::Draining;
        let bytes = own(&error, "req_1");
        let text = std::str::from_utf8(&bytes).unwrap();
        let value: Value = serde_json::from_str(text.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(value["status_code"], 503);
        assert_eq!(value["error"]["code"], "draining");
        assert_eq!(value["error"]["message"], error.to_string());
    }
}
