//! `/usage`: who used how much, as JSON or CSV.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::proxy::Gateway;
use crate::store::history::{Answer, By, Group, Question, Step};
use crate::time::Timestamp;

/// What is asked when a question does not say since when.
const SINCE: &str = "24h";

/// The columns of a CSV answer; those that are not told apart are empty.
const COLUMNS: &str = "at,tenant,model,requests,completed,failed,refused,gone,prompt_tokens,\
                       completion_tokens,cached_tokens,queue_wait_seconds_sum,\
                       queue_wait_seconds_max\r\n";

/// Answers a question about the usage.
pub(super) async fn usage(
    State(gateway): State<Arc<Gateway>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let now = gateway.pools().epoch().now();
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let wants_csv = accepts.is_some_and(|accept| accept.contains("text/csv"));
    let asked = match Asked::read(query.as_deref().unwrap_or_default(), now, wants_csv) {
        Ok(asked) => asked,
        Err(problems) => return (StatusCode::BAD_REQUEST, Json(problems)).into_response(),
    };
    match gateway.history().ask(asked.question).await {
        Ok(answer) if asked.csv => csv(&answer),
        Ok(answer) => Json(Page::of(&answer)).into_response(),
        Err(error) => {
            tracing::warn!(%error, cause = std::error::Error::source(&error), "no usage told");
            let problem = Problem { parameter: "", problem: error.to_string() };
            let problems = Problems { problems: vec![problem] };
            (StatusCode::SERVICE_UNAVAILABLE, Json(problems)).into_response()
        }
    }
}

/// What a query asks for.
#[derive(Debug, PartialEq)]
struct Asked {
    question: Question,
    csv: bool,
}

/// Why a query cannot be answered.
#[derive(Debug, PartialEq, Serialize)]
struct Problems {
    problems: Vec<Problem>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Problem {
    parameter: &'static str,
    problem: String,
}

impl Asked {
    /// Reads a query, or says everything that is wrong with it.
    fn read(query: &str, now: Timestamp, wants_csv: bool) -> Result<Self, Problems> {
        let mut reader = Reader::of(query);
        let by = reader.value("by", By { tenant: true, model: false }, |text| match text {
            "total" => Ok(By::default()),
            "tenant" => Ok(By { tenant: true, model: false }),
            "model" => Ok(By { tenant: false, model: true }),
            "tenant,model" | "model,tenant" => Ok(By { tenant: true, model: true }),
            _ => Err("\"tenant\", \"model\", \"tenant,model\" or \"total\" is expected"),
        });
        let step = reader.value("step", Step::Total, |text| {
            [Step::Minute, Step::Hour, Step::Day, Step::Total]
                .into_iter()
                .find(|step| step.as_str() == text)
                .ok_or("\"minute\", \"hour\", \"day\" or \"total\" is expected")
        });
        let day_ago = instant(SINCE, now).unwrap_or_default();
        let since = reader.value("since", day_ago, |text| instant(text, now));
        let until = reader.value("until", now, |text| instant(text, now));
        let csv = reader.value("format", wants_csv, |text| match text {
            "json" => Ok(false),
            "csv" => Ok(true),
            _ => Err("\"json\" or \"csv\" is expected"),
        });
        if reader.problems.is_empty() && since >= until {
            reader.problem("since", "must be before `until`".to_owned());
        }
        let problems = reader.finish();
        if problems.is_empty() {
            Ok(Self { question: Question::new(by, since, until, step), csv })
        } else {
            Err(Problems { problems })
        }
    }
}

/// An instant by its date, or by how long ago it was.
fn instant(text: &str, now: Timestamp) -> Result<Timestamp, &'static str> {
    let ago = || {
        let span = crate::time::nanos(humantime::parse_duration(text).ok()?);
        Some(Timestamp::from_nanos(now.as_nanos().saturating_sub(span)))
    };
    Timestamp::parse_rfc3339(text).or_else(ago).ok_or(
        "an instant is expected, such as \"2026-02-05T12:00:00Z\", or how long ago it was, such as \
         \"24h\"",
    )
}

/// The parameters of a query, taken one by one.
struct Reader<'a> {
    left: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    fn of(query: &'a str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let left = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        });
        Self { left: left.collect(), problems: Vec::new() }
    }

    fn problem(&mut self, parameter: &'static str, problem: String) {
        self.problems.push(Problem { parameter, problem });
    }

    fn value<T>(
        &mut self,
        name: &'static str,
        default: T,
        read: impl FnOnce(&str) -> Result<T, &'static str>,
    ) -> T {
        let Some(index) = self.left.iter().position(|(it, _)| it == name) else { return default };
        let (_, text) = self.left.swap_remove(index);
        if self.left.iter().any(|(it, _)| it == name) {
            self.left.retain(|(it, _)| it != name);
            self.problem(name, "is there more than once".to_owned());
            return default;
        }
        match read(&text) {
            Ok(value) => value,
            Err(expected) => {
                self.problem(name, format!("{expected}, got {text:?}"));
                default
            }
        }
    }

    fn finish(mut self) -> Vec<Problem> {
        for (name, _) in std::mem::take(&mut self.left) {
            let known = "known here: by, since, until, step, format";
            self.problem("", format!("{name:?} is no parameter; {known}"));
        }
        self.problems
    }
}

/// Text of a query with `%41` as `A`. A plus sign stays one: it is wanted in times.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return text.into();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let hex = hex.filter(|hex| hex.bytes().all(|it| it.is_ascii_hexdigit()));
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(coded) if byte == b'%' => {
                bytes.push(coded);
                rest = &after[2..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned().into()
}

/// An answer in JSON.
#[derive(Debug, Serialize)]
struct Page<'a> {
    since: String,
    until: String,
    step: &'static str,
    /// What `since` and `until` are exact to.
    resolution: &'static str,
    kept: &'static str,
    complete: bool,
    truncated: bool,
    rows: Vec<Line<'a>>,
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    requests: Requests,
    tokens: Tokens,
    queue_wait_seconds: Waits,
}

#[derive(Debug, Serialize)]
struct Requests {
    total: u64,
    completed: u64,
    failed: u64,
    refused: u64,
    gone: u64,
}

#[derive(Debug, Serialize)]
struct Tokens {
    prompt: u64,
    completion: u64,
    cached: u64,
}

#[derive(Debug, Serialize)]
struct Waits {
    sum: f64,
    max: f64,
}

impl<'a> Page<'a> {
    fn of(answer: &'a Answer) -> Self {
        let Answer { question, rows, truncated, complete, disk } = answer;
        let resolution = match question.resolution() {
            Step::Total => Step::Minute,
            step => step,
        };
        Self {
            since: text(question.since),
            until: text(question.until),
            step: question.step.as_str(),
            resolution: resolution.as_str(),
            kept: if *disk { "disk" } else { "memory" },
            complete: *complete,
            truncated: *truncated,
            rows: rows.iter().map(Line::of).collect(),
        }
    }
}

impl<'a> Line<'a> {
    fn of(Group { at, tenant, model, counts }: &'a Group) -> Self {
        Self {
            at: text(Timestamp::from_nanos(at * 1_000_000_000)),
            tenant: tenant.as_deref(),
            model: model.as_deref(),
            requests: Requests {
                total: counts.requests(),
                completed: counts.completed,
                failed: counts.failed,
                refused: counts.refused,
                gone: counts.gone,
            },
            tokens: Tokens {
                prompt: counts.prompt,
                completion: counts.completion,
                cached: counts.cached,
            },
            queue_wait_seconds: Waits {
                sum: seconds(counts.waited),
                max: seconds(counts.longest_wait),
            },
        }
    }
}

/// The same in CSV. Whether it is all there is stands in headers.
fn csv(answer: &Answer) -> Response {
    let mut text = COLUMNS.to_owned();
    for Line { at, tenant, model, requests, tokens, queue_wait_seconds: waits } in
        answer.rows.iter().map(Line::of)
    {
        let [tenant, model] = [tenant, model].map(|name| name.map_or_else(String::new, quoted));
        let Requests { total, completed, failed, refused, gone } = requests;
        let Tokens { prompt, completion, cached } = tokens;
        let Waits { sum, max } = waits;
        // Into memory: it does not fail.
        let _ = write!(
            text,
            "{at},{tenant},{model},{total},{completed},{failed},{refused},{gone},{prompt},\
             {completion},{cached},{sum},{max}\r\n"
        );
    }
    let said = |value: bool| HeaderValue::from_static(if value { "true" } else { "false" });
    let kind = HeaderValue::from_static("text/csv; charset=utf-8; header=present");
    let mut response = ([(header::CONTENT_TYPE, kind)], text).into_response();
    let headers = response.headers_mut();
    headers.insert("x-tidegate-complete", said(answer.complete));
    headers.insert("x-tidegate-truncated", said(answer.truncated));
    response
}

/// A name between quotes. One that a spreadsheet would take for a formula, since callers choose what
/// models are called, gets an apostrophe before it.
fn quoted(name: &str) -> String {
    let formula = name.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let mark = if formula { "'" } else { "" };
    format!("\"{mark}{}\"", name.replace('"', "\"\""))
}

/// To the second.
fn text(at: Timestamp) -> String {
    let text = at.rfc3339();
    format!("{}Z", String::from_utf8_lossy(&text[..19]))
}

/// Seconds from microseconds.
#[expect(clippy::cast_precision_loss, reason = "a number for people, exact to 2^53")]
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1_000_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_nanos(1_770_292_800_000_000_000);

    fn read(query: &str) -> Result<Asked, Problems> {
        Asked::read(query, NOW, false)
    }

    #[test]
    fn a_question_has_its_defaults_and_its_spellings() {
        let ago = |hours: u64| Timestamp::from_nanos(NOW.as_nanos() - hours * 3_600_000_000_000);
        let tenants = By { tenant: true, model: false };
        let plain = Question::new(tenants, ago(24), NOW, Step::Total);
        assert_eq!(read(""), Ok(Asked { question: plain, csv: false }));
        assert_eq!(Asked::read("", NOW, true), Ok(Asked { question: plain, csv: true }));
        assert_eq!(
            Asked::read("format=json", NOW, true),
            Ok(Asked { question: plain, csv: false })
        );
        let both = By { tenant: true, model: true };
        let expected = Question::new(both, ago(2), ago(1), Step::Hour);
        for query in [
            "by=tenant,model&since=2h&until=1h&step=hour",
            "by=model%2Ctenant&since=2026-02-05T10:00:00Z&until=2026-02-05T12%3a00:00%2B01:00&step=hour",
            "step=hour&until=60m&&since=2026-02-05T11:00:00+01:00&by=tenant%2cmodel",
        ] {
            assert_eq!(read(query).unwrap().question, expected, "{query}");
        }
    }

    #[test]
    fn everything_that_is_wrong_is_named_at_once() {
        let problems = read("by=key&since=yesterday&until=%zz&step=week&format=xml&limit=5&by=x");
        let problems = problems.unwrap_err().problems;
        let named: Vec<_> = problems.iter().map(|it| it.parameter).collect();
        assert_eq!(named, ["by", "step", "since", "until", "format", ""], "{problems:?}");
        assert!(problems[5].problem.contains("\"limit\" is no parameter"), "{problems:?}");
        let backwards = read("since=1h&until=2h").unwrap_err().problems;
        assert_eq!(backwards.len(), 1, "{backwards:?}");
    }

    #[test]
    fn names_cannot_leave_their_cell() {
        for (name, cell) in [
            ("a", "\"a\""),
            ("a\"b,\nc", "\"a\"\"b,\nc\""),
            ("=1+1", "\"'=1+1\""),
            ("@x", "\"'@x\""),
            ("", "\"\""),
        ] {
            assert_eq!(quoted(name), cell);
        }
    }
}
