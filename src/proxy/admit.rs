//! From a request body to an admission: what it costs, how long it may wait, and in which pool.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName};

use crate::admission::pools::Named;
use crate::admission::{PoolConfig, PoolKey, Request, TenantLimits};
use crate::config::{Admission, Config, Profile};
use crate::identity::Caller;
use crate::limit::{Constraint, Cost, Unit};
use crate::proxy::Gateway;
use crate::proxy::capped::{Capped, Wanted};
use crate::proxy::class::class_of;
use crate::proxy::error::ProxyError;
use crate::proxy::inside::Inside;
use crate::proxy::learned::{Study, Subject};
use crate::proxy::queued::Beats;
use crate::proxy::tenant::Gate;
use crate::usage::{BodyKind, Calibration, Demand, Estimate, OutputLimit};

/// What is known of a request once its body has been read.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    /// The pool that it goes through.
    pub(super) pool: Arc<Named>,
    /// What it has to pass before, if its tenant has limits of its own.
    pub(super) gate: Option<Gate>,
    /// What it costs.
    pub(super) price: Price,
    /// Whose request it is, and to what: what is learned of it is learned of this.
    pub(super) subject: Subject,
    /// How its body is written.
    pub(super) kind: BodyKind,
    /// The output limit that it was given, if any.
    pub(super) capped: Option<Box<Capped>>,
    /// What it asks the pool for.
    pub(super) request: Request,
    /// How long it can wait in all.
    pub(super) patience: Duration,
    /// The output limit it names, if it asks for one answer.
    asked: Option<OutputLimit>,
    /// When its caller is told that it waits, if ever.
    pub(super) beats: Option<Beats>,
    pub(super) max_queued: NonZeroU32,
    pub(super) max_queued_per_tenant: NonZeroU32,
}

/// What a request costs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Price {
    /// At most.
    pub(super) estimate: Estimate,
    /// At least.
    pub(super) least: Estimate,
    /// What is held for it.
    pub(super) cost: Cost,
    /// What it is likely to cost, in tokens: what decides whose turn it is.
    pub(super) fair: u64,
}

impl Price {
    /// The price of `demand`, as far as its caller is `known`.
    pub(super) fn of(profile: &Profile, known: Option<&Calibration>, demand: &Demand) -> Self {
        let rule = &profile.estimate;
        let (mut estimate, least) = (rule.estimate(demand), rule.least(demand));
        if let Some(known) = known {
            estimate.prompt = prompt(profile, known, demand, None);
        }
        let fair = known.map_or_else(|| estimate.total(), |known| known.fair(rule, demand));
        Self { estimate, least, cost: cost(profile, estimate, least), fair }
    }

    /// Holds no more for each answer than the upstream was seen to reserve.
    fn reserve_at_most(&mut self, profile: &Profile, each: Option<u64>, demand: &Demand) {
        let all = each.map(|it| it.saturating_mul(demand.choices).saturating_mul(demand.prompts));
        if let Some(all) = all.filter(|all| *all < self.estimate.output) {
            self.estimate.output = all;
            self.cost = cost(profile, self.estimate, self.least);
        }
    }
}

/// The price of a request, and the output limit that it is given, if any.
fn priced(
    gateway: &Gateway,
    subject: &Subject,
    profile: &Profile,
    demand: &mut Demand,
    sent: (BodyKind, &Bytes),
) -> (Price, Option<Box<Capped>>) {
    let calibration = gateway.learned.find(subject);
    let known = calibration.as_ref().map(|it| it.lock());
    let price = Price::of(profile, known.as_deref(), demand);
    let tenant = &subject.tenant;
    let wanted = Wanted::of(&gateway.config, tenant, profile, known.as_deref(), demand);
    // Writing a limit into a large body takes a while, and the caller's others shall not wait.
    drop(known);
    let most = usize::try_from(gateway.config.server.max_body_bytes.get()).unwrap_or(usize::MAX);
    let Some(capped) = wanted.and_then(|it| it.put_on(demand, price, sent, most)) else {
        return (price, None);
    };
    let known = calibration.as_ref().map(|it| it.lock());
    (Price::of(profile, known.as_deref(), demand), Some(Box::new(capped)))
}

/// The most tokens that a prompt of a caller that is `known` may have, or that the upstream may take
/// it for: what it sets aside is an estimate of its own, above the count that it reports later.
pub(super) fn prompt(
    profile: &Profile,
    known: &Calibration,
    demand: &Demand,
    counted: Option<u64>,
) -> u64 {
    let rule = &profile.estimate;
    let by_bytes = rule.estimate(demand).prompt;
    if !profile.calibrate {
        return by_bytes;
    }
    let bound = known.prompt(rule, demand, counted);
    let margin = u128::from(bound) * u128::from(profile.margin_percent);
    let margin = u64::try_from(margin.div_ceil(100)).unwrap_or(u64::MAX);
    bound.saturating_add(margin).min(by_bytes.max(bound))
}

/// What is held in each unit.
pub(super) fn cost(profile: &Profile, estimate: Estimate, least: Estimate) -> Cost {
    let held = |unit| within(&profile.limits, unit, estimate.total(), least.total());
    Cost { requests: 1, tokens: held(Unit::Tokens), uncached: held(Unit::UncachedTokens) }
}

impl Ask {
    /// The upstream has reserved so many tokens for this request, at least and at most.
    pub(super) fn learn_reserved(&self, least: u64, most: u64) {
        if let Some(asked) = self.asked {
            // What the prompt takes of it at most, or at least, is not the answer's.
            let least = least.saturating_sub(self.price.estimate.prompt);
            let most = most.saturating_sub(self.price.least.prompt);
            self.pool.reserved.lock().observe(asked, least, most);
        }
    }

    /// Lets a request of the gateway's own wait in its class, for as long as it may.
    pub(super) fn wait_inside(&mut self, inside: &Inside) {
        self.patience = inside.patience();
        self.request.deadline = self.pool.pool.now().after(self.patience);
        self.request.class = inside.class();
    }

    /// Reads a metered request.
    pub(super) fn read(
        gateway: &Gateway,
        caller: &Caller,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<(Self, Study), ProxyError> {
        let text = |name: HeaderName| {
            let bytes = headers.get(name).map(http::HeaderValue::as_bytes);
            bytes.map(|bytes| std::str::from_utf8(bytes).unwrap_or("not text"))
        };
        let kind = BodyKind::from_headers(text(CONTENT_TYPE), text(CONTENT_ENCODING))?;
        let config = &gateway.config;
        let most = usize::try_from(config.server.max_body_bytes.get()).unwrap_or(usize::MAX);
        let mut demand = Demand::read(kind, body, most)?;
        if !caller.may_use(&demand.model) {
            return Err(ProxyError::NotYourModel);
        }
        let profile = config.models.profile(&demand.model).ok_or(ProxyError::UnknownModel)?;
        let sdk = sdk_timeout(headers);
        let beats = Beats::plan(headers, caller, &demand, &config.admission, sdk)?;
        let key = PoolKey(caller.account.quota(&demand.model));
        let make = || gateway.newest.pool(&demand.model, profile);
        let pool = gateway
            .pools
            .get(key, &demand.model, make)
            .map_err(|_| ProxyError::Overloaded { what: "accounts and models" })?;
        let gate = Gate::of(gateway, caller)?;
        // A client that is sent something from time to time does not run into its timeout.
        let sdk = sdk.filter(|_| beats.is_none());
        let sdk = sdk.map(|timeout| before_head(timeout, pool.pool.expected_head()));
        let patience = patience(headers, &config.admission, sdk)?;
        let deadline = gateway.pools.epoch().now().after(patience);
        let class = class_of(headers, demand.service_tier, caller, &config.classes)?;
        let subject = Subject { pool: key, tenant: Arc::clone(&caller.tenant) };
        let (mut price, capped) = priced(gateway, &subject, profile, &mut demand, (kind, body));
        if profile.calibrate {
            let reserved = pool.reserved.lock().bound(demand.output_limit);
            price.reserve_at_most(profile, reserved, &demand);
        }
        let single = demand.choices == 1 && demand.prompts == 1;
        let asked = single.then_some(demand.output_limit);
        let request = Request {
            fair: price.fair,
            class,
            tenant: caller.id,
            weight: caller.weight,
            ..Request::new(price.cost, body.len() as u64, deadline)
        };
        let book = Arc::clone(&gateway.learned);
        let study = Study { book, subject: subject.clone(), demand, counted: None };
        let Admission { max_queued, max_queued_per_tenant, .. } = config.admission;
        let ask = Self {
            pool,
            gate,
            price,
            subject,
            kind,
            capped,
            request,
            patience,
            asked,
            beats,
            max_queued,
            max_queued_per_tenant,
        };
        Ok((ask, study))
    }
}

/// The tokens to hold in `unit`: the bound on what the request costs, but no more than the smallest
/// limit if the request itself may be below that. A bound errs upwards; the upstream's own count
/// decides.
pub(super) fn within(limits: &[Constraint], unit: Unit, bound: u64, least: u64) -> u64 {
    let limits = limits.iter().filter(|quota| quota.unit() == unit);
    match limits.map(Constraint::limit).min() {
        Some(limit) if least <= limit => bound.min(limit),
        _ => bound,
    }
}

/// How long the caller is ready to wait: the least of what it says, what its client does (`sdk`) and
/// what is allowed.
fn patience(
    headers: &HeaderMap,
    config: &Admission,
    sdk: Option<Duration>,
) -> Result<Duration, ProxyError> {
    static MAX_WAIT: HeaderName = HeaderName::from_static("x-tidegate-max-wait");
    let mut patience = sdk.map_or(config.max_wait, |sdk| config.max_wait.min(sdk));
    if let Some(value) = headers.get(&MAX_WAIT) {
        let asked = value.to_str().ok().and_then(|text| humantime::parse_duration(text).ok());
        let expected = "a duration with its unit, such as \"10s\"";
        let name = MAX_WAIT.as_str();
        patience = patience.min(asked.ok_or(ProxyError::Header { name, expected })?);
    }
    Ok(patience)
}

/// What is left of an SDK's timeout for waiting: it runs until the head of the answer. What others'
/// heads took says little of one request, so no more than half of the timeout is kept for it.
fn before_head(timeout: Duration, head: Duration) -> Duration {
    timeout - head.min(timeout / 2)
}

/// What SDKs say of their own timeouts; some say it in words when there is none.
fn sdk_timeout(headers: &HeaderMap) -> Option<Duration> {
    static NAMES: [HeaderName; 2] = [
        HeaderName::from_static("x-stainless-read-timeout"),
        HeaderName::from_static("x-stainless-timeout"),
    ];
    let told = NAMES.iter().filter_map(|name| {
        let seconds = headers.get(name)?.to_str().ok()?.parse::<f64>().ok()?;
        Duration::try_from_secs_f64(seconds).ok().filter(|span| !span.is_zero())
    });
    told.min()
}

/// How the pool of a model with this profile admits.
pub(super) fn pool_config(profile: &Profile, config: &Config) -> PoolConfig {
    let admission = &config.admission;
    let count = |most: NonZeroU32| usize::try_from(most.get()).unwrap_or(usize::MAX);
    PoolConfig {
        constraints: profile.limits.clone(),
        cold_start: admission.cold_start,
        classes: config.classes.all().iter().map(|class| class.rule).collect(),
        max_queued: count(admission.max_queued),
        per_tenant: TenantLimits {
            queued: count(admission.max_queued_per_tenant),
            bytes: admission.max_queued_bytes_per_tenant.get(),
        },
        settle_delay: admission.settle_delay,
        max_concurrent: profile.max_concurrent,
        min_gap: profile.min_gap,
        circuit: config.breaker,
    }
}
