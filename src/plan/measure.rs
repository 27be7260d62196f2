//! Measures what jobs are like from a file of them: requests to be made, or a log of those made.
//!
//! Each line is one JSON object, and says by itself what it is:
//!
//! - the body of a request (it has `messages` or `prompt`);
//! - a line of a batch, with the body of a request under `body`;
//! - a line of the gateway's own log (`log.format = "json"`); of these only requests count.
//!
//! # Invariants
//!
//! - One pass, and no more memory than the longest line that is allowed.
//! - A line that is none of these is told of with its number; nothing is left out in silence.
//! - What lines say is counted, not kept: a message never quotes one.

use std::borrow::Cow;
use std::io::{self, BufRead};
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::profile::{Example, Profile};
use crate::config;
use crate::usage::{BodyKind, Coding, Demand, Format};

/// Bad lines that are named; of the others only the number is told.
const MOST_NAMED: usize = 20;

/// What a batch adds to the body of a request: its own three fields.
const AROUND_BODY: usize = 4_096;

/// The end of a request that got its answer.
const COMPLETED: &str = "completed";

/// The target of a request's log line.
const REQUEST: &str = "tidegate::request";

/// What a file said.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// What its jobs are like.
    pub profile: Profile,
    /// Lines with a request to be made.
    pub bodies: u64,
    /// Log lines of requests that were answered.
    pub logged: u64,
    /// Log lines of requests that came to nothing, or did not tell their usage.
    pub unanswered: u64,
    /// Log lines about other things.
    pub others: u64,
    /// Lines that are nothing of that: the first of them, by number, with what is wrong.
    pub bad: Vec<(u64, String)>,
    /// How many of those there are in all.
    pub bad_lines: u64,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    #[serde(borrow)]
    url: Option<Cow<'a, str>>,
    messages: Option<IgnoredAny>,
    prompt: Option<IgnoredAny>,
    #[serde(borrow)]
    target: Option<Cow<'a, str>>,
    #[serde(borrow)]
    outcome: Option<Cow<'a, str>>,
    duration_ms: Option<u64>,
    wait_ms: Option<u64>,
    #[serde(rename = "tokens.estimated")]
    estimated: Option<u64>,
    #[serde(rename = "tokens.prompt")]
    input: Option<u64>,
    #[serde(rename = "tokens.completion")]
    output: Option<u64>,
}

/// A piece of a file.
enum Piece {
    Line,
    TooLong,
    End,
}

/// Measures the jobs in `file` as the gateway would at the model of `profile`, which takes requests
/// of at most `max_body` bytes.
///
/// # Errors
///
/// If reading fails; what is wrong with a line is in [`Measured::bad`].
pub fn measure(
    mut file: impl BufRead,
    profile: &config::Profile,
    max_body: usize,
) -> io::Result<Measured> {
    let mut measured = Measured::default();
    let most = max_body.saturating_add(AROUND_BODY);
    let (mut line, mut number) = (Vec::new(), 0);
    loop {
        number += 1;
        match read_line(&mut file, &mut line, most)? {
            Piece::End => return Ok(measured),
            Piece::TooLong => measured.wrong(number, format!("is longer than {most} bytes")),
            Piece::Line if line.iter().all(u8::is_ascii_whitespace) => {}
            Piece::Line => {
                if let Err(reason) = measured.take(&line, profile, max_body) {
                    measured.wrong(number, reason);
                }
            }
        }
    }
}

/// Reads up to the end of the line, and at most `most` bytes of it.
fn read_line(file: &mut impl BufRead, line: &mut Vec<u8>, most: usize) -> io::Result<Piece> {
    line.clear();
    let (mut any, mut too_long) = (false, false);
    loop {
        let buffer = match file.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            buffer => buffer?,
        };
        if buffer.is_empty() {
            return Ok(match (any, too_long) {
                (false, _) => Piece::End,
                (true, true) => Piece::TooLong,
                (true, false) => Piece::Line,
            });
        }
        any = true;
        let end = memchr::memchr(b'\n', buffer);
        let part = &buffer[..end.unwrap_or(buffer.len())];
        too_long |= line.len() + part.len() > most;
        if !too_long {
            line.extend_from_slice(part);
        }
        let used = end.map_or(buffer.len(), |end| end + 1);
        file.consume(used);
        if end.is_some() {
            return Ok(if too_long { Piece::TooLong } else { Piece::Line });
        }
    }
}

impl Measured {
    fn wrong(&mut self, number: u64, reason: String) {
        self.bad_lines += 1;
        if self.bad.len() < MOST_NAMED {
            self.bad.push((number, reason));
        }
    }

    fn take(&mut self, line: &[u8], profile: &config::Profile, most: usize) -> Result<(), String> {
        let text = std::str::from_utf8(line).map_err(|_| "is not UTF-8".to_owned())?;
        let parsed: Line<'_> = serde_json::from_str(text).map_err(|error| wrong_json(&error))?;
        if let Some(body) = parsed.body {
            if let Some(url) = &parsed.url
                && !matches!(url.as_ref(), "/v1/chat/completions" | "/v1/completions")
            {
                return Err("`url` must be /v1/chat/completions or /v1/completions".to_owned());
            }
            return self.take_body(body.get().as_bytes(), profile, most);
        }
        if parsed.messages.is_some() || parsed.prompt.is_some() {
            return self.take_body(line, profile, most);
        }
        self.take_logged(&parsed)
    }

    fn take_body(
        &mut self,
        body: &[u8],
        profile: &config::Profile,
        most: usize,
    ) -> Result<(), String> {
        let kind = BodyKind { format: Format::Json, coding: Coding::Identity };
        let demand = Demand::read(kind, body, most).map_err(|error| error.to_string())?;
        let (rule, weight) = (&profile.estimate, &demand.prompt);
        let estimate = rule.estimate(&demand);
        let counted = profile.tokenizer.as_ref();
        let counted = counted.and_then(|tokenizer| tokenizer.count_prompt(kind, body, most));
        // What the tokenizer does not see: media, and what a template puts around each message.
        let beside = weight
            .token_ids
            .saturating_add(rule.per_image.saturating_mul(weight.images))
            .saturating_add(rule.per_other_part.saturating_mul(weight.other_parts))
            .saturating_add(rule.per_message.saturating_mul(weight.messages + weight.tools));
        let input = counted.map_or(estimate.prompt, |text| text.saturating_add(beside));
        self.bodies += 1;
        let (output, held) = (estimate.output, estimate.total());
        self.profile.add(Example { input, output, held, latency: None });
        Ok(())
    }

    fn take_logged(&mut self, line: &Line<'_>) -> Result<(), String> {
        let Some(target) = &line.target else {
            return Err("is neither a request (`messages`, `prompt` or `body`) nor a log line \
                        (`target`)"
                .to_owned());
        };
        if target != REQUEST {
            self.others += 1;
            return Ok(());
        }
        let completed = line.outcome.as_deref() == Some(COMPLETED);
        let (Some(input), Some(output), true) = (line.input, line.output, completed) else {
            self.unanswered += 1;
            return Ok(());
        };
        let latency = line.duration_ms.map(|all| all.saturating_sub(line.wait_ms.unwrap_or(0)));
        let used = input.saturating_add(output);
        self.logged += 1;
        self.profile.add(Example {
            input,
            output,
            held: line.estimated.unwrap_or(0).max(used),
            latency: latency.map(Duration::from_millis),
        });
        Ok(())
    }
}

/// What is wrong with a line that is no object of the kind wanted, without quoting it.
fn wrong_json(error: &serde_json::Error) -> String {
    let column = error.column();
    match error.classify() {
        serde_json::error::Category::Data => {
            format!("is not an object with fields of the right type (column {column})")
        }
        _ => format!("is not one whole JSON object (column {column})"),
    }
}

#[cfg(test)]
mod tests;
