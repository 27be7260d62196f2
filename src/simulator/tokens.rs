//! The simulated model's tokenizer: a rule simple enough to count by hand.
//!
//! One token for each started six letters of a word, three digits of a number, three bytes of
//! text beyond ASCII, and one for each other character; a run of white space longer than one
//! space is one token, a single space none.

use serde_json::Value;

/// What a message costs beside its text, and what the answer's opening costs once, as in the
/// common chat templates.
const PER_MESSAGE: u64 = 4;
const OPENING: u64 = 3;

#[derive(Clone, Copy, Eq, PartialEq)]
enum Class {
    Letter,
    Digit,
    Space,
    Wide,
    Other,
}

fn class(byte: u8) -> Class {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' => Class::Letter,
        b'0'..=b'9' => Class::Digit,
        b' ' | b'\t' | b'\r' | b'\n' => Class::Space,
        0x80.. => Class::Wide,
        _ => Class::Other,
    }
}

/// Tokens of a text; none for an empty one.
pub(super) fn count(text: &str) -> u64 {
    let mut tokens = 0;
    let mut rest = text.as_bytes();
    while let Some(&first) = rest.first() {
        let kind = class(first);
        let run = rest.iter().position(|byte| class(*byte) != kind).unwrap_or(rest.len());
        tokens += match kind {
            Class::Letter => run.div_ceil(6),
            Class::Digit | Class::Wide => run.div_ceil(3),
            Class::Space => usize::from(run > 1 || first != b' '),
            Class::Other => run,
        } as u64;
        rest = &rest[run..];
    }
    tokens
}

/// Tokens of every string and key within a value; a number (a token already) is one.
pub(super) fn count_value(value: &Value) -> u64 {
    match value {
        Value::Null | Value::Bool(_) => 0,
        Value::Number(_) => 1,
        Value::String(text) => count(text),
        Value::Array(items) => items.iter().map(count_value).sum(),
        Value::Object(fields) => {
            fields.iter().map(|(key, item)| count(key) + count_value(item)).sum()
        }
    }
}

/// Tokens of a conversation: the strings of each message, without its keys and role.
#[must_use]
pub fn count_messages(messages: &[Value]) -> u64 {
    let message = |message: &Value| {
        let fields = message.as_object().into_iter().flatten();
        let text = fields.filter(|(key, _)| *key != "role").map(|(_, value)| match value {
            Value::Array(parts) => parts.iter().map(count_part).sum(),
            other => count_value(other),
        });
        PER_MESSAGE + text.sum::<u64>()
    };
    OPENING + messages.iter().map(message).sum::<u64>()
}

/// A content part's text, without the word that says what kind of part it is.
fn count_part(part: &Value) -> u64 {
    part.get("text").map_or_else(|| count_value(part), count_value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_counted_by_the_rule() {
        for (text, tokens, why) in [
            ("", 0, "nothing"),
            ("hello world", 2, "a single space is free"),
            ("unbelievable", 2, "twelve letters"),
            ("unbelievably1", 3, "letters and digits are apart"),
            ("12345", 2, "three digits at a time"),
            ("a,b!", 4, "punctuation is one each"),
            ("a\n  b", 3, "a run of white space is one"),
            ("a\tb", 3, "a tab is not a single space"),
            ("日本", 2, "three bytes at a time"),
        ] {
            assert_eq!(count(text), tokens, "{why}");
        }
    }

    #[test]
    fn parts_and_plain_content_count_alike() {
        let messages = |content: Value| serde_json::json!([{"role": "user", "content": content}]);
        let plain = messages("one two".into());
        let parts = messages(serde_json::json!([{"type": "text", "text": "one two"}]));
        for value in [plain, parts] {
            assert_eq!(count_messages(value.as_array().expect("an array")), 3 + 4 + 2);
        }
    }
}
