//! Requests that are sent with an output limit of the gateway's own.
//!
//! The caller is always told, in a header. An answer that the limit cut may be asked for again
//! without it, once, as long as the caller has been handed nothing of it.

use std::sync::Arc;

use axum::response::Response;
use bytes::Bytes;

use crate::config::{Config, OutputChoice, Profile};
use crate::metrics::RetryReason;
use crate::proxy::admit::{Ask, Price};
use crate::proxy::forward::Forward;
use crate::proxy::learned::Study;
use crate::proxy::turn::Turn;
use crate::usage::{BodyKind, Calibration, Demand, OutputLimit, limit_output};

/// An output limit that the caller did not ask for.
#[derive(Clone, Debug)]
pub(super) struct Capped {
    /// The limit, for each choice.
    pub(super) tokens: u64,
    /// The body with it.
    pub(super) body: Bytes,
    /// The request as it came, if it may be sent so after all.
    pub(super) original: Option<Box<Original>>,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct Original {
    demand: Demand,
    body: Bytes,
    price: Price,
}

/// A limit that the configuration asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    tokens: u64,
    retry: bool,
}

impl Wanted {
    /// The limit to put on a request of `tenant`, if any.
    pub(super) fn of(
        config: &Config,
        tenant: &str,
        profile: &Profile,
        known: Option<&Calibration>,
        demand: &Demand,
    ) -> Option<Self> {
        let choice = config.output_choices.get(tenant).copied().unwrap_or_default();
        let policy = choice.over(OutputChoice::from(profile.output)).policy();
        let tokens = policy.cap.of(demand, known)?;
        Some(Self { tokens, retry: policy.retry && !demand.stream })
    }

    /// Puts it on a request that has this `price` without it, if it can be written in.
    pub(super) fn put_on(
        self,
        demand: &mut Demand,
        price: Price,
        (kind, body): (BodyKind, &Bytes),
        most: usize,
    ) -> Option<Capped> {
        let Self { tokens, retry } = self;
        let capped = limit_output(kind, body, most, tokens)?;
        let original =
            retry.then(|| Box::new(Original { demand: demand.clone(), body: body.clone(), price }));
        demand.output_limit = OutputLimit::Tokens(tokens);
        Some(Capped { tokens, body: capped.into(), original })
    }
}

impl Ask {
    /// Asks for what the request cost as it came; returns its body and its demand.
    fn take_cap_off(&mut self) -> Option<(Bytes, Demand)> {
        let original = self.capped.as_mut()?.original.take()?;
        let Original { demand, body, price } = *original;
        self.price = price;
        (self.request.cost, self.request.fair) = (price.cost, price.fair);
        if let Some(gate) = &mut self.gate {
            gate.lowered = Arc::default();
        }
        self.capped = None;
        Some((body, demand))
    }
}

impl Forward {
    /// The answer to hand over instead of `first`: the one without our limit, where that cut it and
    /// there is one. Nothing of `first` has been handed over.
    pub(super) async fn without_cap(&mut self, first: Response) -> Response {
        // An answer that could not be read whole has not been seen to be cut.
        let mut before = None;
        self.record.note(|facts| before = facts.cut_at_cap.then(|| facts.answered()));
        let (Some(before), true) = (before, first.status().is_success()) else { return first };
        let Some((body, demand)) = self.ask.take_cap_off() else { return first };
        self.outgoing.body = body;
        // What goes elsewhere is what the caller sent, and there is an answer already.
        self.choices = None;
        self.gateway.metrics.count_retry(RetryReason::OutputCap);
        let (book, subject) = (Arc::clone(&self.gateway.learned), self.ask.subject.clone());
        let estimated = self.ask.price.estimate.total();
        self.record.note(|facts| {
            facts.outcome = None;
            facts.output_cap = None;
            facts.estimated = estimated;
            facts.study = Some(Study { book, subject, demand, counted: None });
        });
        let second = match self.stand(false) {
            // In a box: a request that is not asked for again shall not carry the room for it.
            Ok(wait) => Box::pin(self.carry(&mut Turn::first(wait))).await,
            Err(_) => None,
        };
        match second {
            Some(Ok(second)) if second.status().is_success() => second,
            // Half an answer is of more use than none.
            _ => {
                self.record.note(|facts| facts.back_to(before));
                first
            }
        }
    }
}
