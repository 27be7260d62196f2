//! Finds in an answer, while its bytes stream by, what a trace says of it: which model gave it, its id
//! and why each choice ended.
//!
//! A byte pattern is enough: within a JSON string every quote is escaped, so text that a model wrote
//! cannot look like a member of the document. Of what is found only short words of plain characters
//! are kept.

use memchr::memchr;

/// The members looked for.
const KEYS: [&[u8]; 3] = [b"finish_reason", b"model", b"id"];
const REASON: usize = 0;
const MODEL: usize = 1;
/// Every key may still be the one that is being read.
const ALL: u8 = 0b111;

/// Longest value kept, in bytes: ids have about 40, names of models at most a hundred.
const LONGEST: usize = 128;
/// Reasons kept: one for each choice, and hardly anybody asks for more.
const MOST_REASONS: usize = 16;

/// What an answer says of itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Details {
    /// The model that it names.
    pub model: Option<String>,
    /// Its id.
    pub id: Option<String>,
    /// Why its choices ended, in the order in which that was said; 16 at the most.
    pub finish_reasons: Vec<String>,
}

/// The state of the search.
#[derive(Debug, Default)]
pub(super) struct DetailsWatch {
    found: Details,
    part: Part,
    /// Keys that the name being read may be, a bit for each; 0 while a quote is looked for.
    alive: u8,
    /// Bytes of that name read.
    matched: usize,
    /// The key that was found.
    key: usize,
    value: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Part {
    #[default]
    Name,
    Colon,
    Before,
    Value,
}

impl DetailsWatch {
    /// Reads on.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while let Some(rest @ [byte, ..]) = bytes.get(at..) {
            if self.part == Part::Name && self.alive == 0 {
                let Some(quote) = memchr(b'"', rest) else { return };
                at += quote + 1;
                self.begin();
                continue;
            }
            self.step(*byte);
            at += 1;
        }
    }

    /// What has been found.
    pub(super) const fn found(&self) -> &Details {
        &self.found
    }

    /// A quote: a name may begin.
    fn begin(&mut self) {
        (self.part, self.alive, self.matched) = (Part::Name, ALL, 0);
    }

    fn step(&mut self, byte: u8) {
        match (self.part, byte) {
            (Part::Name, b'"') => {
                let whole =
                    |key: &usize| self.alive & (1 << key) != 0 && KEYS[*key].len() == self.matched;
                match (0..KEYS.len()).find(whole) {
                    Some(key) => (self.part, self.key) = (Part::Colon, key),
                    None => self.begin(),
                }
            }
            (Part::Name, _) => {
                for (key, name) in KEYS.iter().enumerate() {
                    if name.get(self.matched) != Some(&byte) {
                        self.alive &= !(1 << key);
                    }
                }
                self.matched += 1;
            }
            (Part::Colon, b':') => self.part = Part::Before,
            (Part::Colon | Part::Before, _) if byte.is_ascii_whitespace() => {}
            (Part::Before, b'"') => {
                self.part = Part::Value;
                self.value.clear();
            }
            (Part::Value, b'"') => {
                self.keep();
                (self.part, self.alive) = (Part::Name, 0);
            }
            (Part::Value, _) if plain(byte) && self.value.len() < LONGEST => self.value.push(byte),
            (_, b'"') => self.begin(),
            _ => (self.part, self.alive) = (Part::Name, 0),
        }
    }

    /// Keeps the value that was read.
    fn keep(&mut self) {
        let text = || String::from_utf8_lossy(&self.value).into_owned();
        match self.key {
            REASON if self.found.finish_reasons.len() < MOST_REASONS => {
                self.found.finish_reasons.push(text());
            }
            REASON => {}
            // Every event of a stream repeats these.
            MODEL => {
                self.found.model.get_or_insert_with(text);
            }
            _ => {
                self.found.id.get_or_insert_with(text);
            }
        }
    }
}

/// What names and codes are made of.
fn plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.:/@".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::usage::finish::tests::confusing_text;

    fn found(text: &str, cut: usize) -> Details {
        let mut watch = DetailsWatch::default();
        text.as_bytes().chunks(cut).for_each(|piece| watch.feed(piece));
        watch.found().clone()
    }

    #[test]
    fn what_an_answer_says_of_itself_is_found_however_it_is_cut() {
        let quoting = json!({"content": "\"model\":\"no\",\"finish_reason\":\"no\""}).to_string();
        let long = format!(r#"{{"model":"{}"}}"#, "x".repeat(LONGEST + 1));
        let many = r#"{"finish_reason":"stop"}"#.repeat(MOST_REASONS + 1);
        for (text, model, id, reasons) in [
            (
                r#"{"id":"chatcmpl-1","model":"a/b:c","choices":[{"finish_reason":"stop"}]}"#,
                Some("a/b:c"),
                Some("chatcmpl-1"),
                vec!["stop"],
            ),
            ("{\"model\" :\n \"m\", \"model\": \"n\"}", Some("m"), None, vec![]),
            (
                r#"{"finish_reason":null} {"finish_reason":"length"} {"finish_reason":"stop"}"#,
                None,
                None,
                vec!["length", "stop"],
            ),
            (r#"["model","id"],{"x":"model"}"#, None, None, vec![]),
            (r#"{"model":{"id":"inner"}}"#, None, Some("inner"), vec![]),
            (r#"{"model":"a b","id":"c\"d"}"#, None, None, vec![]),
            (r#"{"models":"a","_id":"b","i":"c","":"d"}"#, None, None, vec![]),
            (r#"{"model":-0.5,"id":"late"}"#, None, Some("late"), vec![]),
            (r#"{"id":"","model":""}"#, Some(""), Some(""), vec![]),
            (&quoting, None, None, vec![]),
            (&long, None, None, vec![]),
            (&many, None, None, vec!["stop"; MOST_REASONS]),
        ] {
            let expected = Details {
                model: model.map(Into::into),
                id: id.map(Into::into),
                finish_reasons: reasons.into_iter().map(Into::into).collect(),
            };
            for cut in [1, 2, 3, 7, 1_000] {
                assert_eq!(found(text, cut), expected, "{text} in pieces of {cut}");
            }
        }
    }

    proptest! {
        /// No text, however it reads, is taken for a member; and around any text they are found.
        #[test]
        fn text_never_matches(
            text in confusing_text(),
            cut in 1..40_usize,
        ) {
            let choice = json!({"content": text, "finish_reason": "stop", "id": "i", "model": "m"});
            let seen = found(&choice.to_string(), cut);
            let expected = Details {
                model: Some("m".into()),
                id: Some("i".into()),
                finish_reasons: vec!["stop".into()],
            };
            prop_assert_eq!(seen, expected);
        }
    }
}
