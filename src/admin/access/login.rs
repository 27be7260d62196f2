//! `/login` and `/logout`: a person presents the token once, and the browser gets a session for it.
//!
//! # Invariants
//!
//! - The page needs no script, and its policy lets it send its form nowhere but here.
//! - What is sent in is small and comes soon, or is refused.

use std::time::Duration;

use axum::Form;
use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;

use super::Access;
use crate::metrics::Refused;
use crate::time;

/// Where a session begins.
pub(super) const IN: &str = "/login";
/// Where it ends.
pub(super) const OUT: &str = "/logout";

/// Bytes of a form: a token and its name.
const MOST_BYTES: usize = 8 << 10;
/// Time for it to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the page may do.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; frame-ancestors 'none'; \
                      base-uri 'none'; form-action 'self'";

/// The page, with a place for what is to be done.
const PAGE: &str = include_str!("../page/login.html");
const PLACE: &str = "<!-- form -->";

const ENTER: &str = "<p>This gateway shows itself to those who have its token \
    (<code>server.admin_token</code>).</p>\n\
    <form method=\"post\" action=\"/login\">\n\
    <label for=\"token\">Token</label>\n\
    <input id=\"token\" name=\"token\" type=\"password\" autocomplete=\"current-password\" required autofocus>\n\
    <button>Sign in</button>\n</form>";
const WRONG: &str = "<p class=\"notice bad\" role=\"alert\">That is not the token.</p>\n";
const OPEN: &str = "<p>No token is asked for here.</p>\n<p><a href=\"/\">To the gateway</a></p>";
const LEAVE: &str = "<p>You are signed in, for twelve hours at most.</p>\n\
    <form method=\"post\" action=\"/logout\"><button>Sign out</button></form>\n\
    <p><a href=\"/\">To the gateway</a></p>";

/// What a person sends in.
#[derive(Deserialize)]
struct Entry {
    token: String,
}

pub(super) fn routes(access: &Access) -> Router {
    Router::new()
        .route(IN, get(show).post(enter))
        .route(OUT, post(leave))
        .layer(DefaultBodyLimit::max(MOST_BYTES))
        .with_state(access.clone())
}

/// Whether a request is a browser's for a page to look at.
pub(super) fn is_person(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT).and_then(|it| it.to_str().ok());
    accepted.is_some_and(|it| it.contains("text/html"))
}

/// The page in the place of another that was asked for without a token.
pub(super) fn asked() -> Response {
    let scheme = [(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))];
    (StatusCode::UNAUTHORIZED, scheme, page(&[ENTER])).into_response()
}

async fn show(State(access): State<Access>, headers: HeaderMap) -> Response {
    match access.token() {
        None => page(&[OPEN]),
        Some(token) if token.admits(&headers) => page(&[LEAVE]),
        Some(_) => page(&[ENTER]),
    }
}

async fn enter(State(access): State<Access>, request: Request) -> Response {
    let Some(token) = access.token() else { return Redirect::to("/").into_response() };
    let form = Form::<Entry>::from_request(request, &());
    let entry = match tokio::time::timeout(PATIENCE, form).await {
        Err(_) => return StatusCode::REQUEST_TIMEOUT.into_response(),
        Ok(Err(refused)) => return refused.status().into_response(),
        Ok(Ok(Form(entry))) => entry,
    };
    // Of what is pasted, the end of the line comes along.
    if token.is(entry.token.trim()) {
        let cookie = [(header::SET_COOKIE, token.sessions.open(time::wall()))];
        return (cookie, Redirect::to("/")).into_response();
    }
    access.count(Refused::Token);
    (StatusCode::UNAUTHORIZED, page(&[WRONG, ENTER])).into_response()
}

async fn leave(State(access): State<Access>) -> Response {
    let Some(token) = access.token() else { return Redirect::to("/").into_response() };
    ([(header::SET_COOKIE, token.sessions.close())], Redirect::to(IN)).into_response()
}

fn page(parts: &[&str]) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        // Without a referrer for its own port, a browser would not say that the form comes from here.
        (header::REFERRER_POLICY, HeaderValue::from_static("same-origin")),
    ];
    (headers, PAGE.replace(PLACE, &parts.concat())).into_response()
}
