//! What text is made of, as far as that decides how many tokens it has.
//!
//! Tokenizers differ in their vocabularies but cut alike: words, groups of digits, marks, line
//! breaks, and characters beyond ASCII by their script. Counted apart, these say far more of a
//! text's tokens than its bytes do: prose has five bytes a token, base64 one and a half.
//!
//! # Invariants
//!
//! - One pass, no allocation, and nothing of the text is kept.
//! - Every count is at most the number of bytes, so none overflows.

/// Kinds of bytes; a power of two, so that a state and a class make an index by their bits.
const CLASSES: usize = 1 << CLASS_BITS;
const CLASS_BITS: u32 = 4;
const CONTROL: u8 = 0;
const LOWER: u8 = 1;
const UPPER: u8 = 2;
const DIGIT: u8 = 3;
const SPACE: u8 = 4;
const BREAK: u8 = 5;
const MARK: u8 = 6;
/// A byte that continues a character: it changes nothing.
const INSIDE: u8 = 7;
/// The first bytes of characters beyond ASCII, in the order of their counts from [`LETTER2`] on.
const WIDE: u8 = 8;

/// Counts kept by a scan, in this order in [`Texture::counts`].
const WORD: usize = 0;
const LONG: usize = 1;
const LETTER: usize = 2;
const HUMP: usize = 3;
const GROUP: usize = 4;
const MARKS: usize = 5;
const MARK_RUN: usize = 6;
const BLANK: usize = 7;
/// Characters of two bytes: Latin with accents, Greek, Cyrillic, Hebrew, Arabic.
const LETTER2: usize = 8;

/// Letters of a word beyond which it counts as long: most of a vocabulary's whole words are
/// shorter.
const LONG_AFTER: u8 = 6;
/// Digits that make one group: tokenizers cut numbers so.
const GROUP_OF: u8 = 3;

/// States of the scan: where the last byte left it. A power of two as well, not all of them used.
const STATES: usize = 32;
/// Entries of the tables.
const STEPS: usize = STATES * CLASSES;
const START: u8 = 0;
const AFTER_SPACE: u8 = 1;
const AFTER_BLANK: u8 = 2;
const AFTER_MARK: u8 = 3;
/// So many digits of a group, from one.
const DIGITS: u8 = 4;
/// So many letters of a word, from one; the last state stands for all further ones.
const LETTERS: u8 = DIGITS + GROUP_OF;
const LETTERS_END: u8 = LETTERS + LONG_AFTER;

/// Below this, cutting a text into lanes costs more than it saves.
const LANES_FROM: usize = 512;
/// Lanes scanned side by side: a scan waits for the table at each byte, and four waits overlap.
const LANES: usize = 4;
/// Bytes between two sums: a count of eight bits holds no more.
const SPAN: usize = 255;

/// What is counted of a text.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Texture {
    /// Words; long words; letters; capitals within words; groups of up to three digits; marks;
    /// runs of marks; runs of white space but single spaces; then characters beyond ASCII: of two
    /// bytes, kana, ideographs, hangul, others of three bytes, of four bytes.
    pub counts: [u64; Self::COUNTS],
}

/// What one byte does in one state: the next state, and the counts it raises, eight bits each.
#[derive(Clone, Copy)]
struct Step {
    low: u64,
    high: u64,
    next: u8,
}

static CLASS: [u8; 256] = classes();
/// The next state, times [`CLASSES`], by state and class. A table of its own, because a scan waits
/// for it at each byte and for the others never.
static NEXT: [u16; STEPS] = next();
/// The counts raised, by state and class: those of the low eight and those of the others.
static RAISED: [[u64; 2]; STEPS] = raised();

impl Texture {
    /// How many things are counted.
    pub const COUNTS: usize = 14;

    /// Words in the letters of ASCII.
    pub(super) const fn words(&self) -> u64 {
        self.counts[WORD]
    }

    /// Capitals within words.
    pub(super) const fn humps(&self) -> u64 {
        self.counts[HUMP]
    }

    /// Marks of ASCII.
    pub(super) const fn marks(&self) -> u64 {
        self.counts[MARKS]
    }

    /// Characters beyond ASCII.
    pub(super) fn wide(&self) -> u64 {
        self.counts.iter().skip(LETTER2).sum()
    }

    /// Adds a text.
    pub(super) fn add(&mut self, text: &[u8]) {
        if text.len() < LANES_FROM {
            let mut state = [0];
            for span in text.chunks(SPAN) {
                let ([tally], end) = scan([span], state);
                state = end;
                self.sum(tally);
            }
            return;
        }
        // A word cut by the edge of a lane counts twice: three in a text of that length.
        let quarter = text.len() / LANES;
        let (first, rest) = text.split_at(quarter);
        let (second, rest) = rest.split_at(quarter);
        let (third, fourth) = rest.split_at(quarter);
        let (fourth, left) = fourth.split_at(quarter);
        let mut states = [0; LANES];
        let mut lanes = [first, second, third, fourth].map(|lane| lane.chunks(SPAN));
        loop {
            let spans = lanes.each_mut().map(Iterator::next);
            let [Some(a), Some(b), Some(c), Some(d)] = spans else { break };
            let (tallies, ends) = scan([a, b, c, d], states);
            states = ends;
            tallies.into_iter().for_each(|tally| self.sum(tally));
        }
        let ([tally], _) = scan([left], [states[LANES - 1]]);
        self.sum(tally);
    }

    fn sum(&mut self, [low, high]: [u64; 2]) {
        let bytes = low.to_le_bytes().into_iter().chain(high.to_le_bytes());
        for (count, more) in self.counts.iter_mut().zip(bytes) {
            *count = count.saturating_add(u64::from(more));
        }
    }
}

/// Scans spans of equal length, at most [`SPAN`] bytes, side by side.
fn scan<const N: usize>(spans: [&[u8]; N], mut states: [u16; N]) -> ([[u64; 2]; N], [u16; N]) {
    let mut tallies = [[0; 2]; N];
    let len = spans.iter().map(|span| span.len()).min().unwrap_or(0);
    let spans = spans.map(|span| &span[..len]);
    for at in 0..len {
        for lane in 0..N {
            let class = CLASS[usize::from(spans[lane][at])];
            let step = (usize::from(states[lane]) | usize::from(class)) % STEPS;
            tallies[lane][0] += RAISED[step][0];
            tallies[lane][1] += RAISED[step][1];
            states[lane] = NEXT[step];
        }
    }
    (tallies, states)
}

const fn classes() -> [u8; 256] {
    let mut table = [CONTROL; 256];
    let mut byte = 0_u8;
    loop {
        table[byte as usize] = match byte {
            b'a'..=b'z' => LOWER,
            b'A'..=b'Z' => UPPER,
            b'0'..=b'9' => DIGIT,
            b' ' => SPACE,
            b'\t' | b'\n' | b'\r' => BREAK,
            0x21..=0x7E => MARK,
            0x80..=0xBF => INSIDE,
            0xC0..=0xDF => WIDE,
            // Kana and the marks of Chinese and Japanese; ideographs; hangul.
            0xE3 => WIDE + 1,
            0xE4..=0xE9 => WIDE + 2,
            0xEA..=0xED => WIDE + 3,
            0xE0..=0xE2 | 0xEE..=0xEF => WIDE + 4,
            0xF0..=0xFF => WIDE + 5,
            _ => CONTROL,
        };
        if byte == u8::MAX {
            return table;
        }
        byte += 1;
    }
}

const fn next() -> [u16; STEPS] {
    let (mut table, mut at) = ([0; STEPS], 0);
    while at < STEPS {
        table[at] = (step_at(at).next as u16) << CLASS_BITS;
        at += 1;
    }
    table
}

const fn raised() -> [[u64; 2]; STEPS] {
    let (mut table, mut at) = ([[0; 2]; STEPS], 0);
    while at < STEPS {
        let step = step_at(at);
        table[at] = [step.low, step.high];
        at += 1;
    }
    table
}

#[expect(clippy::cast_possible_truncation, reason = "both are far below 256")]
const fn step_at(at: usize) -> Step {
    step((at / CLASSES) as u8, (at % CLASSES) as u8)
}

const fn step(state: u8, class: u8) -> Step {
    let step = Step { low: 0, high: 0, next: START };
    match class {
        LOWER | UPPER => {
            let in_word = state >= LETTERS && state <= LETTERS_END;
            let step = step.count(LETTER);
            if !in_word {
                return step.count(WORD).to(LETTERS);
            }
            let step = if class == UPPER { step.count(HUMP) } else { step };
            match state {
                LETTERS_END => step.to(LETTERS_END),
                _ if state + 1 == LETTERS_END => step.count(LONG).to(LETTERS_END),
                _ => step.to(state + 1),
            }
        }
        DIGIT if state >= DIGITS && state + 1 < DIGITS + GROUP_OF => step.to(state + 1),
        DIGIT => step.count(GROUP).to(DIGITS),
        SPACE => match state {
            AFTER_SPACE => step.count(BLANK).to(AFTER_BLANK),
            AFTER_BLANK => step.to(AFTER_BLANK),
            _ => step.to(AFTER_SPACE),
        },
        BREAK => match state {
            AFTER_BLANK => step.to(AFTER_BLANK),
            _ => step.count(BLANK).to(AFTER_BLANK),
        },
        MARK if state == AFTER_MARK => step.count(MARKS).to(AFTER_MARK),
        MARK => step.count(MARKS).count(MARK_RUN).to(AFTER_MARK),
        WIDE.. if (class as usize) < WIDE as usize + Texture::COUNTS - LETTER2 => {
            step.count(LETTER2 + (class - WIDE) as usize).to(START)
        }
        _ => step.to(START),
    }
}

impl Step {
    const fn to(self, next: u8) -> Self {
        Self { next, ..self }
    }

    const fn count(self, which: usize) -> Self {
        if which < 8 {
            Self { low: self.low + (1 << (8 * which)), ..self }
        } else {
            Self { high: self.high + (1 << (8 * (which - 8))), ..self }
        }
    }
}

#[cfg(test)]
mod tests;
