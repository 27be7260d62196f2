//! Cuts a text into the pieces within which tokens are made: words, numbers, marks, white space.
//!
//! A `tokenizer.json` says how by regular expressions. They are compiled to automata, so that a
//! search takes linear time whatever the text is. Automata cannot look ahead, and the published
//! expressions do so in one place only, white space up to the last character before a word
//! (`\s+(?!\S)`): that one is matched together with the character and shortened by it.

use std::ops::Range;

use regex_automata::meta::{BuildError, Config, Regex};
use regex_automata::{Input, PatternID, util::syntax};

/// The one look-ahead that is understood.
const WHITE_SPACE_BEFORE_WORD: &str = r"\s+(?!\S)";
/// It, if it runs to the end of the text.
const WHITE_SPACE_AT_END: &str = r"\s+\z";
/// It, and the one character of white space that is left to the word.
const WHITE_SPACE_AND_ONE: &str = r"\s+\s";

/// The most memory that an expression may take, compiled; those of the large models take half a
/// megabyte.
const MOST_COMPILED: usize = 16 << 20;

/// One way to cut.
pub(super) enum Step {
    /// At every match.
    Cut(Pattern, Kept),
    /// Not at all: the piece has a space put before it, unless it begins with one.
    SpaceBefore,
}

/// What is kept of a text that was cut.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kept {
    /// Matches, and what lies between them.
    All,
    /// Matches.
    Matches,
    /// What lies between matches.
    Between,
}

/// A compiled expression.
pub(super) struct Pattern {
    regex: Regex,
    /// Its part whose matches have one character too many.
    shortened: Option<PatternID>,
}

/// Why an expression cannot be used.
#[derive(Debug)]
pub(super) enum BadPattern {
    /// It is none, is too large, or has what an automaton cannot do.
    Regex(Box<BuildError>),
    /// It takes what it has matched and does not give it back.
    Possessive,
    /// It changes its flags half-way, where it would have to be taken apart.
    Flags,
}

impl Pattern {
    pub(super) fn new(expression: &str) -> Result<Self, BadPattern> {
        let alternatives = alternatives(expression)?;
        let special = alternatives.iter().position(|it| *it == WHITE_SPACE_BEFORE_WORD);
        let Some(special) = special else { return Self::build(&[expression], None) };
        // Flags would hold for all that follows.
        if ["(?i)", "(?s)", "(?m)", "(?x)"].iter().any(|flag| expression.contains(flag)) {
            return Err(BadPattern::Flags);
        }
        let (before, after) =
            (alternatives[..special].join("|"), alternatives[special + 1..].join("|"));
        let mut parts: Vec<&str> = Vec::with_capacity(4);
        parts.extend((special > 0).then_some(before.as_str()));
        parts.push(WHITE_SPACE_AT_END);
        let shortened = parts.len();
        parts.push(WHITE_SPACE_AND_ONE);
        parts.extend((special + 1 < alternatives.len()).then_some(after.as_str()));
        Self::build(&parts, PatternID::new(shortened).ok())
    }

    /// One that matches `text` and nothing else.
    pub(super) fn literal(text: &str) -> Result<Self, BadPattern> {
        let escaped: String = text.chars().map(|c| format!("\\x{{{:x}}}", u32::from(c))).collect();
        Self::build(&[&escaped], None)
    }

    fn build(parts: &[&str], shortened: Option<PatternID>) -> Result<Self, BadPattern> {
        let config = Config::new().nfa_size_limit(Some(MOST_COMPILED));
        // `^` and `$` mean lines in the library that such files are written for.
        let syntax = syntax::Config::new().multi_line(true);
        let regex = Regex::builder().configure(config).syntax(syntax).build_many(parts);
        regex.map(|regex| Self { regex, shortened }).map_err(|e| BadPattern::Regex(Box::new(e)))
    }

    /// The first match that begins at `from` or later.
    fn find(&self, text: &str, from: usize) -> Option<Range<usize>> {
        let found = self.regex.search(&Input::new(text).range(from..))?;
        let mut range = found.range();
        if Some(found.pattern()) == self.shortened {
            range.end -= text[range.clone()].chars().next_back().map_or(0, char::len_utf8);
        }
        Some(range)
    }
}

/// Cuts `text` by one step after the other; `each` gets the pieces, none of which is empty.
pub(super) fn cut(steps: &[Step], text: &str, each: &mut dyn FnMut(&str)) {
    if text.is_empty() {
        return;
    }
    match steps.split_first() {
        None => each(text),
        Some((Step::SpaceBefore, rest)) if text.starts_with(' ') => cut(rest, text, each),
        Some((Step::SpaceBefore, rest)) => cut(rest, &format!(" {text}"), each),
        Some((Step::Cut(pattern, kept), rest)) => {
            let (mut done, mut from) = (0, 0);
            while let Some(found) = pattern.find(text, from) {
                if found.is_empty() {
                    // Nothing to cut out: look on behind the next character.
                    let Some(next) = text[found.end..].chars().next() else { break };
                    from = found.end + next.len_utf8();
                    continue;
                }
                if *kept != Kept::Matches {
                    cut(rest, &text[done..found.start], each);
                }
                if *kept != Kept::Between {
                    cut(rest, &text[found.clone()], each);
                }
                (done, from) = (found.end, found.end);
            }
            if *kept != Kept::Matches {
                cut(rest, &text[done..], each);
            }
        }
    }
}

/// The alternatives of an expression at its top level.
fn alternatives(expression: &str) -> Result<Vec<&str>, BadPattern> {
    let (mut found, mut start) = (Vec::new(), 0);
    let (mut groups, mut classes) = (0_usize, 0_usize);
    // Whether what stands before is a quantifier, or has just opened a group.
    let (mut quantified, mut opened) = (false, false);
    let mut rest = expression.char_indices();
    while let Some((at, c)) = rest.next() {
        let plain = classes == 0;
        if plain && quantified && c == '+' {
            return Err(BadPattern::Possessive);
        }
        // In "(?" the mark quantifies nothing.
        quantified = plain && !opened && matches!(c, '?' | '*' | '+' | '}');
        opened = plain && c == '(';
        match c {
            '\\' => {
                let named = rest.next().is_some_and(|(_, it)| matches!(it, 'p' | 'P' | 'x' | 'u'));
                if named && rest.as_str().starts_with('{') {
                    rest.find(|(_, it)| *it == '}');
                }
            }
            '[' => classes += 1,
            ']' => classes = classes.saturating_sub(1),
            '(' if plain => groups += 1,
            ')' if plain => groups = groups.saturating_sub(1),
            '|' if plain && groups == 0 => {
                found.push(&expression[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    found.push(&expression[start..]);
    Ok(found)
}
