//! How commands that ask a gateway's admin port get in: its token, and whose certificates are trusted.

use std::time::Duration;

use http::HeaderValue;

use crate::admin::Client;
use crate::config::{Secret, authorities};

/// Where the token is unless it is said.
const TOKEN: &str = "TIDEGATE_ADMIN_TOKEN";
/// Which file has the authority's certificates unless it is said.
const CA: &str = "TIDEGATE_ADMIN_CA";

#[derive(clap::Args, Debug)]
pub(super) struct Access {
    /// Where the admin port's token is, if it asks for one: `env:NAME` or
    /// `file:PATH` [default: `env:TIDEGATE_ADMIN_TOKEN`, if that is set].
    #[arg(long, value_name = "REFERENCE")]
    token: Option<String>,
    /// PEM file of the authorities that the admin port's certificate may be signed by, where its URL is
    /// `https://…` [default: the file that `TIDEGATE_ADMIN_CA` names, else the public authorities].
    #[arg(long, value_name = "FILE")]
    ca: Option<String>,
}

impl Access {
    /// A client that gets in, and waits for an answer as long as `patience`.
    pub(super) fn client(&self, patience: Duration) -> Result<Client, String> {
        let environment: Vec<_> = std::env::vars().collect();
        let set = |name: &str| {
            let found = environment.iter().find(|(key, value)| key == name && !value.is_empty());
            found.map(|(_, value)| value.clone())
        };
        let usual = set(TOKEN).map(|_| format!("env:{TOKEN}"));
        let bearer = match self.token.clone().or(usual) {
            None => None,
            Some(reference) => Some(bearer(&reference, &environment)?),
        };
        let (place, file) = match &self.ca {
            Some(file) => ("--ca", Some(file.clone())),
            None => (CA, set(CA)),
        };
        let trusted = match file {
            None => Vec::new(),
            Some(file) => authorities(&file).map_err(|message| format!("{place}: {message}"))?,
        };
        Client::new(&trusted, bearer, patience).map_err(|error| format!("{place}: {error}"))
    }
}

/// The `Authorization` that presents the token at a reference.
fn bearer(reference: &str, environment: &[(String, String)]) -> Result<HeaderValue, String> {
    let token =
        Secret::resolve(reference, environment).map_err(|message| format!("--token: {message}"))?;
    let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose()))
        .map_err(|_| format!("--token: {reference} holds no token"))?;
    bearer.set_sensitive(true);
    Ok(bearer)
}
