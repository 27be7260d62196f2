//! `/`: the live page, embedded in the binary.
//!
//! # Invariants
//!
//! - The page needs nothing from anywhere else, and its policy would not let it: no foreign script,
//!   style, image or connection, nothing inline, no frame around it, no form in it.
//! - Read-only: every file is one that was compiled in, told by its path.

use std::fmt::Write;

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};

/// What the page may do. Scripts set no markup from text either (`trusted-types`): a name that a
/// caller has chosen stays a name.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; \
                      form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// The browser asks each time whether what it has is still right: after an update of the gateway it
/// must not run an older page's script on the new page.
const CACHE: &str = "no-cache";

/// A file of the page.
#[derive(Clone, Copy, Debug)]
struct File {
    path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

const TEXT: &str = "text/plain; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

macro_rules! file {
    ($path:literal, $kind:expr, $file:literal) => {
        File { path: $path, kind: $kind, bytes: include_bytes!(concat!("page/", $file)) }
    };
}

const FILES: [File; 10] = [
    file!("/", "text/html; charset=utf-8", "index.html"),
    file!("/page/style.css", STYLE, "style.css"),
    file!("/page/main.js", SCRIPT, "main.js"),
    file!("/page/format.js", SCRIPT, "format.js"),
    file!("/page/view.js", SCRIPT, "view.js"),
    file!("/page/plots.js", SCRIPT, "plots.js"),
    file!("/page/icon.svg", "image/svg+xml", "icon.svg"),
    file!("/page/vendor/uPlot.js", SCRIPT, "vendor/uPlot.iife.min.js"),
    file!("/page/vendor/uPlot.css", STYLE, "vendor/uPlot.min.css"),
    file!("/page/vendor/LICENSE", TEXT, "vendor/LICENSE"),
];

/// The page and its files; `GET` and `HEAD` only.
pub(super) fn routes() -> Router {
    FILES.into_iter().fold(Router::new(), |routes, file| {
        let (body, tag) = (Bytes::from_static(file.bytes), tag(file.bytes));
        let answer = move |headers: HeaderMap| async move { file.answer(&headers, body, tag) };
        routes.route(file.path, get(answer))
    })
}

impl File {
    fn answer(self, asked: &HeaderMap, body: Bytes, tag: HeaderValue) -> Response {
        let known = asked.get_all(header::IF_NONE_MATCH).iter().any(|it| names(it, &tag));
        let headers = [
            (header::ETAG, tag),
            (header::CACHE_CONTROL, HeaderValue::from_static(CACHE)),
            (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
            (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
            (OPENER, HeaderValue::from_static("same-origin")),
            (RESOURCE, HeaderValue::from_static("same-origin")),
        ];
        if known {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        let kind = [(header::CONTENT_TYPE, HeaderValue::from_static(self.kind))];
        (headers, kind, body).into_response()
    }
}

/// Who opened the page, or was opened by it, gets no hold of it.
const OPENER: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
/// No other site loads a part of it.
const RESOURCE: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// A name for these bytes: half a digest is more than enough to tell versions apart.
fn tag(bytes: &[u8]) -> HeaderValue {
    let mut text = String::from("\"");
    for byte in &Sha256::digest(bytes)[..16] {
        // Into memory: it does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.push('"');
    // Hexadecimal digits between quotes.
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Whether a list of tags has this one, or any.
fn names(list: &HeaderValue, tag: &HeaderValue) -> bool {
    let (Ok(list), Ok(tag)) = (list.to_str(), tag.to_str()) else { return false };
    list.split(',').map(|it| it.trim().trim_start_matches("W/")).any(|it| it == "*" || it == tag)
}
