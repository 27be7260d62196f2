//! An answer as server-sent events, at the pace the answer was given.
//!
//! The order is the vendor's: the role of each choice, content in chunks of several tokens (each
//! choice in turn), then each choice's finish reason, the last with usage and times, and `[DONE]`.

use std::fmt::Write as _;
use std::time::Duration;

use axum::BoxError;
use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::answer::Answer;
use super::call::Call;
use super::error::ApiError;
use super::options::UsagePlacement;
use super::output::Words;
use super::request::Endpoint;
use super::stats::Outcome;

/// What comes before a cut has so long to reach the client.
const CUT_AFTER: Duration = Duration::from_millis(20);

/// How a stream is to go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// When admission was, which the answer's times count from.
    pub(super) since: Instant,
    pub(super) chunk_tokens: u64,
    pub(super) usage: UsagePlacement,
    /// Breaks off after so many content chunks.
    pub(super) cut: Option<u64>,
    /// Ends in an error event after so many content chunks.
    pub(super) error_event: Option<u64>,
}

/// Which frame comes next.
#[derive(Clone, Copy, Debug)]
enum Next {
    Roles,
    Content,
    Done,
    Nothing,
}

struct Events {
    answer: Answer,
    manner: Manner,
    call: Call,
    next: Next,
    words: Vec<Words>,
    /// Tokens of each choice sent, or that could have been had the choice been longer.
    position: u64,
    chunks: u64,
    /// Everything of a content chunk before its choices: `{"id":…,"choices":[`.
    opening: String,
}

/// The stream's frames; the call ends with the finish reason, when all the work is done.
pub(super) fn events(
    answer: Answer,
    manner: Manner,
    mut call: Call,
) -> impl Stream<Item = Result<Bytes, BoxError>> + Send + use<> {
    call.used = answer.prompt_tokens;
    let words = (0..).zip(&answer.choices).map(|(index, _)| answer.words(index)).collect();
    let mut opening = Value::Object(answer.envelope(true)).to_string();
    opening.pop();
    opening.push_str(",\"choices\":[");
    // Only a chat has roles to tell.
    let chat = answer.endpoint == Endpoint::Chat;
    let next = if chat { Next::Roles } else { Next::Content };
    let events = Events { answer, manner, call, next, words, position: 0, chunks: 0, opening };
    unfold(events, |mut events| async move {
        let frame = events.frame().await?;
        Some((frame, events))
    })
}

impl Events {
    async fn frame(&mut self) -> Option<Result<Bytes, BoxError>> {
        match self.next {
            Next::Roles => {
                self.next = Next::Content;
                Some(Ok(self.roles()))
            }
            Next::Content => {
                if let Some(broken) = self.fault().await {
                    return Some(broken);
                }
                let longest = self.answer.longest();
                if self.position >= longest {
                    return Some(Ok(self.finish()));
                }
                let to = (self.position + self.manner.chunk_tokens.max(1)).min(longest);
                self.wait_for(to).await;
                Some(Ok(self.content(to)))
            }
            Next::Done => {
                self.next = Next::Nothing;
                Some(Ok(Bytes::from_static(b"data: [DONE]\n\n")))
            }
            Next::Nothing => None,
        }
    }

    /// Sleeps until the model has generated that many tokens.
    async fn wait_for(&self, tokens: u64) {
        let due = self.manner.since + self.answer.timing.at(tokens);
        if due > Instant::now() {
            tokio::time::sleep_until(due).await;
        }
    }

    /// What breaks the stream here, if anything.
    async fn fault(&mut self) -> Option<Result<Bytes, BoxError>> {
        let last = self.position >= self.answer.longest();
        let here = |after: Option<u64>| after.is_some_and(|n| self.chunks >= n || last);
        if here(self.manner.cut) {
            // A body that fails in the same breath takes the frames before it along, here or in a
            // client that has not looked at them yet.
            tokio::time::sleep(CUT_AFTER).await;
            self.next = Next::Nothing;
            self.call.end(Outcome::Fault);
            return Some(Err("the simulator was told to cut this stream".into()));
        }
        if here(self.manner.error_event) {
            self.next = Next::Nothing;
            self.call.end(Outcome::Fault);
            let event = ApiError::status(500).event(&self.answer.id);
            return Some(Ok(event.into()));
        }
        None
    }

    fn roles(&self) -> Bytes {
        let mut frame = String::new();
        for index in 0..self.answer.choices.len() {
            self.event(&mut frame, |out| {
                write!(
                    out,
                    "{{\"index\":{index},\"delta\":{{\"role\":\"assistant\",\"content\":\"\"}}}}"
                )
            });
        }
        frame.into()
    }

    fn content(&mut self, to: u64) -> Bytes {
        let mut frame = String::new();
        for index in 0..self.words.len() {
            let end = self.answer.choices[index].tokens.min(to);
            let tokens = end.saturating_sub(self.position);
            if tokens == 0 {
                continue;
            }
            let mut text = String::new();
            self.words[index].write(tokens, &mut text);
            self.call.used = self.call.used.saturating_add(tokens);
            let chat = self.answer.endpoint == Endpoint::Chat;
            // The words need no escaping, so a chunk is written, not serialised.
            self.event(&mut frame, |out| {
                if chat {
                    write!(out, "{{\"index\":{index},\"delta\":{{\"content\":\"{text}\"}}}}")
                } else {
                    write!(out, "{{\"index\":{index},\"text\":\"{text}\",\"finish_reason\":null}}")
                }
            });
        }
        self.position = to;
        self.chunks += 1;
        frame.into()
    }

    fn event(&self, frame: &mut String, choice: impl FnOnce(&mut String) -> std::fmt::Result) {
        frame.push_str("data: ");
        frame.push_str(&self.opening);
        let written = choice(frame);
        debug_assert!(written.is_ok(), "writing to a string cannot fail");
        frame.push_str("]}\n\n");
    }

    fn finish(&mut self) -> Bytes {
        self.next = Next::Done;
        self.call.used = self.answer.total_tokens();
        self.call.complete();
        let last = self.answer.choices.len().saturating_sub(1);
        let mut frame = String::new();
        for (index, choice) in self.answer.choices.iter().enumerate() {
            let mut end = match self.answer.endpoint {
                Endpoint::Chat => json!({"index": index, "delta": {}}),
                Endpoint::Text => json!({"index": index, "text": ""}),
            };
            end["finish_reason"] = choice.finish_reason.into();
            let mut fields = self.answer.envelope(true);
            fields.insert("choices".to_owned(), json!([end]));
            if index == last && self.manner.usage == UsagePlacement::LastChunk {
                self.add_usage(&mut fields);
            }
            push_event(&mut frame, fields);
        }
        if self.manner.usage == UsagePlacement::OwnChunk {
            let mut fields = self.answer.envelope(true);
            fields.insert("choices".to_owned(), json!([]));
            self.add_usage(&mut fields);
            push_event(&mut frame, fields);
        }
        frame.into()
    }

    fn add_usage(&self, fields: &mut Map<String, Value>) {
        fields.insert("usage".to_owned(), self.answer.usage());
        fields.insert("time_info".to_owned(), self.answer.time_info());
    }
}

fn push_event(frame: &mut String, fields: Map<String, Value>) {
    frame.push_str("data: ");
    frame.push_str(&Value::Object(fields).to_string());
    frame.push_str("\n\n");
}
