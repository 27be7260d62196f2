//! Who may use the admin port: whoever has the token, from a page of its own, under a name of its own.
//!
//! # Invariants
//!
//! - With a token configured, nothing but [`PROBES`] and what a person needs to present it is answered
//!   without: not even which paths there are.
//! - Whether a token is right takes as long to find out whether it is nearly right or not at all.
//! - A page of another site can neither read this port by a name that it points here (the `Host` of its
//!   requests is its own) nor have a browser change anything (their `Origin` is).

mod host;
mod login;
mod session;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use self::session::Sessions;
use crate::metrics::{Metrics, Refused};
use crate::proxy::Gateway;
use crate::time;

/// What orchestrators ask, who have no secrets: they tell nothing but that the gateway is there.
const PROBES: [&str; 2] = ["/livez", "/readyz"];

/// What a person without a session sees: a form, its style and an icon.
const ENTRANCE: [&str; 4] = [login::IN, login::OUT, "/page/style.css", "/page/icon.svg"];

/// Who may use the port.
#[derive(Debug)]
struct Access {
    /// `None` where no token is asked for.
    token: Option<Token>,
    /// Names that are known to be this port's; `None` where any is good, since the token is asked for.
    names: Option<Vec<String>>,
    metrics: Arc<Metrics>,
}

/// The token, as its digest, and the sessions of those who have presented it.
#[derive(Debug)]
struct Token {
    digest: [u8; 32],
    sessions: Sessions,
}

/// The pages, for those who may see them.
pub(super) fn guarded(gateway: &Gateway, pages: Router) -> Router {
    let server = &gateway.config().server;
    let asked = &server.admin_access;
    let encrypted = server.tls.as_ref().is_some_and(|tls| tls.admin);
    let token = asked.token.as_ref().map(|token| Token::new(token.expose(), encrypted));
    // Whoever has the token need not be told by the name under which they ask. On loopback, names are
    // checked even so: there is no good reason for another.
    let checked = token.is_none() || server.admin.ip().is_loopback() || !asked.hosts.is_empty();
    let names = checked.then(|| asked.hosts.clone());
    let access = Arc::new(Access { token, names, metrics: Arc::clone(gateway.metrics()) });
    pages.merge(login::routes(&access)).layer(from_fn_with_state(access, check))
}

/// Lets a request through, or says what is wrong with it.
async fn check(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let (path, headers) = (request.uri().path(), request.headers());
    if PROBES.contains(&path) {
        return next.run(request).await;
    }
    let own = access.names.as_deref();
    if own.is_some_and(|names| !host::is_own(request.uri(), headers, names)) {
        return access.refuse(Refused::Host);
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if !reads && !host::is_from_own_page(request.uri(), headers, own.unwrap_or_default()) {
        return access.refuse(Refused::Origin);
    }
    if ENTRANCE.contains(&path) || access.admits(headers) {
        return next.run(request).await;
    }
    if reads && login::is_person(headers) {
        access.metrics.server.count_refused(Refused::Token);
        return login::asked();
    }
    access.refuse(Refused::Token)
}

impl Access {
    /// Whether this caller may see everything.
    fn admits(&self, headers: &HeaderMap) -> bool {
        self.token.as_ref().is_none_or(|token| token.admits(headers))
    }

    fn refuse(&self, why: Refused) -> Response {
        self.metrics.server.count_refused(why);
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
