//! The way of a request through the gateway.
//!
//! [`app`] is the stack, outermost first; `metered` is what happens inside it to a request that
//! costs quota, in the order in which it happens.

mod admit;
mod ambiguous;
mod body;
mod capped;
mod class;
mod counted;
mod drain;
mod error;
mod fallback;
mod forward;
mod generation;
mod headers;
mod health;
mod inside;
mod learned;
mod peek;
mod place;
mod pump;
mod queued;
mod read;
mod readings;
mod record;
mod refusal;
mod routes;
mod stack;
mod tenant;
mod trace;
mod turn;
mod unmetered;
mod upstream;
mod verdict;

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::Request;
use http::uri::PathAndQuery;
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tower::retry::budget::TpsBudget;

use self::admit::Ask;
use self::drain::Drain;
pub use self::error::{ApiError, Kind, ProxyError, UsedUp};
use self::fallback::{Choices, Elsewhere};
use self::forward::Forward;
use self::generation::Newest;
pub use self::generation::{Current, Reloads, Told};
pub use self::inside::Inside;
use self::learned::{Book, Subject};
use self::read::Budget;
use self::record::Record;
pub use self::routes::{app, only, prefixes};
pub use self::stack::App;
pub use self::tenant::TENANT;
pub use self::trace::BatchLine;
use self::trace::{Asked, Target};
pub(crate) use self::upstream::trusting;
use self::upstream::{Failure, Outgoing, Upstream};
use crate::admission::pools::Named;
use crate::admission::{Keeper, PoolKey, Pools, Sharer};
use crate::config::Config;
use crate::identity::{Access, BadKey, Caller, Owner};
use crate::metrics::{Metrics, UpstreamFailure};
use crate::store::history::History;
use crate::store::local::Learned;
use crate::telemetry::traces::Traces;
use crate::time::{self, Epoch};
use crate::usage::{Calibration, Summary};

/// Tenants with limits that have used some of them: twice as many as there may be keys, for those whose
/// key was removed and whose use is not forgotten yet.
const MOST_TENANTS: usize = 20_000;

/// Everything that requests share: one generation of the gateway, for one configuration.
///
/// A generation never changes. Another configuration makes another one ([`Current`]), of the same parts
/// wherever they outlive a configuration; a request stays with its own to its end.
#[derive(Debug)]
pub struct Gateway {
    config: Arc<Config>,
    access: Access,
    metrics: Arc<Metrics>,
    pools: Pools,
    /// Pools of tenants that have limits of their own.
    tenants: Pools,
    upstream: Arc<Upstream>,
    /// Where requests may go that it cannot serve.
    elsewhere: Arc<[Elsewhere]>,
    bodies: Budget,
    retry_budget: Arc<TpsBudget>,
    learned: Arc<Book>,
    counters: Arc<Semaphore>,
    drain: Drain,
    tasks: TaskTracker,
    history: Arc<History>,
    /// Where requests that are traced are handed over, and what all of them say of the upstream.
    traces: Option<(Arc<Traces>, Arc<Target>)>,
    /// What pools are made by, whichever generation makes them.
    newest: Arc<Newest>,
    reloads: Arc<Reloads>,
}

impl Gateway {
    /// A gateway as configured; what runs beside requests runs on `tasks`.
    ///
    /// # Errors
    ///
    /// If the upstream's address or key cannot be used.
    pub fn new(
        config: Arc<Config>,
        metrics: Arc<Metrics>,
        epoch: Epoch,
        tasks: TaskTracker,
    ) -> io::Result<Self> {
        let most = usize::try_from(config.admission.max_pools.get()).unwrap_or(usize::MAX);
        Ok(Self {
            access: config.access(),
            pools: Pools::new(most, epoch, tasks.clone()),
            tenants: Pools::new(MOST_TENANTS, epoch, tasks.clone()),
            tasks,
            upstream: Arc::new(Upstream::new(&config.upstream)?),
            elsewhere: Elsewhere::all(&config, &metrics)?,
            bodies: Budget::new(
                config.admission.max_queued_bytes.get(),
                metrics.body_bytes.clone(),
            ),
            retry_budget: generation::retry_budget(&config.retry),
            learned: Arc::default(),
            history: Arc::new(record::history(&config, epoch)),
            counters: counted::turns(),
            drain: Drain::default(),
            traces: None,
            newest: Arc::new(Newest::new(Arc::clone(&config))),
            reloads: Arc::new(Reloads::begin(epoch.now(), &metrics.reloads)),
            config,
            metrics,
        })
    }

    /// The same, with the quotas of its pools shared with other replicas.
    #[must_use]
    pub fn shared_by(mut self, sharer: Arc<dyn Sharer>) -> Self {
        self.tenants = self.tenants.shared_by(Arc::clone(&sharer));
        self.pools = self.pools.shared_by(sharer);
        self
    }

    /// The same, with its requests traced.
    #[must_use]
    pub fn traced_by(mut self, traces: Arc<Traces>) -> Self {
        let provider = self.config.traces.as_ref().map_or("", |traces| traces.provider.as_str());
        self.traces = Some((traces, Arc::new(Target::new(&self.config.upstream, provider))));
        self
    }

    /// The same, with what is done to its pools kept, and going on with what was learned before.
    #[must_use]
    pub fn kept_by(mut self, keeper: Arc<dyn Keeper>, learned: &[Learned]) -> Self {
        self.tenants = self.tenants.kept_by(Arc::clone(&keeper));
        self.pools = self.pools.kept_by(keeper);
        for Learned { pool, tenant, blob } in learned.iter().filter(|it| !it.tenant.is_empty()) {
            // What this version cannot read is learned again.
            if let Some(calibration) = Calibration::load(blob) {
                let subject = Subject { pool: *pool, tenant: tenant.as_ref().into() };
                self.learned.restore(subject, calibration);
            }
        }
        self
    }

    /// Adds what has been learned of callers and pools since the last time, or `all` there is.
    pub fn save_learned(&self, into: &mut Vec<Learned>, all: bool) {
        for (key, named) in self.pools.all() {
            if let Some(blob) = named.reserved.lock().save(all) {
                into.push(Learned { pool: key, tenant: "".into(), blob });
            }
        }
        into.extend(self.learned.save(all).into_iter().map(|(subject, blob)| {
            let Subject { pool, tenant } = subject;
            Learned { pool, tenant: tenant.as_ref().into(), blob }
        }));
    }

    /// The pools.
    pub const fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Pools of tenants that have limits of their own. They are neither an account's nor a model's, and
    /// stand apart wherever pools are shown.
    pub const fn tenants(&self) -> &Pools {
        &self.tenants
    }

    /// Both.
    pub fn every_pool(&self) -> Vec<(PoolKey, Arc<Named>)> {
        self.pools.all().into_iter().chain(self.tenants.all()).collect()
    }

    /// The pool of that key, among both.
    pub fn find_pool(&self, key: PoolKey) -> Option<Arc<Named>> {
        self.pools.find(key).or_else(|| self.tenants.find(key))
    }

    /// What has been learned of the tenants of a pool, at most `most` of them.
    pub fn learned(&self, pool: PoolKey, most: usize) -> Vec<(Arc<str>, Summary)> {
        self.learned.of_pool(pool, most)
    }

    /// Who used how much.
    pub const fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// The metrics.
    pub const fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The configuration.
    pub const fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Which generation this is, and what became of tries to make others.
    pub const fn reloads(&self) -> &Arc<Reloads> {
        &self.reloads
    }

    /// Who asks, by the headers of a request.
    ///
    /// # Errors
    ///
    /// If the caller may not call, or the headers contradict each other.
    pub fn identify(&self, headers: &http::HeaderMap) -> Result<Caller, ProxyError> {
        let mut values = headers.get_all(http::header::AUTHORIZATION).iter();
        let first = values.next().map(http::HeaderValue::as_bytes);
        if values.next().is_some() {
            let expected = "sent once";
            return Err(ProxyError::Header { name: "authorization", expected });
        }
        let told = self.config.admission.tenant_header.as_ref().and_then(|it| headers.get(it));
        let told = told.map(http::HeaderValue::as_bytes);
        Ok(self.access.identify(first, told, time::wall())?)
    }

    /// Whoever runs the program.
    pub fn operator(&self) -> Caller {
        self.access.operator()
    }

    /// A tenant's name by its number.
    pub fn tenant(&self, number: u64) -> String {
        self.access.name_of(number)
    }

    /// The caller that an owner was, if it may still call.
    pub fn caller_again(&self, owner: &Owner) -> Option<Caller> {
        self.access.again(owner, time::wall())
    }

    /// Notes what an attempt says of the upstream's health.
    fn note_health(&self, answer: &Result<Response<Incoming>, Failure>) {
        let health = &self.metrics.upstream;
        match answer {
            Ok(answer) if answer.status().is_success() => {
                health.succeeded(self.pools.epoch().now());
            }
            Ok(answer) if answer.status().is_server_error() => {
                health.failed(UpstreamFailure::ServerError);
            }
            Ok(_) => {}
            Err(failure) => health.failed(failure.kind()),
        }
    }

    /// What a caller's request becomes on the upstream's side.
    fn outgoing(
        &self,
        mut head: http::request::Parts,
        path: PathAndQuery,
        body: Bytes,
    ) -> Outgoing {
        headers::for_upstream(&mut head.headers, self.upstream.authorization());
        let path = match head.uri.query() {
            // The path is one of ours and the query was part of a valid URI.
            Some(query) => format!("{path}?{query}").parse().unwrap_or(path),
            None => path,
        };
        Outgoing { method: head.method, path, headers: head.headers, body }
    }
}

/// A request that costs quota: chat and text completions. It is taken.
async fn metered(
    gateway: &Arc<Gateway>,
    record: &Arc<Record>,
    path: &'static str,
    request: &mut Request<Body>,
) -> Result<Response, ProxyError> {
    let (mut forward, inside) = prepared(gateway, record, path, request).await?;
    // Waits for its turn, is sent, and comes back with a body that settles when it ends.
    let mut turn = match forward.enter() {
        Ok(turn) => turn,
        Err(error) => return Ok(forward.finish(Err(error))),
    };
    turn.inside = inside;
    Ok(match forward.answer(&mut turn).await {
        Some(response) => response,
        // It waits for long: the answer begins before there is one.
        None => queued::begin(forward, turn),
    })
}

/// A request that has been read: what it costs, what becomes of it, and what is known of it if it is the
/// gateway's own. A future of its own, so that what it needs takes no room while the request waits.
async fn prepared(
    gateway: &Arc<Gateway>,
    record: &Arc<Record>,
    path: &'static str,
    request: &mut Request<Body>,
) -> Result<(Forward, Option<Inside>), ProxyError> {
    let (mut head, body) = std::mem::take(request).into_parts();
    let inside = head.extensions.remove::<Inside>();
    // No body is read for a stranger.
    let caller = match &inside {
        // Whose batch it is may have lost its key since.
        Some(inside) => gateway.caller_again(inside.owner()).ok_or(BadKey::Revoked)?,
        None => gateway.identify(&head.headers)?,
    };
    record.note(|facts| facts.asked_by(&caller));
    // The estimate needs the body; it is bounded before it is read.
    let server = &gateway.config.server;
    let (limit, idle) = (server.max_body_bytes.get(), server.body_timeout);
    let (came, memory) = read::whole(body, limit, idle, &gateway.bodies).await?;
    let (mut ask, study) = Ask::read(gateway, &caller, &head.headers, &came)?;
    if let Some(inside) = &inside {
        ask.wait_inside(inside);
    }
    let choices = match &inside {
        // It has all the time in the world.
        Some(_) => None,
        None => Choices::of(gateway, &caller, &head.headers, &study.demand.model)?,
    };
    record.trace(|trace| {
        let class = &gateway.config.classes.all()[ask.request.class].name;
        trace.asks(Asked::new(ask.subject.pool, class, &study.demand));
        if let Some(line) = inside.as_ref().map(Inside::line) {
            trace.is_line(line.clone());
        }
    });
    record.note(|facts| {
        facts.model = Some(Arc::clone(&ask.pool.model));
        facts.estimated = ask.price.estimate.total();
        facts.output_cap = ask.capped.as_ref().map(|capped| capped.tokens);
        facts.study = Some(study);
    });
    let multiplexed = head.version == http::Version::HTTP_2;
    let body = ask.capped.as_ref().map_or_else(|| came.clone(), |capped| capped.body.clone());
    let outgoing = gateway.outgoing(head, PathAndQuery::from_static(path), body);
    let (gateway, record) = (Arc::clone(gateway), Arc::clone(record));
    let (begun, fallback) = (false, None);
    let forward = Forward {
        gateway,
        record,
        ask,
        came,
        outgoing,
        multiplexed,
        choices,
        fallback,
        begun,
        memory,
    };
    Ok((forward, inside))
}
