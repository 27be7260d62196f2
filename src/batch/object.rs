//! Files and batches as the API shows them, field by field as OpenAI does.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::store::archive::{Batch, Counts, LineProblem, Record, StoredFile};

/// A file.
#[derive(Debug, Serialize)]
pub(super) struct FileObject<'a> {
    id: &'a str,
    object: &'static str,
    bytes: u64,
    created_at: u64,
    expires_at: u64,
    filename: &'a str,
    purpose: &'static str,
    // No longer used there, but SDKs expect it.
    status: &'static str,
}

impl<'a> FileObject<'a> {
    pub(super) fn of(file: &'a StoredFile) -> Self {
        Self {
            id: &file.id,
            object: "file",
            bytes: file.bytes,
            created_at: file.created,
            expires_at: file.expires,
            filename: &file.name,
            purpose: file.purpose.as_str(),
            status: "processed",
        }
    }
}

/// That something was deleted.
#[derive(Debug, Serialize)]
pub(super) struct Deleted<'a> {
    pub(super) id: &'a str,
    pub(super) object: &'static str,
    pub(super) deleted: bool,
}

/// A page of a list.
#[derive(Debug, Serialize)]
pub(super) struct List<T> {
    object: &'static str,
    data: Vec<T>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

impl<T> List<T> {
    /// Entries with their ids, and whether more follow.
    pub(super) fn of(entries: Vec<(String, T)>, has_more: bool) -> Self {
        let first_id = entries.first().map(|(id, _)| id.clone());
        let last_id = entries.last().map(|(id, _)| id.clone());
        let data = entries.into_iter().map(|(_, entry)| entry).collect();
        Self { object: "list", data, first_id, last_id, has_more }
    }
}

/// A batch.
#[derive(Debug, Serialize)]
pub(super) struct BatchObject<'a> {
    id: &'a str,
    object: &'static str,
    endpoint: &'a str,
    model: Option<&'a str>,
    errors: Option<Problems<'a>>,
    input_file_id: &'a str,
    completion_window: &'a str,
    status: &'static str,
    output_file_id: Option<&'a str>,
    error_file_id: Option<&'a str>,
    created_at: u64,
    in_progress_at: Option<u64>,
    expires_at: u64,
    finalizing_at: Option<u64>,
    completed_at: Option<u64>,
    failed_at: Option<u64>,
    expired_at: Option<u64>,
    cancelling_at: Option<u64>,
    cancelled_at: Option<u64>,
    request_counts: RequestCounts,
    usage: Usage,
    metadata: Option<&'a BTreeMap<String, String>>,
    /// What is not in OpenAI's object: why a batch that runs does not get on.
    #[serde(skip_serializing_if = "Option::is_none")]
    tidegate: Option<Progress>,
}

/// How a batch that runs gets on.
#[derive(Clone, Debug, Serialize)]
pub struct Progress {
    /// Requests that wait for quota.
    pub waiting: u32,
    /// Requests at the upstream.
    pub at_upstream: u32,
    /// Requests that failed and are to be tried again.
    pub to_retry: u32,
    /// The limit that holds up its model's requests, if one does.
    pub limited_by: Option<String>,
    /// Why the last request that is to be tried again was refused or failed.
    pub last_trouble: Option<String>,
}

#[derive(Debug, Serialize)]
struct Problems<'a> {
    object: &'static str,
    data: &'a [LineProblem],
}

#[derive(Debug, Serialize)]
struct RequestCounts {
    total: u32,
    completed: u64,
    failed: u64,
}

#[derive(Debug, Serialize)]
struct Usage {
    input_tokens: u64,
    input_tokens_details: InputDetails,
    output_tokens: u64,
    output_tokens_details: OutputDetails,
    total_tokens: u64,
}

#[derive(Debug, Serialize)]
struct InputDetails {
    cached_tokens: u64,
}

#[derive(Debug, Serialize)]
struct OutputDetails {
    reasoning_tokens: u64,
}

impl<'a> BatchObject<'a> {
    pub(super) fn of(batch: &'a Batch, progress: Option<Progress>) -> Self {
        let Batch { id, input, counts, record, .. } = batch;
        let Record { problems, .. } = record;
        Self {
            id,
            object: "batch",
            endpoint: &record.endpoint,
            model: record.model.as_deref(),
            errors: (!problems.is_empty()).then_some(Problems { object: "list", data: problems }),
            input_file_id: input,
            completion_window: &record.completion_window,
            status: record.state.as_str(),
            output_file_id: record.output_file.as_deref(),
            error_file_id: record.error_file.as_deref(),
            created_at: record.created,
            in_progress_at: record.in_progress,
            expires_at: record.expires,
            finalizing_at: record.finalizing,
            completed_at: record.completed,
            failed_at: record.failed,
            expired_at: record.expired,
            cancelling_at: record.cancelling,
            cancelled_at: record.cancelled,
            request_counts: RequestCounts {
                total: record.total,
                completed: counts.completed,
                failed: counts.failed,
            },
            usage: Usage::of(counts),
            metadata: record.metadata.as_ref(),
            tidegate: progress,
        }
    }
}

impl Usage {
    const fn of(counts: &Counts) -> Self {
        Self {
            input_tokens: counts.prompt,
            input_tokens_details: InputDetails { cached_tokens: counts.cached },
            output_tokens: counts.completion,
            output_tokens_details: OutputDetails { reasoning_tokens: counts.reasoning },
            total_tokens: counts.prompt.saturating_add(counts.completion),
        }
    }
}
