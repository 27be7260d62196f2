//! A file of requests: every line is found, once, as an editor numbers them, however it is read.

use serde_json::Value;

use super::take;
use crate::batch;

pub fn check(mut data: &[u8]) {
    let [longest, buffer] = take(&mut data);
    let longest = usize::from(longest) + 1;
    let found = batch::lines(data, longest, usize::from(buffer) + 1);
    let all: Vec<_> = expected(data, longest);
    assert_eq!(found.len(), all.len());
    for ((number, text), (line, whole)) in found.iter().zip(&all) {
        assert_eq!((*number, text.as_deref()), (*line, *whole));
    }
    for (_, text) in all {
        text.into_iter().for_each(parts);
    }
    parts(data);
}

/// The lines that are not empty; `None` for one that is too long.
fn expected(data: &[u8], longest: usize) -> Vec<(u32, Option<&[u8]>)> {
    let lines = (0..).zip(data.split(|byte| *byte == b'\n'));
    lines
        .filter_map(|(number, line)| {
            if line.len() > longest {
                return Some((number, None));
            }
            let start = if number == 0 && line.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
            let text = line[start..].trim_ascii();
            (!text.is_empty()).then_some((number, Some(text)))
        })
        .collect()
}

/// A request's parts are those that a parser finds.
fn parts(text: &[u8]) {
    let Some((texts, body)) = batch::parts(text) else { return };
    let Ok(Value::Object(tree)) = serde_json::from_slice(text) else { return };
    for (name, part) in ["custom_id", "method", "url"].into_iter().zip(texts) {
        assert_eq!(part.as_deref(), tree.get(name).and_then(Value::as_str), "{name}");
    }
    // Null is no body to either.
    let body = body.map(|raw| serde_json::from_str::<Value>(&raw).expect("it is JSON"));
    let said = tree.get("body").filter(|it| !it.is_null());
    assert_eq!(body.as_ref().filter(|it| !it.is_null()), said);
}
