//! Exact counts of prompts, while their requests wait in line.
//!
//! A request that can go at once is never counted: its bound is good enough, and the count would
//! take longer than all else that is done for it. One that waits has the time, and what is held for
//! it comes down to what the count and all that was learned of such counts say.
//!
//! # Invariants
//!
//! - Nothing is counted on a thread that serves requests, and only so many at once.
//! - A count keeps no request from going or ending: it is late or it is of use.

use std::sync::{Arc, Weak};

use tokio::sync::Semaphore;

use crate::admission::{Repricer, Waiting};
use crate::proxy::admit::{cost, prompt};
use crate::proxy::forward::Forward;
use crate::proxy::record::Record;
use crate::proxy::tenant::Gate;
use crate::usage::{Demand, Estimate, Tokenizer};

/// Counts at once: one for each core of a small machine, so that a full line does not take more.
pub(super) const AT_ONCE: usize = 2;

impl Forward {
    /// Has the prompt of a request counted that waits, at its tenant's gate or in the account's line.
    pub(super) fn count_meanwhile(&self, waiting: &Waiting, gate: Option<&Gate>) {
        let mut demand = None;
        self.record.note(|facts| demand = facts.study.as_ref().map(|study| study.demand.clone()));
        let Some(demand) = demand else { return };
        let Some(profile) = self.gateway.config.models.profile(&demand.model) else { return };
        if let Some(tokenizer) = &profile.tokenizer {
            let count = self.count(tokenizer.clone(), demand, waiting.repricer(), gate.cloned());
            self.gateway.tasks.spawn(count);
        }
    }

    fn count(
        &self,
        tokenizer: Tokenizer,
        demand: Demand,
        repricer: Repricer,
        gate: Option<Gate>,
    ) -> impl Future<Output = ()> + Send + 'static {
        // The request's end must not wait for this.
        let record = Arc::downgrade(&self.record);
        let (gateway, subject) = (Arc::clone(&self.gateway), self.ask.subject.clone());
        let (kind, body) = (self.ask.kind, self.outgoing.body.clone());
        let price = self.ask.price;
        async move {
            let Ok(_turn) = gateway.counters.acquire().await else { return };
            if record.upgrade().is_none() {
                return;
            }
            let most = gateway.config.server.max_body_bytes.get();
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            let counting = move || tokenizer.count_prompt(kind, &body, most);
            let counted = gateway.tasks.spawn_blocking(counting).await;
            let Ok(Some(tokens)) = counted else { return };
            note(&record, |record| {
                record.note(|facts| {
                    if let Some(study) = &mut facts.study {
                        study.counted = Some(tokens);
                    }
                });
            });
            let Some(known) = gateway.learned.find(&subject) else { return };
            let Some(profile) = gateway.config.models.profile(&demand.model) else { return };
            let prompt = prompt(profile, &known.lock(), &demand, Some(tokens));
            let estimate = Estimate { prompt, ..price.estimate };
            let at_account = cost(profile, estimate, price.least);
            let here = gate.as_ref().map_or(at_account, |gate| gate.cost(estimate, price.least));
            if let Some(gate) = gate.filter(|_| price.cost.exceeds(at_account)) {
                // It is the first: what waits once is counted once.
                let _ = gate.lowered.set(at_account);
            }
            if repricer.lower(here) {
                gateway.metrics.estimates_lowered.inc();
                note(&record, |record| record.note(|facts| facts.estimated = estimate.total()));
            }
        }
    }
}

fn note(record: &Weak<Record>, note: impl FnOnce(&Record)) {
    if let Some(record) = record.upgrade() {
        note(&record);
    }
}

/// Turns to count.
pub(super) fn turns() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(AT_ONCE))
}
