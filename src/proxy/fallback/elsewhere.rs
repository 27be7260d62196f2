//! Fallbacks as requests reach them: the accounts that are not everybody's, each with a client of its own.
//!
//! Where they are is written in the configuration, and nowhere else: no request has a say in it.

use std::io;
use std::sync::Arc;

use crate::config::{self, Cause, Config, Fallback};
use crate::identity::Account;
use crate::metrics::Metrics;
use crate::proxy::trace::Target;
use crate::proxy::upstream::Upstream;

/// A fallback as requests reach it.
#[derive(Debug)]
pub(in crate::proxy) struct Elsewhere {
    pub(super) rule: Fallback,
    pub(super) other: Option<Other>,
}

/// Another account than everybody's.
#[derive(Debug)]
pub(super) struct Other {
    pub(super) account: Account,
    pub(super) upstream: Upstream,
    /// What traces say of it.
    pub(super) target: Arc<Target>,
}

impl Elsewhere {
    /// All that are configured, in order.
    ///
    /// # Errors
    ///
    /// If the address or the key of one cannot be used.
    pub(in crate::proxy) fn all(config: &Config, metrics: &Metrics) -> io::Result<Arc<[Self]>> {
        let all: io::Result<Arc<[Self]>> =
            config.fallbacks.iter().map(|rule| Self::new(rule, config)).collect();
        for rule in &config.fallbacks {
            for cause in Cause::ALL {
                metrics.upstream.has_fallback(&rule.name, cause.as_str());
            }
        }
        all
    }

    fn new(rule: &Fallback, config: &Config) -> io::Result<Self> {
        let Some(account) = &rule.account else {
            return Ok(Self { rule: rule.clone(), other: None });
        };
        let home = &config.upstream;
        let upstream = config::Upstream {
            base_url: account.base_url.clone(),
            api_key: Some(account.api_key.clone()),
            ..home.clone()
        };
        // What the provider is called is known of the one that is configured.
        let provider = config.traces.as_ref().filter(|_| home.base_url == account.base_url);
        let provider = provider.map_or("", |traces| traces.provider.as_str());
        let target = Arc::new(Target::new(&upstream, provider));
        let other = Other {
            account: Account::at(&config::place(&account.base_url), account.api_key.expose()),
            upstream: Upstream::new(&upstream)?,
            target,
        };
        Ok(Self { rule: rule.clone(), other: Some(other) })
    }
}
