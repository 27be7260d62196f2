//! Finds the values of a few top-level keys in a JSON document that comes in pieces.
//!
//! A byte-level state machine: it tells strings, nesting and the members of the outermost object
//! apart and nothing more, so it costs little and survives anything. It does not validate: what it
//! captures is parsed by whoever asked for it.
//!
//! # Invariants
//!
//! - The state is all there is between two bytes, so where a document is split cannot matter.
//! - Memory is bounded: one capture, of at most [`Key::limit`] bytes.

use memchr::memchr2;

/// Longest spelling of a wanted key: every letter of the longest, `status_code`, as `\u0000`.
const NAME_MAX: usize = 11 * 6;

/// A top-level key whose value is wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Key {
    /// The counted tokens.
    Usage,
    /// What went wrong.
    Error,
    /// The status of what went wrong.
    StatusCode,
    /// The answer itself, of which only the first bytes are looked at.
    Choices,
}

impl Key {
    fn named(name: &[u8]) -> Option<Self> {
        match name {
            b"usage" => Some(Self::Usage),
            b"error" => Some(Self::Error),
            b"status_code" => Some(Self::StatusCode),
            b"choices" => Some(Self::Choices),
            _ => None,
        }
    }

    /// Most bytes captured of the value.
    fn limit(self) -> usize {
        match self {
            // A real usage is below 500 bytes and an error below 2,000.
            Self::Usage | Self::Error => 16 << 10,
            // Three digits; a bracket and what follows it.
            Self::StatusCode | Self::Choices => 16,
        }
    }

    /// Whether the beginning of the value says enough.
    fn beginning_will_do(self) -> bool {
        matches!(self, Self::Choices)
    }
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    /// The space before the document.
    #[default]
    Start,
    /// After `{`: a key or the end.
    Open,
    /// After `,`: a key.
    Key,
    /// Inside a key.
    Name,
    /// Inside a key, after a backslash.
    NameEscape,
    /// After a key.
    Colon,
    /// After `:`.
    Value,
    /// Inside a number or a word.
    Bare,
    /// Inside a string, at whatever depth.
    Text,
    /// Inside a string, after a backslash.
    TextEscape,
    /// Inside a list or an object, outside its strings.
    Nested,
    /// After a value.
    Next,
    /// After the closing brace.
    End,
    /// Not an object, or not JSON: nothing more is looked at.
    Foreign,
}

/// The state of a scan.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    state: State,
    /// Lists and objects open inside the current value.
    nest: u32,
    /// The key whose value is being read, if wanted.
    wanted: Option<Key>,
    /// The key being read, or the value being captured.
    kept: Vec<u8>,
    /// Whether `kept` lacks the rest.
    cut: bool,
}

impl Scanner {
    /// Reads on, and hands each wanted value, raw, to `found`.
    pub(super) fn feed(&mut self, bytes: &[u8], mut found: impl FnMut(Key, &[u8])) {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match self.state {
                State::Foreign => return,
                State::Name | State::NameEscape => at = self.name(bytes, at),
                State::Bare | State::Text | State::TextEscape | State::Nested => {
                    let (end, ended) = self.skip(bytes, at);
                    if self.wanted.is_some() {
                        self.keep(bytes.get(at..end).unwrap_or_default());
                    }
                    if ended {
                        self.close(&mut found);
                    }
                    at = end;
                }
                _ => {
                    self.punctuate(byte);
                    at += 1;
                }
            }
        }
    }

    /// Whether the document has been read to the end of its outermost object.
    pub(super) fn is_complete(&self) -> bool {
        self.state == State::End
    }

    /// Bytes of memory held for what is kept.
    #[cfg(test)]
    pub(super) fn kept_capacity(&self) -> usize {
        self.kept.capacity()
    }

    /// Makes ready for the next document.
    pub(super) fn reset(&mut self) {
        self.state = State::Start;
        self.wanted = None;
        self.kept.clear();
    }

    /// Steps over one byte between names and values.
    fn punctuate(&mut self, byte: u8) {
        self.state = match (self.state, byte) {
            (state, b' ' | b'\t' | b'\n' | b'\r') => state,
            // A byte order mark, whose bytes can begin nothing else.
            (State::Start, 0xEF | 0xBB | 0xBF) => State::Start,
            (State::Start, b'{') => State::Open,
            (State::Open | State::Key, b'"') => {
                self.kept.clear();
                self.cut = false;
                State::Name
            }
            (State::Open | State::Next, b'}') => State::End,
            (State::Colon, b':') => State::Value,
            (State::Next, b',') => State::Key,
            (State::Value, b',' | b':' | b'}' | b']') => State::Foreign,
            (State::Value, first) => {
                self.keep(&[first]);
                self.nest = u32::from(matches!(first, b'{' | b'['));
                match first {
                    b'"' => State::Text,
                    b'{' | b'[' => State::Nested,
                    _ => State::Bare,
                }
            }
            _ => State::Foreign,
        };
    }

    /// Reads a key from `at`; returns where it stopped.
    fn name(&mut self, bytes: &[u8], at: usize) -> usize {
        let rest = bytes.get(at..).unwrap_or_default();
        if self.state == State::NameEscape {
            self.keep_within(rest.get(..1).unwrap_or_default(), NAME_MAX);
            self.state = State::Name;
            return at + 1;
        }
        let run = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
        let (text, rest) = rest.split_at(run);
        self.keep_within(text, NAME_MAX);
        match rest.first() {
            None => return at + run,
            Some(b'"') => {
                self.wanted = self.named();
                self.kept.clear();
                self.cut = false;
                self.state = State::Colon;
            }
            Some(escape) => {
                self.keep_within(&[*escape], NAME_MAX);
                self.state = State::NameEscape;
            }
        }
        at + run + 1
    }

    /// The wanted key just read, however it is spelt.
    fn named(&self) -> Option<Key> {
        if self.cut {
            return None;
        }
        if !self.kept.contains(&b'\\') {
            return Key::named(&self.kept);
        }
        let quoted = [b"\"", self.kept.as_slice(), b"\""].concat();
        serde_json::from_slice::<String>(&quoted).ok().and_then(|name| Key::named(name.as_bytes()))
    }

    /// Steps over the current value from `at`; returns where it stopped, and whether the value
    /// ends there.
    fn skip(&mut self, bytes: &[u8], mut at: usize) -> (usize, bool) {
        while let Some(&byte) = bytes.get(at) {
            match self.state {
                State::Text => {
                    let rest = bytes.get(at..).unwrap_or_default();
                    let Some(run) = memchr2(b'"', b'\\', rest) else { return (bytes.len(), false) };
                    at += run + 1;
                    self.state = match rest.get(run) {
                        Some(b'\\') => State::TextEscape,
                        _ if self.nest == 0 => return (at, true),
                        _ => State::Nested,
                    };
                }
                State::TextEscape => {
                    at += 1;
                    self.state = State::Text;
                }
                State::Bare => {
                    if matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r') {
                        return (at, true);
                    }
                    at += 1;
                }
                _ => {
                    at += 1;
                    match byte {
                        b'"' => self.state = State::Text,
                        b'{' | b'[' => self.nest = self.nest.saturating_add(1),
                        b'}' | b']' => {
                            self.nest -= 1;
                            if self.nest == 0 {
                                return (at, true);
                            }
                        }
                        _ => {}
                    }
                }
            }
        }
        (at, false)
    }

    /// Ends the current value.
    fn close(&mut self, found: &mut impl FnMut(Key, &[u8])) {
        if let Some(key) = self.wanted.take()
            && (!self.cut || key.beginning_will_do())
        {
            found(key, &self.kept);
        }
        self.state = State::Next;
    }

    /// Keeps part of a wanted value.
    fn keep(&mut self, part: &[u8]) {
        if let Some(key) = self.wanted {
            self.keep_within(part, key.limit());
        }
    }

    fn keep_within(&mut self, part: &[u8], limit: usize) {
        let room = limit.saturating_sub(self.kept.len());
        self.cut |= part.len() > room;
        self.kept.extend(part.iter().take(room));
    }
}
