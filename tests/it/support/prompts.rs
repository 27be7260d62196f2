//! Prompts of five kinds, drawn from a seed: English, code and CJK from `tests/prompts` (pieces of this
//! project's documents and sources as they once were, so that what is measured does not change with
//! every edit), JSON and base64 made up.

use std::fs;
use std::path::Path;

use fastrand::Rng;
use serde_json::{Value, json};

/// What a prompt is made of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    English,
    Code,
    Cjk,
    Json,
    Base64,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] =
        [Self::English, Self::Code, Self::Cjk, Self::Json, Self::Base64];
}

/// Where prompts are drawn from.
pub(crate) struct Prompts {
    english: Vec<String>,
    code: Vec<String>,
    cjk: Vec<String>,
    rng: Rng,
}

impl Prompts {
    /// Reads the texts of the repository at `root`.
    pub(crate) fn new(root: &str, seed: u64) -> Self {
        let pieces = |name: &str| -> Vec<String> {
            let text = fs::read_to_string(Path::new(root).join("tests/prompts").join(name));
            text.expect("a file").trim_end().split("\n\n").map(str::to_owned).collect()
        };
        let (english, code) = (pieces("english.txt"), pieces("code.txt"));
        let cjk =
            fs::read_to_string(Path::new(root).join("tests/prompts/cjk.txt")).expect("a file");
        let cjk = cjk.lines().map(str::to_owned).collect();
        Self { english, code, cjk, rng: Rng::with_seed(seed) }
    }

    /// A text of about so many bytes.
    pub(crate) fn text(&mut self, kind: Kind, bytes: usize) -> String {
        let mut text = String::new();
        while text.len() < bytes {
            match kind {
                Kind::English => {
                    text.push_str(&self.english[self.rng.usize(..self.english.len())]);
                    text.push_str("\n\n");
                }
                Kind::Code => {
                    text.push_str(&self.code[self.rng.usize(..self.code.len())]);
                    text.push_str("\n\n");
                }
                Kind::Cjk => text.push_str(&self.cjk[self.rng.usize(..self.cjk.len())]),
                Kind::Json => {
                    let value = self.value(3);
                    let line =
                        if self.rng.bool() { value.to_string() } else { format!("{value:#}") };
                    text.push_str(&line);
                    text.push('\n');
                }
                Kind::Base64 => {
                    const DIGITS: &[u8; 64] =
                        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
                    text.extend((0..76).map(|_| char::from(DIGITS[self.rng.usize(..64)])));
                    text.push('\n');
                }
            }
        }
        let mut end = bytes;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text
    }

    /// A made-up document.
    fn value(&mut self, depth: u32) -> Value {
        const KEYS: [&str; 16] = [
            "id",
            "name",
            "status",
            "created_at",
            "items",
            "price",
            "currency",
            "address",
            "tags",
            "enabled",
            "count",
            "user_id",
            "description",
            "metadata",
            "url",
            "updatedBy",
        ];
        match self.rng.u32(..if depth == 0 { 5 } else { 8 }) {
            0 => json!(self.rng.u64(..1_000_000)),
            1 => json!(self.rng.bool()),
            2 => json!(format!(
                "2031-{:02}-{:02}T{:02}:19:44Z",
                self.rng.u8(1..13),
                self.rng.u8(1..29),
                self.rng.u8(..24)
            )),
            3 => json!(f64::from(self.rng.u32(..100_000)) / 100.0),
            4 => {
                let from = self.rng.usize(..self.english.len());
                let words: Vec<_> =
                    self.english[from].split_whitespace().take(self.rng.usize(1..6)).collect();
                json!(words.join(" "))
            }
            5 => (0..self.rng.usize(1..5)).map(|_| self.value(depth - 1)).collect(),
            _ => Value::Object(
                (0..self.rng.usize(2..7))
                    .map(|_| {
                        let key = KEYS[self.rng.usize(..KEYS.len())];
                        (key.to_owned(), self.value(depth - 1))
                    })
                    .collect(),
            ),
        }
    }

    /// A chat request of that kind: 1 to 5 messages, 400 bytes to 16 KiB in all, evenly over the
    /// orders of magnitude.
    pub(crate) fn request(&mut self, kind: Kind) -> Value {
        let doublings = self.rng.f64() * 5.36;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "small and positive"
        )]
        let bytes = (400.0 * doublings.exp2()) as usize;
        let turns = self.rng.usize(1..=5);
        let messages: Vec<_> = (0..turns)
            .map(|turn| json!({"role": if turn % 2 == 0 { "user" } else { "assistant" }, "content": self.text(kind, bytes / turns)}))
            .collect();
        json!({"model": "m", "messages": messages})
    }
}
