//! Who may use the admin port: whoever has the token, from a page of its own, under a name of its own.
//!
//! # Invariants
//!
//! - With a token configured, nothing but [`PROBES`] and what a person needs to present it is answered
//!   without: not even which paths there are.
//! - What is configured now counts: with another token, sessions and streams of the one before end.
//! - Whether a token is right takes as long to find out whether it is nearly right or not at all.
//! - A page of another site can neither read this port by a name that it points here (the `Host` of its
//!   requests is its own) nor have a browser change anything (their `Origin` is).

mod host;
mod login;
mod session;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use self::session::Sessions;
use crate::metrics::Refused;
use crate::proxy::Current;
use crate::time;

/// What orchestrators ask, who have no secrets: they tell nothing but that the gateway is there.
const PROBES: [&str; 2] = ["/livez", "/readyz"];

/// What a person without a session sees: a form, its style and an icon.
const ENTRANCE: [&str; 4] = [login::IN, login::OUT, "/page/style.css", "/page/icon.svg"];

/// What does not end by itself.
const STREAM: &str = "/events";

/// Who may use the port, as it is configured now.
#[derive(Clone, Debug)]
struct Access {
    current: Current,
}

/// The token, as its digest, and the sessions of those who have presented it.
#[derive(Debug)]
struct Token {
    digest: [u8; 32],
    sessions: Sessions,
}

/// The pages, for those who may see them.
pub(super) fn guarded(current: Current, pages: Router) -> Router {
    let access = Access { current };
    pages.merge(login::routes(&access)).layer(from_fn_with_state(access, check))
}

/// Lets a request through, or says what is wrong with it.
async fn check(State(access): State<Access>, request: Request, next: Next) -> Response {
    let (path, headers) = (request.uri().path(), request.headers());
    if PROBES.contains(&path) {
        return next.run(request).await;
    }
    let own = access.names();
    let own = own.as_deref();
    if own.is_some_and(|names| !host::is_own(request.uri(), headers, names)) {
        return access.refuse(Refused::Host);
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if !reads && !host::is_from_own_page(request.uri(), headers, own.unwrap_or_default()) {
        return access.refuse(Refused::Origin);
    }
    let admitted = access.admits(headers);
    if admitted && path == STREAM {
        let headers = headers.clone();
        return next.run(request).await.map(|body| while_admitted(body, access, headers));
    }
    if admitted || ENTRANCE.contains(&path) {
        return next.run(request).await;
    }
    if reads && login::is_person(headers) {
        access.count(Refused::Token);
        return login::asked();
    }
    access.refuse(Refused::Token)
}

/// Ends what is streamed when the caller would not be let in any more: at the next event.
fn while_admitted(body: Body, access: Access, headers: HeaderMap) -> Body {
    let events = body.into_data_stream();
    Body::from_stream(events.take_while(move |_| std::future::ready(access.admits(&headers))))
}

impl Access {
    /// The token that has to be presented; `None` where none is asked for.
    fn token(&self) -> Option<Token> {
        let gateway = self.current.get();
        let server = &gateway.config().server;
        let encrypted = server.tls.as_ref().is_some_and(|tls| tls.admin);
        let token = server.admin_access.token.as_ref();
        token.map(|token| Token::new(token.expose(), encrypted))
    }

    /// Names that are known to be this port's; `None` where any is good, since the token is asked for.
    fn names(&self) -> Option<Vec<String>> {
        let gateway = self.current.get();
        let server = &gateway.config().server;
        let asked = &server.admin_access;
        // Whoever has the token need not be told by the name under which they ask. On loopback, names
        // are checked even so: there is no good reason for another.
        let checked =
            asked.token.is_none() || server.admin.ip().is_loopback() || !asked.hosts.is_empty();
        checked.then(|| asked.hosts.clone())
    }

    /// Whether this caller may see everything.
    fn admits(&self, headers: &HeaderMap) -> bool {
        self.token().is_none_or(|token| token.admits(headers))
    }

    fn count(&self, why: Refused) {
        self.current.get().metrics().server.count_refused(why);
    }

    fn refuse(&self, why: Refused) -> Response {
        self.count(why);
        match why {
            Refused::Token => {
                let scheme = [(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))];
                let text = "a token is needed: Authorization: Bearer TOKEN (server.admin_token)\n";
                (StatusCode::UNAUTHORIZED, scheme, text).into_response()
            }
            Refused::Host => {
                let text = "this port does not go by that name: see server.admin_hosts\n";
                (StatusCode::MISDIRECTED_REQUEST, text).into_response()
            }
            Refused::Origin => {
                (StatusCode::FORBIDDEN, "not from a page of another site\n").into_response()
            }
        }
    }
}

impl Token {
    fn new(token: &str, encrypted: bool) -> Self {
        Self { digest: digest(token), sessions: Sessions::new(token, encrypted) }
    }

    /// Whether this is the token.
    fn is(&self, presented: &str) -> bool {
        // Of digests, so that the lengths are the same.
        self.digest.ct_eq(&digest(presented)).into()
    }

    /// Whether a request comes with the token, or with a session of somebody who had it.
    fn admits(&self, headers: &HeaderMap) -> bool {
        let bearer = headers.get(header::AUTHORIZATION).and_then(|it| bearer(it.to_str().ok()?));
        bearer.is_some_and(|presented| self.is(presented))
            || self.sessions.are_open(headers, time::wall())
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// The token of an `Authorization`.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
