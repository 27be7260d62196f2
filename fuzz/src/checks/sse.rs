//! An answer that streams by: what is seen of it does not depend on how it is cut, and is what a
//! parser sees.

use std::io::Read;

use serde_json::Value;

use super::take;
use crate::usage::{Details, Meter, Seen, StreamError, Usage};

const KINDS: [&str; 2] = ["text/event-stream", "application/json"];
const CODINGS: [&str; 3] = ["identity", "gzip", "deflate"];

/// A value of this length is still kept.
const KEPT: usize = 8 << 10;

pub fn check(mut data: &[u8]) {
    let [head, first, step] = take(&mut data);
    let (kind, coding) = (usize::from(head % 2), usize::from(head / 2 % 3));
    let new = || {
        let mut meter = Meter::new(Some(KINDS[kind]), Some(CODINGS[coding]));
        if head & 64 != 0 {
            meter = meter.watch_length();
        }
        if head & 128 != 0 { meter.watch_details() } else { meter }
    };
    let feed = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut meter = new();
        for piece in pieces {
            meter.feed(piece);
        }
        meter.finish();
        (meter.seen(), meter.details().cloned())
    };
    let whole = feed(&mut std::iter::once(data));
    bounded(&whole.0, whole.1.as_ref());
    if !unpacks(CODINGS[coding], data) {
        // Of what comes in one piece with the fault it depends on the piece how much is seen.
        let _ = feed(&mut data.chunks(1));
        return;
    }
    let (start, rest) = data.split_at(usize::from(first).min(data.len()));
    let pieces = rest.chunks(usize::from(step) + 1);
    assert_eq!(feed(&mut std::iter::once(start).chain(pieces)), whole, "the cuts show");
    assert_eq!(feed(&mut data.chunks(1)), whole, "byte by byte");
    if coding == 0 {
        match kind {
            0 => events(data, &whole.0),
            _ => document(data),
        }
    }
}

/// Whether a body is whole and as it says that it is.
fn unpacks(coding: &str, data: &[u8]) -> bool {
    let mut text = Vec::new();
    // No more than a few megabytes come of so little.
    match coding {
        "gzip" => flate2::read::MultiGzDecoder::new(data).read_to_end(&mut text).is_ok(),
        "deflate" => {
            let mut decoder = flate2::read::ZlibDecoder::new(data);
            decoder.read_to_end(&mut text).is_ok() && decoder.total_in() == data.len() as u64
        }
        _ => true,
    }
}

/// Nothing of the answer is kept but what is short and plain.
fn bounded(seen: &Seen, details: Option<&Details>) {
    let plain =
        |code: &str| code.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    if let Some(StreamError { code, .. }) = &seen.error {
        assert!(code.len() <= 64 && plain(code), "{code:?}");
    }
    if let Some(usage) = seen.usage {
        assert!(usage.cached <= usage.prompt);
    }
    let Some(Details { model, id, finish_reasons }) = details else { return };
    assert!(finish_reasons.len() <= 16);
    for text in finish_reasons.iter().chain(model).chain(id) {
        assert!(text.len() <= 128 && !text.chars().any(char::is_control), "{text:?}");
    }
}

/// The stream, by the standard's own steps: lines, fields, events.
fn events(data: &[u8], seen: &Seen) {
    // The mark at the beginning is taken in any part, and as often as it comes.
    let start = data.iter().take_while(|byte| matches!(byte, 0xef | 0xbb | 0xbf)).count();
    let text = String::from_utf8_lossy(&data[start..]).replace("\r\n", "\n").replace('\r', "\n");
    let (mut count, mut done) = (0, false);
    let mut event: Option<String> = None;
    let mut dispatch = |event: &mut Option<String>| match event.take() {
        Some(data) if data.starts_with("[DONE]") => done = true,
        Some(data) if !data.is_empty() => count += 1,
        _ => {}
    };
    // What follows the last line's end is a line as well: the end of the stream ends it, but not one of
    // which nothing had come but its name.
    let mut lines = text.split('\n').peekable();
    while let Some(line) = lines.next() {
        if lines.peek().is_none() && matches!(line, "data" | "data:") {
            break;
        }
        if line.is_empty() {
            dispatch(&mut event);
            continue;
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        if name == "data" {
            let value = value.strip_prefix(' ').unwrap_or(value);
            match &mut event {
                Some(data) => *data = format!("{data}\n{value}"),
                None => event = Some(value.to_owned()),
            }
        }
    }
    dispatch(&mut event);
    assert_eq!((seen.events, seen.done), (count, done), "{text:?}");
}

/// A document, as a parser sees it: written down anew, so that nothing stands in it twice.
fn document(data: &[u8]) {
    let Ok(tree @ Value::Object(_)) = serde_json::from_slice::<Value>(data) else { return };
    let small = |name: &str| tree.get(name).is_none_or(|it| it.to_string().len() < KEPT);
    if !["usage", "error", "status_code"].into_iter().all(small) {
        return;
    }
    let mut meter = Meter::new(Some(KINDS[1]), None);
    meter.feed(tree.to_string().as_bytes());
    meter.finish();
    let seen = meter.seen();
    assert!(seen.done, "{tree}");
    let choices = tree.get("choices").and_then(Value::as_array);
    assert_eq!(seen.first_content, choices.is_some_and(|list| !list.is_empty()), "{tree}");
    let details = tree.get("usage").and_then(|usage| usage.get("prompt_tokens_details"));
    // A list in its place is taken or not: no upstream sends one.
    if !matches!(details, Some(Value::Array(_))) {
        assert_eq!(seen.usage, tree.get("usage").and_then(usage), "{tree}");
    }
    let error = tree.get("error");
    let is = matches!(error, Some(Value::String(_) | Value::Object(_)));
    assert_eq!(seen.error.is_some(), is, "{tree}");
    if let Some(error) = seen.error {
        let status = tree.get("status_code").and_then(Value::as_u64);
        assert_eq!(error.status, status.and_then(|status| u16::try_from(status).ok()), "{tree}");
    }
}

fn usage(value: &Value) -> Option<Usage> {
    let usage = value.as_object()?;
    // A count is there, or is null or missing; anything else makes the whole none.
    let count = |map: &serde_json::Map<String, Value>, name: &str| match map.get(name) {
        None | Some(Value::Null) => Some(None),
        Some(value) => value.as_u64().map(Some),
    };
    let [prompt, completion, total] = [
        count(usage, "prompt_tokens")?,
        count(usage, "completion_tokens")?,
        count(usage, "total_tokens")?,
    ];
    let cached = match usage.get("prompt_tokens_details") {
        None | Some(Value::Null) => None,
        Some(details) => count(details.as_object()?, "cached_tokens")?,
    };
    prompt.or(completion).or(total)?;
    let (prompt, completion) = (prompt.unwrap_or(0), completion.unwrap_or(0));
    let total = total.unwrap_or_else(|| prompt.saturating_add(completion));
    Some(Usage { prompt, completion, total, cached: cached.unwrap_or(0).min(prompt) })
}
