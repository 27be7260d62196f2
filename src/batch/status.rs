//! The batches that run, for operators.

use std::sync::Arc;

use serde::Serialize;

use super::Batches;
use super::object::Progress;
use crate::store::archive::{State, Trouble};

/// A batch that has not ended.
#[derive(Debug, Serialize)]
pub struct BatchStatus {
    batch: String,
    tenant: Arc<str>,
    status: &'static str,
    total: u32,
    completed: u64,
    failed: u64,
    tokens_used: u64,
    expires_in_seconds: u64,
    #[serde(flatten)]
    progress: Option<Progress>,
}

impl Batches {
    /// The batches that have not ended, the oldest first.
    ///
    /// # Errors
    ///
    /// If the archive cannot be read.
    pub async fn status(&self) -> Result<Vec<BatchStatus>, Trouble> {
        let now = self.now();
        let shown = self.archive.unfinished().await?.into_iter().map(|batch| {
            let job = self.jobs.lock().get(&batch.id).map(Arc::clone);
            let working = job.filter(|_| batch.record.state == State::InProgress);
            let progress = working.map(|job| self.progress(&job, &batch.record));
            BatchStatus {
                tenant: batch.owner.tenant,
                status: batch.record.state.as_str(),
                total: batch.record.total,
                completed: batch.counts.completed,
                failed: batch.counts.failed,
                tokens_used: batch.counts.prompt.saturating_add(batch.counts.completion),
                expires_in_seconds: batch.record.expires.saturating_sub(now),
                progress,
                batch: batch.id,
            }
        });
        Ok(shown.collect())
    }
}
