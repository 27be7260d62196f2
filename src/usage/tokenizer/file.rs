//! Reads a `tokenizer.json`, the format in which open models publish their tokenizers.
//!
//! Byte-level byte-pair encoding is understood, in the variants that are in use. What else a file
//! may ask for is an error: a count by half of its rules would be of little worth. What cannot
//! change a count (decoder, padding, truncation), and what is added around a text for the model's
//! sake (post-processor), is not read.

use std::collections::HashMap;

use aho_corasick::{AhoCorasick, MatchKind};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::byte_level::{Added, ByteLevel, Form, spelling};
use super::merges::{Merges, NO_TOKEN, Unknown};
use super::pieces::{BadPattern, Kept, Pattern, Step};

/// How the byte-level step cuts text that no other step has cut.
const CUT: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The longest name that an error repeats.
const MOST_NAME: usize = 40;

/// Why a file is no tokenizer that can be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TokenizerError {
    /// It is not of the format.
    #[error("{part} is not as in a tokenizer.json (line {line}, column {column} of it)")]
    Format {
        /// The file, or a part of it.
        part: &'static str,
        /// Line in that part, from 1.
        line: usize,
        /// Byte in that line.
        column: usize,
    },
    /// It asks for something that is not supported.
    #[error("{0} is not supported: only byte-level BPE is")]
    Unsupported(String),
    /// A merge makes or takes a token that the vocabulary does not have.
    #[error("merge {0} has a token that is not in the vocabulary")]
    Merge(usize),
}

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    model: &'a RawValue,
    #[serde(borrow)]
    normalizer: Option<&'a RawValue>,
    #[serde(borrow)]
    pre_tokenizer: Option<&'a RawValue>,
    #[serde(borrow)]
    added_tokens: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    name: Option<String>,
}

#[derive(Deserialize)]
struct Model {
    vocab: HashMap<String, u32>,
    merges: Vec<Pair>,
    dropout: Option<f64>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
}

/// A merge, as newer files write it and as older ones do.
#[derive(Deserialize)]
#[serde(untagged)]
enum Pair {
    Two(String, String),
    Spaced(String),
}

/// A normalizer or a step of cutting.
#[derive(Deserialize)]
struct Part {
    #[serde(rename = "type")]
    name: String,
    normalizers: Option<Vec<Self>>,
    pretokenizers: Option<Vec<Self>>,
    pattern: Option<Expression>,
    behavior: Option<String>,
    invert: Option<bool>,
    add_prefix_space: Option<bool>,
    use_regex: Option<bool>,
    individual_digits: Option<bool>,
}

#[derive(Deserialize)]
enum Expression {
    String(String),
    Regex(String),
}

#[derive(Deserialize)]
struct AddedToken {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
}

/// Reads a file.
pub(super) fn read(bytes: &[u8]) -> Result<ByteLevel, TokenizerError> {
    let file: File<'_> = serde_json::from_slice(bytes).map_err(|error| format("it", &error))?;
    let kind: Kind = part("`model`", file.model)?;
    if let Some(name) = kind.name.filter(|name| name != "BPE") {
        return unsupported("model", &name);
    }
    let mut forms = Vec::new();
    if let Some(normalizer) = optional("`normalizer`", file.normalizer)? {
        add_forms(&normalizer, &mut forms)?;
    }
    let mut steps = Vec::new();
    let mut byte_level = false;
    if let Some(cutter) = optional("`pre_tokenizer`", file.pre_tokenizer)? {
        add_steps(&cutter, &mut steps, &mut byte_level)?;
    }
    if !byte_level {
        return unknown("a pre_tokenizer without ByteLevel");
    }
    let added: Option<Vec<AddedToken>> = optional("`added_tokens`", file.added_tokens)?;
    let added = added_tokens(&added.unwrap_or_default())?;
    let merges = merges(&part("`model`", file.model)?)?;
    Ok(ByteLevel { added, forms, steps, merges })
}

fn format(part: &'static str, error: &serde_json::Error) -> TokenizerError {
    // Its text may quote what the file holds, and the file may be another one by mistake.
    TokenizerError::Format { part, line: error.line(), column: error.column() }
}

fn unsupported<T>(what: &str, name: &str) -> Result<T, TokenizerError> {
    let short: String = name.chars().take(MOST_NAME).collect();
    Err(TokenizerError::Unsupported(format!("{what} {short:?}")))
}

fn unknown<T>(what: &str) -> Result<T, TokenizerError> {
    Err(TokenizerError::Unsupported(what.to_owned()))
}

fn part<'a, T: Deserialize<'a>>(
    name: &'static str,
    text: &'a RawValue,
) -> Result<T, TokenizerError> {
    serde_json::from_str(text.get()).map_err(|error| format(name, &error))
}

fn optional<'a, T: Deserialize<'a>>(
    name: &'static str,
    text: Option<&'a RawValue>,
) -> Result<Option<T>, TokenizerError> {
    Ok(text.map(|text| part::<Option<T>>(name, text)).transpose()?.flatten())
}

fn add_forms(normalizer: &Part, forms: &mut Vec<Form>) -> Result<(), TokenizerError> {
    forms.push(match normalizer.name.as_str() {
        "NFC" => Form::Nfc,
        "NFD" => Form::Nfd,
        "NFKC" => Form::Nfkc,
        "NFKD" => Form::Nfkd,
        "Sequence" => {
            let parts = normalizer.normalizers.iter().flatten();
            return parts.into_iter().try_for_each(|each| add_forms(each, forms));
        }
        name => return unsupported("normalizer", name),
    });
    Ok(())
}

fn add_steps(
    cutter: &Part,
    steps: &mut Vec<Step>,
    byte_level: &mut bool,
) -> Result<(), TokenizerError> {
    if *byte_level {
        // It would have to cut what the bytes are spelt as.
        return unsupported("after ByteLevel, pre_tokenizer", &cutter.name);
    }
    let (pattern, kept) = match cutter.name.as_str() {
        "Sequence" => {
            let parts = cutter.pretokenizers.iter().flatten();
            return parts.into_iter().try_for_each(|each| add_steps(each, steps, byte_level));
        }
        "ByteLevel" => {
            *byte_level = true;
            if cutter.add_prefix_space.unwrap_or(true) {
                steps.push(Step::SpaceBefore);
            }
            if !cutter.use_regex.unwrap_or(true) {
                return Ok(());
            }
            (Pattern::new(CUT), Kept::All)
        }
        "Digits" if cutter.individual_digits == Some(true) => (Pattern::new(r"\p{N}"), Kept::All),
        "Digits" => (Pattern::new(r"\p{N}+"), Kept::All),
        "Split" => {
            let kept = match (cutter.behavior.as_deref(), cutter.invert.unwrap_or(false)) {
                (Some("Isolated"), _) => Kept::All,
                (Some("Removed"), false) => Kept::Between,
                (Some("Removed"), true) => Kept::Matches,
                (other, _) => return unsupported("Split with behavior", other.unwrap_or("none")),
            };
            let pattern = match &cutter.pattern {
                Some(Expression::String(text)) => Pattern::literal(text),
                Some(Expression::Regex(expression)) => Pattern::new(expression),
                None => return unknown("a Split without pattern"),
            };
            (pattern, kept)
        }
        name => return unsupported("pre_tokenizer", name),
    };
    let pattern = pattern.map_err(|error| {
        TokenizerError::Unsupported(match error {
            BadPattern::Regex(error) => {
                let what = error.syntax_error().map_or("size", |_| "syntax");
                format!("the {what} of the pre_tokenizer's pattern")
            }
            BadPattern::Possessive => "a possessive quantifier in a pattern".to_owned(),
            BadPattern::Flags => "a flag beside a look-ahead in a pattern".to_owned(),
        })
    })?;
    steps.push(Step::Cut(pattern, kept));
    Ok(())
}

fn added_tokens(tokens: &[AddedToken]) -> Result<Added, TokenizerError> {
    let tokens: Vec<_> = tokens.iter().filter(|token| !token.content.is_empty()).collect();
    if let Some(token) = tokens.iter().find(|token| token.single_word) {
        return unsupported("single_word of added token", &token.content);
    }
    if tokens.is_empty() {
        return Ok(Added { search: None, strips: Vec::new() });
    }
    let search = AhoCorasick::builder()
        .match_kind(MatchKind::LeftmostLongest)
        .build(tokens.iter().map(|token| &token.content))
        .map_err(|_| TokenizerError::Unsupported("such a number of added tokens".to_owned()))?;
    let strips = tokens.iter().map(|token| (token.lstrip, token.rstrip)).collect();
    Ok(Added { search: Some(search), strips })
}

fn merges(model: &Model) -> Result<Merges, TokenizerError> {
    let empty = |text: &Option<String>| text.as_deref().is_none_or(str::is_empty);
    if model.dropout.is_some_and(|share| share > 0.0) {
        return unknown("a model with dropout");
    }
    if !empty(&model.continuing_subword_prefix) || !empty(&model.end_of_word_suffix) {
        return unknown("a model with continuing_subword_prefix or end_of_word_suffix");
    }
    let token = |text: &str| model.vocab.get(text).copied().filter(|token| *token != NO_TOKEN);
    let spelling = spelling();
    let bytes = spelling.map(|c| token(c.encode_utf8(&mut [0; 4])));
    if model.byte_fallback == Some(true) && bytes.contains(&None) {
        return unknown("a model with byte_fallback");
    }
    let unknown = match (model.unk_token.as_deref().and_then(token), model.fuse_unk) {
        (None, _) => Unknown::Dropped,
        (Some(token), Some(true)) => Unknown::Fused(token),
        (Some(token), _) => Unknown::Token(token),
    };
    let mut merges = Merges::new(bytes, unknown);
    for (rank, pair) in model.merges.iter().enumerate() {
        let (left, right) = match pair {
            Pair::Two(left, right) => (left.as_str(), right.as_str()),
            Pair::Spaced(text) => text.split_once(' ').ok_or(TokenizerError::Merge(rank))?,
        };
        let known = (token(left), token(right), token(&format!("{left}{right}")));
        let (Ok(number), (Some(left), Some(right), Some(both))) = (u32::try_from(rank), known)
        else {
            return Err(TokenizerError::Merge(rank));
        };
        merges.merge(number, left, right, both);
    }
    if model.ignore_merges == Some(true) {
        let byte_of: HashMap<char, u8> =
            (0..=u8::MAX).map(|b| (spelling[usize::from(b)], b)).collect();
        for text in model.vocab.keys() {
            // What is no spelling of bytes never stands in a piece.
            if let Some(piece) = text.chars().map(|c| byte_of.get(&c).copied()).collect() {
                merges.keep_whole(piece);
            }
        }
    }
    Ok(merges)
}
