//! The corpus: cases as they stand in `tests/hostile/*.toml`, and the bytes that they stand for.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Deserialize;

use crate::support::hello;

/// A file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Theme {
    /// Its name without `.toml`.
    #[serde(skip)]
    pub(super) file: String,
    /// What the gateway is configured with, in TOML.
    #[serde(default)]
    pub(super) config: String,
    /// Texts that cases name.
    #[serde(default)]
    texts: BTreeMap<String, String>,
    /// Texts that cases name, packed as they are named.
    #[serde(default)]
    packed: BTreeMap<String, String>,
    #[serde(rename = "case")]
    pub(super) cases: Vec<Case>,
}

/// A case: bytes for the gateway, and what comes of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    pub(super) name: String,
    /// Where it comes from: a section of an RFC, a CVE, another project's tests, an article.
    pub(super) source: String,
    /// What is sent.
    pub(super) raw: String,
    /// For each request that is answered: the statuses that are right, `"400|501"`; a `head` after
    /// them for an answer without a body.
    #[serde(default)]
    pub(super) answers: Vec<String>,
    /// What becomes of the connection after that.
    pub(super) then: Then,
    /// What the upstream has seen.
    #[serde(default)]
    pub(super) sees: Vec<Sees>,
    /// Header lines that the last answer has, and names of those that it has not.
    #[serde(default)]
    pub(super) has: Vec<String>,
    #[serde(default)]
    pub(super) lacks: Vec<String>,
    /// What the last answer says, or a part of it.
    pub(super) says: Option<String>,
    /// Configuration on top of the file's.
    #[serde(default)]
    pub(super) config: String,
    /// What the upstream answers; a completion, unless it is said.
    pub(super) upstream: Option<String>,
    /// It is about time: not to be sent in pieces, with pauses of their own.
    #[serde(default)]
    pub(super) timed: bool,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Then {
    /// The next request on it is answered.
    Kept,
    /// It ends.
    Closed,
}

/// What the upstream has seen of a request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sees {
    /// Method, target and version.
    #[serde(default = "chat_line")]
    pub(super) line: String,
    /// Its body, the chat request unless it is said.
    pub(super) body: Option<String>,
    /// Header lines that it has, and names of those that it has not.
    #[serde(default)]
    pub(super) has: Vec<String>,
    #[serde(default)]
    pub(super) lacks: Vec<String>,
}

fn chat_line() -> String {
    "POST /v1/chat/completions HTTP/1.1".to_owned()
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/hostile")
}

/// Every file, by name.
pub(super) fn themes() -> Vec<Theme> {
    let entries = std::fs::read_dir(folder()).expect("the corpus");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let names = names.map(|name| name.into_string().expect("text"));
    let mut files: Vec<_> =
        names.filter_map(|name| Some(name.strip_suffix(".toml")?.to_owned())).collect();
    files.sort_unstable();
    files.iter().map(|file| Theme::read(file)).collect()
}

impl Theme {
    pub(super) fn read(file: &str) -> Self {
        let path = folder().join(format!("{file}.toml"));
        let text = std::fs::read_to_string(&path).expect("a file of the corpus");
        let read = toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()));
        let mut theme: Self = read.expect("cases as described in README.md");
        theme.file = file.to_owned();
        theme
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.cases.iter().map(|case| case.name.as_str())
    }

    /// The texts that cases of this file name, with those that all know.
    pub(super) fn words(&self) -> Words {
        let mut words = Words(BTreeMap::new());
        words.0.insert("chat".to_owned(), hello().to_string().into_bytes());
        words.0.insert("pack".to_owned(), rmp_serde::to_vec(&hello()).expect("it packs"));
        for (name, text) in &self.texts {
            let bytes = words.bytes(text);
            words.0.insert(name.clone(), bytes);
        }
        // In turn, so that what is packed can be packed again.
        for (name, text) in &self.packed {
            let mut packer = GzEncoder::new(Vec::new(), Compression::best());
            packer.write_all(&words.bytes(text)).expect("memory");
            words.0.insert(name.clone(), packer.finish().expect("memory"));
        }
        words
    }
}

/// What the names in a case stand for.
pub(super) struct Words(BTreeMap<String, Vec<u8>>);

impl Words {
    /// The bytes that a text stands for. A line's end is CR LF; `\r`, `\n`, `\t`, `\0`, `\\` and `\xff`
    /// are bytes, and a `\` at the end of a line takes that back; `<name>` is a text with a name,
    /// `<name.len>` its length, `<name.hex>` that in hex, and `<9*text>` nine times a text.
    pub(super) fn bytes(&self, text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            match c {
                '\n' => bytes.extend(b"\r\n"),
                '\\' => bytes.extend(escape(&mut rest)),
                '<' => {
                    let inner: String = rest.by_ref().take_while(|&c| c != '>').collect();
                    bytes.extend(self.word(&inner));
                }
                c => bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        bytes
    }

    fn word(&self, text: &str) -> Vec<u8> {
        if let Some((count, text)) = text.split_once('*') {
            return self.bytes(text).repeat(count.parse().expect("a number of times"));
        }
        let (name, part) = text.split_once('.').unwrap_or((text, ""));
        let bytes = self.0.get(name).ok_or_else(|| format!("<{name}>")).expect("a known text");
        match part {
            "len" => bytes.len().to_string().into_bytes(),
            "hex" => format!("{:x}", bytes.len()).into_bytes(),
            part => {
                assert!(part.is_empty(), "<{name}.{part}> is not known");
                bytes.clone()
            }
        }
    }
}

fn escape(rest: &mut std::str::Chars<'_>) -> Option<u8> {
    match rest.next() {
        Some('\n') => None,
        Some('r') => Some(b'\r'),
        Some('n') => Some(b'\n'),
        Some('t') => Some(b'\t'),
        Some('0') => Some(0),
        Some('\\') => Some(b'\\'),
        other => {
            assert_eq!(other, Some('x'), "an escape that is known");
            let digits: String = rest.by_ref().take(2).collect();
            Some(u8::from_str_radix(&digits, 16).expect("two hex digits"))
        }
    }
}
