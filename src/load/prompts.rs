//! Prompts and sizes from a file.
//!
//! For prompts every line is JSON: a text, an object with `messages` or `prompt`, or a line of a batch
//! (`{"custom_id": …, "body": {…}}`). For sizes every line is a whole number. Blank lines do not count.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::size::{MOST_TOKENS, Size};
use super::workload::{GivenPrompt, json_text};

/// The largest file read, in bytes: it is kept in memory while the run lasts.
const LARGEST_FILE: u64 = 256 << 20;

/// What the command line decides, or what would spoil the reading of answers.
const NOT_TAKEN: [&str; 3] = ["model", "stream", "stream_options"];

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}{}: {what}", line.map_or_else(String::new, |line| format!(":{line}")))]
pub(crate) struct BadFile {
    path: String,
    line: Option<usize>,
    what: String,
}

/// Reads the prompts of a file.
///
/// # Errors
///
/// The first line that is no prompt, or why there is none.
pub(crate) fn read_prompts(path: &Path) -> Result<Arc<[GivenPrompt]>, BadFile> {
    read_lines(path, |line| {
        let value: Value =
            serde_json::from_str(line).map_err(|_| "the line is not JSON".to_owned())?;
        prompt(value)
    })
}

/// Reads a file of sizes.
///
/// # Errors
///
/// The first line that is no number of tokens, or why there is none.
pub(crate) fn read_sizes(path: &Path) -> Result<Size, BadFile> {
    let size = |line: &str| match line.parse::<u64>() {
        Ok(tokens) if (1..=MOST_TOKENS).contains(&tokens) => Ok(tokens),
        _ => Err(format!("want a whole number of tokens from 1 to {MOST_TOKENS}")),
    };
    read_lines(path, size).map(Size::Listed)
}

fn read_lines<T>(
    path: &Path,
    mut read: impl FnMut(&str) -> Result<T, String>,
) -> Result<Arc<[T]>, BadFile> {
    let bad = |line: Option<usize>, what: String| BadFile {
        path: path.display().to_string(),
        line,
        what,
    };
    let file = std::fs::File::open(path).map_err(|error| bad(None, error.to_string()))?;
    // One byte more than allowed tells "too large" from "just fits".
    let mut reader = BufReader::new(file.take(LARGEST_FILE + 1));
    let (mut all, mut text, mut read_bytes) = (Vec::new(), String::new(), 0_u64);
    for number in 1.. {
        text.clear();
        let length =
            reader.read_line(&mut text).map_err(|error| bad(Some(number), error.to_string()))?;
        if length == 0 {
            break;
        }
        read_bytes += u64::try_from(length).unwrap_or(u64::MAX);
        if read_bytes > LARGEST_FILE {
            return Err(bad(None, format!("larger than {} MiB", LARGEST_FILE >> 20)));
        }
        let line = text.trim();
        if !line.is_empty() {
            all.push(read(line).map_err(|what| bad(Some(number), what))?);
        }
    }
    if all.is_empty() {
        Err(bad(None, "there is no line in it".to_owned()))
    } else {
        Ok(all.into())
    }
}

/// The fields of a request that a line stands for.
fn prompt(line: Value) -> Result<GivenPrompt, String> {
    let mut fields = match line {
        Value::String(text) => user_says(&text),
        Value::Object(mut fields) => match (fields.remove("body"), fields.remove("prompt")) {
            (Some(Value::Object(body)), _) => body,
            (_, Some(Value::String(text))) => {
                fields.append(&mut user_says(&text));
                fields
            }
            _ => fields,
        },
        _ => return Err("want a text or an object".to_owned()),
    };
    if !matches!(fields.get("messages"), Some(Value::Array(messages)) if !messages.is_empty()) {
        return Err("want a text, or an object with messages, prompt or body".to_owned());
    }
    fields.retain(|name, _| !NOT_TAKEN.contains(&name.as_str()));
    let limits_output = ["max_tokens", "max_completion_tokens"]
        .iter()
        .any(|name| fields.get(*name).is_some_and(|value| !value.is_null()));
    if !limits_output {
        // A null beside the limit of the command line would be the same field twice.
        fields.retain(|name, _| !matches!(name.as_str(), "max_tokens" | "max_completion_tokens"));
    }
    let texts: Vec<String> =
        fields.iter().map(|(name, value)| format!("{}:{value}", json_text(name))).collect();
    Ok(GivenPrompt { fields: texts.join(","), limits_output })
}

fn user_says(text: &str) -> Map<String, Value> {
    let messages = serde_json::json!([{ "role": "user", "content": text }]);
    Map::from_iter([("messages".to_owned(), messages)])
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text.as_bytes()).expect("room");
        file
    }

    #[test]
    fn every_kind_of_line_becomes_the_fields_of_a_request() {
        let text = r#"
"say \"hi\""
{"prompt": "one", "temperature": 0}

{"messages": [{"role": "user", "content": "two"}], "model": "x", "stream": true, "max_tokens": null}
{"custom_id": "a", "method": "POST", "body": {"messages": [{}], "max_completion_tokens": 9}}
"#;
        let prompts = read_prompts(file(text).path()).expect("prompts");
        let given =
            |fields: &str, limits_output| GivenPrompt { fields: fields.to_owned(), limits_output };
        assert_eq!(
            *prompts,
            [
                given(r#""messages":[{"content":"say \"hi\"","role":"user"}]"#, false),
                given(r#""messages":[{"content":"one","role":"user"}],"temperature":0"#, false),
                given(r#""messages":[{"content":"two","role":"user"}]"#, false),
                given(r#""max_completion_tokens":9,"messages":[{}]"#, true),
            ]
        );
    }

    #[test]
    fn a_bad_line_is_named_by_its_number_and_not_quoted() {
        for (text, why) in [
            ("\"fine\"\n\nsecret", ":3: the line is not JSON"),
            ("{\"secret\": 1}", ":1: want a text, or an object with"),
            ("{\"messages\": []}", ":1: want a text, or an object with"),
            ("17", ":1: want a text or an object"),
            ("\n\n", "there is no line in it"),
        ] {
            let error = read_prompts(file(text).path()).expect_err(text).to_string();
            assert!(error.ends_with(why) || error.contains(why), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let missing = read_prompts(Path::new("/nowhere/at/all")).expect_err("no file").to_string();
        assert!(missing.starts_with("/nowhere/at/all: "), "{missing}");
    }

    #[test]
    fn sizes_are_drawn_from_the_numbers_in_a_file() {
        let sizes = read_sizes(file("5\n7\n\n7\n").path()).expect("sizes");
        assert_eq!(sizes, Size::Listed([5, 7, 7].into()));
        let error = read_sizes(file("5\n0\n").path()).expect_err("zero").to_string();
        assert!(error.contains(":2: want a whole number"), "{error}");
    }
}
