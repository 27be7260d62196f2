//! Whether every line of a file is a request that can be sent: each that is not is named.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::{self, BufRead};

use super::input::{Line, Lines, Request};
use crate::config::Config;
use crate::identity::Caller;
use crate::store::archive::LineProblem;
use crate::usage::{BodyKind, Coding, Demand, Format};

/// The longest `custom_id`: it is the caller's name for a line, not a place for data.
const LONGEST_ID: usize = 512;

/// Problems that are named: every line of the longest file that is usual, though not of one that is as
/// long as can be configured.
const MOST_PROBLEMS: usize = 50_000;

/// What a file was found to be.
#[derive(Debug)]
pub(super) struct Validated {
    /// How many lines have requests.
    pub(super) total: u32,
    /// The model of the first.
    pub(super) model: Option<String>,
    /// Everything that is wrong, up to [`MOST_PROBLEMS`].
    pub(super) problems: Vec<LineProblem>,
}

/// Looks at every line of a file whose requests `caller`, if it may still call, sends to `endpoint`.
///
/// # Errors
///
/// If the file cannot be read.
pub(super) fn validate<R: BufRead>(
    mut lines: Lines<R>,
    endpoint: &str,
    config: &Config,
    caller: Option<&Caller>,
) -> io::Result<Validated> {
    let most = config.batch.max_lines.get();
    let longest = usize::try_from(config.server.max_body_bytes.get()).unwrap_or(usize::MAX);
    let mut ids = Ids::default();
    let mut found = Validated { total: 0, model: None, problems: Vec::new() };
    loop {
        let piece = lines.piece()?;
        if piece.is_empty() {
            break;
        }
        for line in piece {
            if found.total == most {
                let message = format!("the file has more than {most} lines, the most for a batch");
                found.problems.push(problem(None, "too_many_tasks", message, None));
                return Ok(found);
            }
            found.total += 1;
            let judge = Judge { endpoint, config, caller, longest };
            match judge.line(&line, &mut ids) {
                Ok(model) => {
                    found.model.get_or_insert(model);
                }
                Err(problem) => found.problems.push(problem),
            }
            if found.problems.len() == MOST_PROBLEMS {
                return Ok(found);
            }
        }
    }
    if found.total == 0 {
        let message = "the file has no line with a request".to_owned();
        found.problems.push(problem(None, "empty_file", message, None));
    }
    Ok(found)
}

fn problem(line: Option<&Line>, code: &str, message: String, param: Option<&str>) -> LineProblem {
    let line = line.map(|line| u64::from(line.number) + 1);
    LineProblem { code: code.to_owned(), message, param: param.map(str::to_owned), line }
}

/// The `custom_id`s so far, as digests of 128 bits.
#[derive(Default)]
struct Ids {
    seen: HashSet<u128>,
    states: [RandomState; 2],
}

impl Ids {
    fn is_new(&mut self, id: &str) -> bool {
        let [high, low] = self.states.each_ref().map(|state| u128::from(state.hash_one(id)));
        self.seen.insert(high << 64 | low)
    }
}

struct Judge<'a> {
    endpoint: &'a str,
    config: &'a Config,
    caller: Option<&'a Caller>,
    longest: usize,
}

impl Judge<'_> {
    /// The model of a line that is good.
    fn line(&self, line: &Line, ids: &mut Ids) -> Result<String, LineProblem> {
        let fail = |code: &str, message: String, param: Option<&str>| {
            Err(problem(Some(line), code, message, param))
        };
        let Some(text) = &line.text else {
            let message = format!("the line is longer than {} bytes", self.longest);
            return fail("request_too_large", message, None);
        };
        let request = match Request::parse(text) {
            Ok(request) => request,
            Err(error) => {
                // Not the parser's own words: they may quote the line.
                let message = format!("the line is not a JSON object (column {})", error.column());
                return fail("invalid_json_line", message, None);
            }
        };
        let Some(id) = Request::text(request.custom_id) else {
            let message = "custom_id is missing, or not a string".to_owned();
            return fail("missing_required_parameter", message, Some("custom_id"));
        };
        if id.is_empty() || id.len() > LONGEST_ID {
            let message = format!("custom_id must have 1 to {LONGEST_ID} bytes");
            return fail("invalid_custom_id", message, Some("custom_id"));
        }
        if !ids.is_new(&id) {
            let message = "custom_id is that of a line before".to_owned();
            return fail("duplicate_custom_id", message, Some("custom_id"));
        }
        if Request::text(request.method).as_deref() != Some("POST") {
            let message = "method must be \"POST\"".to_owned();
            return fail("invalid_method", message, Some("method"));
        }
        if Request::text(request.url).as_deref() != Some(self.endpoint) {
            let message = format!("url must be the batch's endpoint, {}", self.endpoint);
            return fail("url_mismatch", message, Some("url"));
        }
        let Some(body) = request.body else {
            let message = "body is missing".to_owned();
            return fail("missing_required_parameter", message, Some("body"));
        };
        let demand = match Demand::read(
            BodyKind { format: Format::Json, coding: Coding::Identity },
            body.get().as_bytes(),
            self.longest,
        ) {
            Ok(demand) => demand,
            Err(error) => {
                let param = format!("body.{}", error.param());
                return fail(
                    "invalid_request",
                    error.to_string(),
                    Some(param.trim_end_matches('.')),
                );
            }
        };
        if demand.stream {
            let message = "stream must not be true: there is nobody to stream to".to_owned();
            return fail("invalid_request", message, Some("body.stream"));
        }
        if self.config.models.profile(&demand.model).is_none() {
            let message = "the model is not configured on this gateway".to_owned();
            return fail("model_not_found", message, Some("body.model"));
        }
        if self.caller.is_some_and(|caller| !caller.may_use(&demand.model)) {
            let message =
                "the model does not exist here, or this API key may not use it".to_owned();
            return fail("model_not_found", message, Some("body.model"));
        }
        Ok(demand.model)
    }
}
