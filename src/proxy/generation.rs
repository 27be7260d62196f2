//! Generations: how a gateway goes on with another configuration.
//!
//! A [`Gateway`] belongs to one configuration. The next one is made whole, of the parts of the one
//! before that have to outlive it (pools, memory for bodies, metrics, what was learned), and takes its
//! place in one step. Requests on their way keep the generation that they began with.
//!
//! # Invariants
//!
//! - Whole or not at all: nothing is changed before all of the next generation is there.
//! - A pool follows the newest configuration, whichever generation's request makes it.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRef;
use parking_lot::{Mutex, RwLock};
use tower::retry::budget::TpsBudget;

use crate::admission::{PoolConfig, PoolKey};
use crate::config::{Config, Profile, Retry};
use crate::metrics::ReloadMetrics;
use crate::proxy::admit::pool_config;
use crate::proxy::fallback::Elsewhere;
use crate::proxy::trace::Target;
use crate::proxy::upstream::Upstream;
use crate::proxy::{Gateway, tenant};
use crate::time::Timestamp;

/// Retries are counted against requests of the last ten seconds: long enough to smooth a burst,
/// short enough to forget an outage.
const BUDGET_WINDOW: Duration = Duration::from_secs(10);

/// Whoever wants the gateway of now. Cheap to clone; all clones tell the same.
#[derive(Clone, Debug)]
pub struct Current(Arc<RwLock<Arc<Gateway>>>);

impl Current {
    /// Begins with this one.
    pub fn new(gateway: Gateway) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(gateway))))
    }

    /// The generation of now.
    pub fn get(&self) -> Arc<Gateway> {
        Arc::clone(&self.0.read())
    }

    /// Goes on with another configuration. To be called by one at a time.
    ///
    /// # Errors
    ///
    /// If the upstream's address or key cannot be used; then nothing has changed.
    pub fn replace(&self, config: Config) -> io::Result<()> {
        let next = Arc::new(self.get().next(Arc::new(config))?);
        // First: a pool that is made from now on is made so, and all others are changed below.
        *next.newest.0.write() = Arc::clone(&next.config);
        *self.0.write() = Arc::clone(&next);
        next.settle_in();
        Ok(())
    }
}

impl FromRef<Current> for Arc<Gateway> {
    /// For handlers that have to do with one generation.
    fn from_ref(current: &Current) -> Self {
        current.get()
    }
}

/// The configuration that was taken up last.
#[derive(Debug)]
pub(super) struct Newest(RwLock<Arc<Config>>);

impl Newest {
    pub(super) fn new(config: Arc<Config>) -> Self {
        Self(RwLock::new(config))
    }

    /// What the pool of a model is made by: as configured now, or as it was for those who still know
    /// the model by this profile.
    pub(super) fn pool(&self, model: &str, known: &Profile) -> (Arc<str>, PoolConfig) {
        let config = Arc::clone(&self.0.read());
        let profile = config.models.profile(model).map_or(known, Arc::as_ref);
        (Arc::clone(&profile.name), pool_config(profile, &config))
    }
}

impl Gateway {
    /// The next generation, which has not taken over yet.
    fn next(&self, config: Arc<Config>) -> io::Result<Self> {
        let before = &self.config;
        // With the same settings its connections are as good as ever.
        let upstream = if config.upstream == before.upstream {
            Arc::clone(&self.upstream)
        } else {
            Arc::new(Upstream::new(&config.upstream)?)
        };
        let same = config.fallbacks == before.fallbacks && config.upstream == before.upstream;
        let elsewhere = if same {
            Arc::clone(&self.elsewhere)
        } else {
            Elsewhere::all(&config, &self.metrics)?
        };
        let retry_budget = if config.retry == before.retry {
            Arc::clone(&self.retry_budget)
        } else {
            retry_budget(&config.retry)
        };
        let traces = self.traces.as_ref().map(|(traces, _)| {
            let provider = config.traces.as_ref().map_or("", |traces| traces.provider.as_str());
            (Arc::clone(traces), Arc::new(Target::new(&config.upstream, provider)))
        });
        Ok(Self {
            access: config.access(),
            metrics: Arc::clone(&self.metrics),
            pools: self.pools.clone(),
            tenants: self.tenants.clone(),
            upstream,
            elsewhere,
            bodies: self.bodies.limited_to(config.admission.max_queued_bytes.get()),
            retry_budget,
            learned: Arc::clone(&self.learned),
            counters: Arc::clone(&self.counters),
            drain: self.drain.clone(),
            tasks: self.tasks.clone(),
            history: Arc::clone(&self.history),
            traces,
            newest: Arc::clone(&self.newest),
            reloads: Arc::clone(&self.reloads),
            config,
        })
    }

    /// Has what is shared with other generations follow this one.
    fn settle_in(&self) {
        let config = &self.config;
        self.metrics.tenants.name(&config.keys);
        let most = config.admission.max_pools.get();
        self.pools.hold_at_most(usize::try_from(most).unwrap_or(usize::MAX));
        for (_, named) in self.pools.all() {
            // Nobody comes any more to a model that is not configured; who waits for it, waits on.
            if let Some(profile) = config.models.profile(&named.model) {
                named.follow(&profile.name);
                named.pool.reconfigure(pool_config(profile, config));
            }
        }
        // The same for tenants: whose key has no limits any more is not asked for them.
        let terms = config.keys.iter().filter_map(|key| key.terms.as_ref());
        let terms: HashMap<_, _> = terms.map(|terms| (PoolKey(terms.quota), terms)).collect();
        for (key, named) in self.tenants.all() {
            if let Some(terms) = terms.get(&key).filter(|terms| terms.are_counted()) {
                named.pool.reconfigure(tenant::pool_config(terms, config));
            }
        }
    }
}

/// What may be sent again.
pub(super) fn retry_budget(retry: &Retry) -> Arc<TpsBudget> {
    #[expect(clippy::cast_precision_loss, reason = "at most 1000, checked when configured")]
    let percent = retry.budget_percent as f32 / 100.0;
    Arc::new(TpsBudget::new(BUDGET_WINDOW, retry.budget_per_second, percent))
}

/// What became of tries to go on with another configuration.
#[derive(Debug)]
pub struct Reloads {
    metrics: ReloadMetrics,
    told: Mutex<Told>,
}

/// What there is to tell of them.
#[derive(Clone, Debug)]
pub struct Told {
    /// Configurations that were taken up, the first one included.
    pub generation: u64,
    /// When the last of them was.
    pub loaded: Timestamp,
    /// Why the last try was refused, and when, if nothing went well since.
    pub refused: Option<(Timestamp, String)>,
}

impl Reloads {
    pub(super) fn begin(now: Timestamp, metrics: &ReloadMetrics) -> Self {
        metrics.begun(now);
        let told = Told { generation: 1, loaded: now, refused: None };
        Self { metrics: metrics.clone(), told: Mutex::new(told) }
    }

    /// What there is to tell.
    pub fn told(&self) -> Told {
        self.told.lock().clone()
    }

    /// Another configuration was taken up `now`; returns its number.
    pub fn applied(&self, now: Timestamp) -> u64 {
        self.metrics.applied(now);
        let mut told = self.told.lock();
        *told = Told { generation: told.generation + 1, loaded: now, refused: None };
        told.generation
    }

    /// What there is says the same as before.
    pub fn unchanged(&self) {
        self.metrics.unchanged();
        self.told.lock().refused = None;
    }

    /// What there is cannot be taken up.
    pub fn refused(&self, why: String, now: Timestamp) {
        self.metrics.refused();
        self.told.lock().refused = Some((now, why));
    }
}
