//! What is kept of files and batches.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::identity::Owner;

/// What a file is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// Requests, one on each line.
    Batch,
    /// Answers to them, or errors.
    BatchOutput,
}

impl Purpose {
    /// Its name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::BatchOutput => "batch_output",
        }
    }

    /// The purpose of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Batch, Self::BatchOutput].into_iter().find(|it| it.as_str() == name)
    }
}

/// A file that is complete.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredFile {
    /// Its name in the API, and in the directory.
    pub id: String,
    /// Whose it is, as the queue knows them.
    pub tenant: u64,
    /// The name that it was given.
    pub name: String,
    /// What it is for.
    pub purpose: Purpose,
    /// Its size.
    pub bytes: u64,
    /// When it was made, in seconds since the Unix epoch.
    pub created: u64,
    /// When it is deleted.
    pub expires: u64,
}

/// A part of a list.
#[derive(Clone, Debug)]
pub struct Page {
    /// The id after which it begins.
    pub after: Option<String>,
    /// Entries at most.
    pub limit: u32,
    /// Whether the oldest come first.
    pub ascending: bool,
}

/// How far a batch is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its lines are being read.
    Validating,
    /// They were wrong: none was sent.
    Failed,
    /// Its lines are being sent.
    InProgress,
    /// No line is sent any more; the files are being made.
    Finalizing,
    /// Every line was answered or failed for good.
    Completed,
    /// Its time was over before every line was answered.
    Expired,
    /// As finalizing, because it was to be ended.
    Cancelling,
    /// It was ended before every line was answered.
    Cancelled,
}

impl State {
    /// Its name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Validating => "validating",
            Self::Failed => "failed",
            Self::InProgress => "in_progress",
            Self::Finalizing => "finalizing",
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing changes any more.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Failed | Self::Completed | Self::Expired | Self::Cancelled)
    }
}

/// What is wrong with a line of an input file, or with all of it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LineProblem {
    /// What it is, for programs.
    pub code: String,
    /// What it is, for people.
    pub message: String,
    /// The part of the line that is wrong.
    #[serde(default)]
    pub param: Option<String>,
    /// The line's number, from 1; `None` for the file.
    #[serde(default)]
    pub line: Option<u64>,
}

/// What a batch is and how far it got. Times are seconds since the Unix epoch.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Record {
    /// How far it is.
    pub state: State,
    /// The path that its requests go to.
    pub endpoint: String,
    /// The time that it was given, as it was asked for.
    pub completion_window: String,
    /// What its owner wants to remember.
    #[serde(default)]
    pub metadata: Option<BTreeMap<String, String>>,
    /// The model of its first line.
    #[serde(default)]
    pub model: Option<String>,
    /// How many lines there are; 0 until that is known.
    #[serde(default)]
    pub total: u32,
    /// Answers.
    #[serde(default)]
    pub output_file: Option<String>,
    /// Errors.
    #[serde(default)]
    pub error_file: Option<String>,
    /// How many seconds its owner wants the two kept; `None`: as long as the gateway keeps files.
    #[serde(default)]
    pub output_keep: Option<u64>,
    /// Why it failed.
    #[serde(default)]
    pub problems: Vec<LineProblem>,
    /// When it was made.
    pub created: u64,
    /// When its time is over.
    pub expires: u64,
    /// When each of the states was reached that may follow.
    #[serde(default)]
    pub in_progress: Option<u64>,
    #[serde(default)]
    #[expect(missing_docs, reason = "as above")]
    pub finalizing: Option<u64>,
    #[serde(default)]
    #[expect(missing_docs, reason = "as above")]
    pub completed: Option<u64>,
    #[serde(default)]
    #[expect(missing_docs, reason = "as above")]
    pub failed: Option<u64>,
    #[serde(default)]
    #[expect(missing_docs, reason = "as above")]
    pub expired: Option<u64>,
    #[serde(default)]
    #[expect(missing_docs, reason = "as above")]
    pub cancelling: Option<u64>,
    #[serde(default)]
    #[expect(missing_docs, reason = "as above")]
    pub cancelled: Option<u64>,
}

impl Record {
    /// A batch that was just made: its endpoint, its time as it was asked for, what its owner wants
    /// to remember, and when it was made and its time is over.
    pub const fn new(
        endpoint: String,
        completion_window: String,
        metadata: Option<BTreeMap<String, String>>,
        (created, expires): (u64, u64),
    ) -> Self {
        Self {
            state: State::Validating,
            endpoint,
            completion_window,
            metadata,
            model: None,
            total: 0,
            output_file: None,
            error_file: None,
            output_keep: None,
            problems: Vec::new(),
            created,
            expires,
            in_progress: None,
            finalizing: None,
            completed: None,
            failed: None,
            expired: None,
            cancelling: None,
            cancelled: None,
        }
    }
}

/// What came of a batch's lines so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Lines that were answered well.
    pub completed: u64,
    /// Lines that failed for good.
    pub failed: u64,
    /// Tokens of prompts.
    pub prompt: u64,
    /// Tokens of completions.
    pub completion: u64,
    /// Tokens of prompts that the upstream had cached, part of `prompt`.
    pub cached: u64,
    /// Tokens of completions that were reasoning, part of `completion`.
    pub reasoning: u64,
}

/// A batch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Batch {
    /// Its number; those made later have higher ones.
    pub number: i64,
    /// Its name in the API.
    pub id: String,
    /// Whose it is.
    pub owner: Owner,
    /// The file with its lines.
    pub input: String,
    /// What came of its lines.
    pub counts: Counts,
    /// All else.
    pub record: Record,
}

/// The result of a line.
#[derive(Clone, Debug)]
pub struct Done {
    /// The line's number, from 0.
    pub line: u32,
    /// Whether it was answered well.
    pub good: bool,
    /// What stands in the output or error file for it, with its line feed.
    pub text: bytes::Bytes,
    /// What it adds to the batch's counts.
    pub counts: Counts,
}

/// The file is read by a batch that has not ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InUse {
    /// The batch's id.
    pub batch: String,
}
