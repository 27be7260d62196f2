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

use std::hint::black_box;
use std::sync::LazyLock;

use fearless_simd::{Level, Simd, dispatch, prelude::*, u8x64};
use memchr::memchr2;
use memchr::memmem::Finder;

/// Most bytes kept of a key: one more than the longest spelling of a wanted one, which is every
/// letter of `status_code` as `\u0000`, so that no longer key can pass for it.
const NAME_MAX: usize = 11 * 6 + 1;

/// Room made for a wanted value: that of an ordinary `usage`, so that it is made once.
const KEPT_AT_FIRST: usize = 256;

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

    /// Most bytes captured of the value. What is cut there no longer parses, but still begins as
    /// an object or a list does.
    fn limit(self) -> usize {
        match self {
            // A real usage is below 500 bytes and an error below 2,000.
            Self::Usage | Self::Error => 16 << 10,
            // Three digits; a bracket and what follows it.
            Self::StatusCode | Self::Choices => 16,
        }
    }
}

/// Whether a whole document may have one of the wanted keys, `choices` excepted, however it is spelt.
pub(super) fn may_tell(document: &[u8]) -> bool {
    static WANTED: LazyLock<[Finder<'static>; 4]> =
        LazyLock::new(|| [r#""usage""#, r#""error""#, r#""status_code""#, r"\u"].map(Finder::new));
    WANTED.iter().any(|wanted| wanted.find(document).is_some())
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
}

impl Scanner {
    /// Reads on, and hands each wanted value, raw, to `found`.
    pub(super) fn feed(&mut self, bytes: &[u8], mut found: impl FnMut(Key, &[u8])) {
        // Kept in registers while it changes with every few bytes.
        let (mut at, mut state) = (0, self.state);
        while let Some(&byte) = bytes.get(at) {
            match state {
                State::Foreign => break,
                State::Name | State::NameEscape => (at, state) = self.name(bytes, at, state),
                State::Bare | State::Text | State::TextEscape | State::Nested => {
                    let start = at;
                    (at, state) = self.skip(bytes, at, state);
                    if self.wanted.is_some() {
                        self.keep(bytes.get(start..at).unwrap_or_default());
                        if state == State::Next {
                            self.close(&mut found);
                        }
                    }
                }
                _ => {
                    state = self.punctuate(state, byte);
                    at += 1;
                }
            }
        }
        self.state = state;
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
        self.forget();
    }

    /// Steps over one byte between names and values.
    fn punctuate(&mut self, state: State, byte: u8) -> State {
        match (state, byte) {
            (_, b' ' | b'\t' | b'\n' | b'\r') => state,
            // A byte order mark, whose bytes can begin nothing else.
            (State::Start, 0xEF | 0xBB | 0xBF) => State::Start,
            (State::Start, b'{') => State::Open,
            (State::Open | State::Key, b'"') => State::Name,
            (State::Open | State::Next, b'}') => State::End,
            (State::Colon, b':') => State::Value,
            (State::Next, b',') => State::Key,
            (State::Value, b',' | b':' | b'}' | b']') => State::Foreign,
            (State::Value, first) => {
                if self.wanted.is_some() {
                    self.kept.reserve(KEPT_AT_FIRST);
                }
                self.keep(&[first]);
                self.nest = u32::from(matches!(first, b'{' | b'['));
                match first {
                    b'"' => State::Text,
                    b'{' | b'[' => State::Nested,
                    _ => State::Bare,
                }
            }
            _ => State::Foreign,
        }
    }

    /// Reads a key from `at`; returns where it stopped and in which state.
    fn name(&mut self, bytes: &[u8], at: usize, state: State) -> (usize, State) {
        let rest = bytes.get(at..).unwrap_or_default();
        if state == State::NameEscape {
            self.keep_within(rest.get(..1).unwrap_or_default(), NAME_MAX);
            return (at + 1, State::Name);
        }
        let run = quote_or_escape(rest).unwrap_or(rest.len());
        let (text, end) = rest.split_at(run);
        match end.first() {
            // The common case: all of the key at once.
            Some(b'"') if self.kept.is_empty() => self.wanted = Key::named(text),
            Some(b'"') => {
                self.keep_within(text, NAME_MAX);
                self.wanted = self.named();
            }
            Some(escape) => {
                self.keep_within(text, NAME_MAX);
                self.keep_within(&[*escape], NAME_MAX);
                return (at + run + 1, State::NameEscape);
            }
            None => {
                self.keep_within(text, NAME_MAX);
                return (at + run, State::Name);
            }
        }
        self.kept.clear();
        (at + run + 1, State::Colon)
    }

    /// The wanted key just read, however it is spelt.
    fn named(&self) -> Option<Key> {
        if !self.kept.contains(&b'\\') {
            return Key::named(&self.kept);
        }
        let quoted = [b"\"", self.kept.as_slice(), b"\""].concat();
        serde_json::from_slice::<String>(&quoted).ok().and_then(|name| Key::named(name.as_bytes()))
    }

    /// Steps over the current value from `at`; returns where it stopped and in which state, which
    /// is [`State::Next`] if the value ends there.
    fn skip(&mut self, bytes: &[u8], at: usize, state: State) -> (usize, State) {
        let rest = bytes.get(at..).unwrap_or_default();
        let (read, state) = match state {
            State::Bare => match rest.iter().position(|byte| ends_bare(*byte)) {
                Some(end) => (end, State::Next),
                None => (rest.len(), State::Bare),
            },
            _ => dispatch!(Level::new(), simd => self.cross(simd, rest, state)),
        };
        (at + read, state)
    }

    /// Reads a string, or a list or an object with all that is in it; returns where it stopped and in
    /// which state.
    #[inline(always)]
    fn cross<S: Simd>(&mut self, simd: S, bytes: &[u8], state: State) -> (usize, State) {
        let mut at = usize::from(state == State::TextEscape);
        let mut in_text = state != State::Nested;
        let mut nest = self.nest;
        while let Some(rest @ [_, ..]) = bytes.get(at..) {
            let marks = Marks::of(simd, rest);
            // Bits from here on have not been looked at.
            let mut from = 0;
            while from < BLOCK {
                let turns = marks.quotes | if in_text { marks.escapes } else { marks.brackets };
                let left = turns >> from;
                if left == 0 {
                    break;
                }
                let turn = from + left.trailing_zeros();
                from = turn + 1;
                let is = |marks: u64| marks >> turn & 1 == 1;
                let next = at + from as usize;
                if is(marks.quotes) {
                    in_text = !in_text;
                    if !in_text && nest == 0 {
                        return (next, State::Next);
                    }
                } else if in_text {
                    if next == bytes.len() {
                        self.nest = nest;
                        return (next, State::TextEscape);
                    }
                    // Whatever is escaped.
                    from += 1;
                } else if is(marks.opening) {
                    nest = nest.saturating_add(1);
                } else if nest <= 1 {
                    return (next, State::Next);
                } else {
                    nest -= 1;
                }
            }
            // One more, if what the last byte escapes is in the next block.
            at += from.max(BLOCK) as usize;
        }
        self.nest = nest;
        (bytes.len(), if in_text { State::Text } else { State::Nested })
    }

    /// Ends a wanted value.
    fn close(&mut self, found: &mut impl FnMut(Key, &[u8])) {
        if let Some(key) = self.wanted {
            found(key, &self.kept);
        }
        self.forget();
    }

    /// Drops what is kept.
    fn forget(&mut self) {
        self.wanted = None;
        self.kept.clear();
    }

    /// Keeps part of a wanted value.
    fn keep(&mut self, part: &[u8]) {
        if let Some(key) = self.wanted {
            self.keep_within(part, key.limit());
        }
    }

    fn keep_within(&mut self, part: &[u8], limit: usize) {
        let room = limit.saturating_sub(self.kept.len());
        self.kept.extend_from_slice(part.get(..room).unwrap_or(part));
    }
}

/// Bytes looked at together: as many as an integer has bits.
const BLOCK: u32 = 64;

/// The bytes of a block that change where a scan stands: a bit for each, the first byte's the lowest.
struct Marks {
    quotes: u64,
    escapes: u64,
    brackets: u64,
    /// The brackets that open something.
    opening: u64,
}

impl Marks {
    /// Those of the first bytes.
    #[inline(always)]
    fn of<S: Simd>(simd: S, bytes: &[u8]) -> Self {
        let mut last = [0; BLOCK as usize];
        let block = bytes.first_chunk().unwrap_or_else(|| {
            last[..bytes.len()].copy_from_slice(bytes);
            &last
        });
        let block = u8x64::from_slice(simd, block);
        let is = |byte| block.simd_eq(u8x64::splat(simd, byte)).to_bitmask();
        let opening = is(b'{') | is(b'[');
        let brackets = opening | is(b'}') | is(b']');
        // As the integers that they are: the compiler would keep them as vectors, and take those apart
        // for each bit that is asked for.
        black_box(Self { quotes: is(b'"'), escapes: is(b'\\'), brackets, opening })
    }
}

/// Whether a byte ends a number or a word.
const fn ends_bare(byte: u8) -> bool {
    matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r')
}

/// Where the next quote or backslash is.
///
/// Most strings of a stream's chunks are shorter than it takes a vector search to get going, so
/// the first bytes are looked at one by one.
fn quote_or_escape(bytes: &[u8]) -> Option<usize> {
    let (near, far) = bytes.split_at(bytes.len().min(16));
    let hit = |byte: &u8| matches!(byte, b'"' | b'\\');
    near.iter().position(hit).or_else(|| Some(near.len() + memchr2(b'"', b'\\', far)?))
}
