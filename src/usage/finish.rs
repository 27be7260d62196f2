//! Finds `"finish_reason": "length"` in an answer while its bytes stream by.
//!
//! A byte pattern is enough: within a JSON string every quote is escaped, so text that a model wrote
//! cannot look like a member of the document.

use memchr::memchr;

const KEY: &[u8] = b"\"finish_reason\"";
const VALUE: &[u8] = b"\"length\"";

/// The state of the search: how much of the pattern the last bytes are.
#[derive(Debug, Default)]
pub(super) struct LengthWatch {
    part: Part,
    matched: usize,
    found: bool,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Part {
    #[default]
    Key,
    Colon,
    Value,
}

impl LengthWatch {
    /// Reads on.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while let (false, Some(rest @ [byte, ..])) = (self.found, bytes.get(at..)) {
            if self.part == Part::Key && self.matched == 0 {
                let Some(quote) = memchr(b'"', rest) else { return };
                at += quote + 1;
                self.matched = 1;
                continue;
            }
            self.step(*byte);
            at += 1;
        }
    }

    /// Whether it has been found.
    pub(super) const fn found(&self) -> bool {
        self.found
    }

    fn step(&mut self, byte: u8) {
        let pattern = if self.part == Part::Value { VALUE } else { KEY };
        match self.part {
            Part::Colon if byte == b':' => (self.part, self.matched) = (Part::Value, 0),
            Part::Colon | Part::Value if self.matched == 0 && byte.is_ascii_whitespace() => {}
            Part::Key | Part::Value if pattern.get(self.matched) == Some(&byte) => {
                self.matched += 1;
                if self.matched == pattern.len() {
                    self.found = self.part == Part::Value;
                    (self.part, self.matched) = (Part::Colon, 0);
                }
            }
            // Both patterns have quotes at their ends only: nothing but a quote can begin anew.
            _ => (self.part, self.matched) = (Part::Key, usize::from(byte == b'"')),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn found(text: &str, cut: usize) -> bool {
        let mut watch = LengthWatch::default();
        text.as_bytes().chunks(cut).for_each(|piece| watch.feed(piece));
        watch.found()
    }

    #[test]
    fn a_finish_reason_is_told_from_text_about_one() {
        let quoting = json!({"content": "it said \"finish_reason\":\"length\""}).to_string();
        for (text, expected) in [
            (r#"{"choices":[{"index":0,"finish_reason":"length"}]}"#, true),
            ("{\"finish_reason\" : \n \"length\"}", true),
            (r#"{"finish_reason":null} {"finish_reason":"stop"} {"finish_reason":"length"}"#, true),
            (r#"{"a":"","finish_reason":"length"}"#, true),
            (r#"{"finish_reason":"stop"}"#, false),
            (r#"{"finish_reason":"lengthy"}"#, false),
            (r#"{"finish_reason":["length"]}"#, false),
            (r#"{"x":"finish_reason","length":1}"#, false),
            (r#"{"other_finish_reason":"length"}"#, false),
            (quoting.as_str(), false),
            ("", false),
        ] {
            for cut in [1, 2, 3, 7, 1_000] {
                assert_eq!(found(text, cut), expected, "{text} in pieces of {cut}");
            }
        }
    }

    /// What a model could write: anything, with pieces of JSON in it that look like members of an answer.
    pub(in crate::usage) fn confusing_text() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            any::<String>(),
            Just("\"finish_reason\":\"length\"".to_owned()),
            Just("{\"model\":\"secret\"}".to_owned()),
            Just("\\\"".to_owned()),
        ];
        prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
    }

    proptest! {
        /// No text, however it reads, is taken for the reason; and after any text it is found.
        #[test]
        fn text_never_matches(
            text in confusing_text(),
            cut in 1..40_usize,
        ) {
            let mut choice = json!({"message": {"content": text}, "finish_reason": "stop"});
            prop_assert!(!found(&choice.to_string(), cut));
            choice["finish_reason"] = "length".into();
            prop_assert!(found(&choice.to_string(), cut));
        }
    }
}
