//! The token of a gateway's admin port, for commands that ask there.

use http::HeaderValue;

use crate::config::Secret;

/// Where the token is unless it is said.
const VARIABLE: &str = "TIDEGATE_ADMIN_TOKEN";

#[derive(clap::Args, Debug)]
pub(super) struct Token {
    /// Where the admin port's token is, if it asks for one: `env:NAME` or
    /// `file:PATH` [default: `env:TIDEGATE_ADMIN_TOKEN`, if that is set].
    #[arg(long = "token", value_name = "REFERENCE")]
    reference: Option<String>,
}

impl Token {
    /// The `Authorization` that presents the token; `None` if there is none.
    pub(super) fn bearer(&self) -> Result<Option<HeaderValue>, String> {
        let environment: Vec<_> = std::env::vars().collect();
        let set = environment.iter().any(|(name, value)| name == VARIABLE && !value.is_empty());
        let usual = set.then(|| format!("env:{VARIABLE}"));
        let Some(reference) = self.reference.clone().or(usual) else { return Ok(None) };
        let token = Secret::resolve(&reference, &environment)
            .map_err(|message| format!("--token: {message}"))?;
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose()))
            .map_err(|_| format!("--token: {reference} holds no token"))?;
        bearer.set_sensitive(true);
        Ok(Some(bearer))
    }
}
