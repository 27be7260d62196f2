use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

#[test]
fn every_text_of_a_prompt_is_counted_and_nothing_else() {
    let o200k = |text: &str| Tokenizer::O200k.count(text);
    assert_eq!(o200k("The harbour clocks had stopped."), 6);
    let body = json!({
        "model": "a name that is no prompt", "user": "nor is this",
        "messages": [
            {"role": "system", "content": "one two"},
            {"role": "user", "content": [{"type": "text", "text": "three \u{1f30a}"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
        ],
        "tools": [{"type": "function", "function": {"name": "tide"}}],
    });
    let texts = ["one two", "three \u{1f30a}", "type", "function", "function", "name", "tide"];
    let expected: u64 = texts.into_iter().map(o200k).sum();
    for (content_type, bytes) in [
        (None, body.to_string().into_bytes()),
        (Some("application/msgpack"), rmp_serde::to_vec_named(&body).unwrap()),
    ] {
        let kind = BodyKind::from_headers(content_type, None).unwrap();
        assert_eq!(Tokenizer::O200k.count_prompt(kind, &bytes, 1 << 20), Some(expected));
    }
    let kind = BodyKind::from_headers(None, None).unwrap();
    assert_eq!(Tokenizer::O200k.count_prompt(kind, b"{", 1 << 20), None);
}

/// The crate that publishes the vocabulary in Rust is the reference.
fn reference(text: &str) -> u64 {
    u64::try_from(bpe_openai::o200k_base().count(text)).unwrap()
}

#[test]
fn every_token_of_o200k_counts_as_the_reference_does() {
    let vocabulary = &bpe_openai::o200k_base().bpe;
    for token in 0..u32::try_from(vocabulary.num_tokens()).unwrap() {
        // What is a part of a character is no text.
        let Ok(text) = str::from_utf8(vocabulary.token_bytes(token)) else { continue };
        assert_eq!(Tokenizer::O200k.count(text), reference(text), "{token}: {text:?}");
        let twice = format!("{text}{text}");
        assert_eq!(Tokenizer::O200k.count(&twice), reference(&twice), "{token}: {twice:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Words and parts of words, spaces, marks, digits, other scripts, anything.
    #[test]
    fn o200k_counts_as_the_reference_does(
        parts in prop::collection::vec(
            prop_oneof![
                4 => "[a-zA-Z]{1,14}",
                4 => "[ \t\r\n]{1,5}",
                2 => "[0-9]{1,7}",
                2 => "[!-/:-@'s]{1,6}",
                1 => "[\u{400}-\u{4ff}\u{4e00}-\u{4fff}\u{3040}-\u{30ff}]{1,8}",
                1 => "\\PC{0,12}",
                1 => any::<String>(),
            ],
            0..24,
        ),
    ) {
        let text = parts.concat();
        prop_assert_eq!(Tokenizer::O200k.count(&text), reference(&text));
    }

    /// One long piece, in which merges race.
    #[test]
    fn long_pieces_of_o200k_count_as_the_reference_does(
        letters in "[a-e]{0,400}", wide in "[\u{4e00}-\u{4e40}]{0,120}", same in "(-{0,90}){0,9}",
    ) {
        for text in [letters, wide, same] {
            prop_assert_eq!(Tokenizer::O200k.count(&text), reference(&text));
        }
    }
}

/// Published by nobody: the bytes, fifteen merges, one added token, and the cuts of Llama 3.
const TIDES: &str = include_str!("../../../tests/tokenizers/tides.json");

/// The file, changed at these paths.
fn changed(changes: &[(&str, Value)]) -> Result<Tokenizer, TokenizerError> {
    let mut file: Value = serde_json::from_str(TIDES).unwrap();
    for (path, value) in changes {
        let (parent, key) = path.rsplit_once('/').unwrap();
        match file.pointer_mut(parent).unwrap() {
            Value::Array(list) => list[key.parse::<usize>().unwrap()] = value.clone(),
            table => table[key] = value.clone(),
        }
    }
    Tokenizer::from_json("file:changed", file.to_string().as_bytes())
}

fn count(changes: &[(&str, Value)], text: &str) -> u64 {
    changed(changes).unwrap().count(text)
}

/// What the reference implementation counts, too: `tests/sdk/python/test_tokenizer.py` asks it.
#[test]
fn tokens_are_counted_as_the_file_says() {
    for (text, tokens, why) in [
        ("", 0, "nothing"),
        ("tide", 1, "ti, de and tide merge"),
        (" tide", 1, "with the space before it"),
        ("tides", 2, "a letter more"),
        (" tie", 3, "ti merges before the space and t do, and e stays"),
        ("the tide", 4, "only after a space the is a token"),
        ("     tide", 2, "four spaces, and the one that belongs to the word"),
        ("   ", 2, "two and one"),
        ("ooo", 2, "the first two merge"),
        ("12345", 4, "three digits are cut off, so 3 and 4 stay apart"),
        ("\u{6f6e}x", 2, "one ideograph of three bytes, one letter"),
        ("e\u{301}", 3, "not normalized: one byte and two"),
        ("the <|end|> tide", 6, "an added token stands for itself"),
        ("<|end|", 6, "and nothing less than it does"),
        ("tide\n\n tide", 4, "line breaks apart from words"),
        ("TIDE'S", 6, "an ending, in capitals too"),
        ("harbour", 7, "no merges lead there"),
        ("12 tide\r\n", 4, "line breaks at the end"),
    ] {
        assert_eq!(count(&[], text), tokens, "{text:?}: {why}");
    }
}

#[test]
fn variants_of_the_format_count_as_the_reference_does() {
    const CUTTERS: &str = "/pre_tokenizer/pretokenizers";
    const CUT: &str = "/pre_tokenizer/pretokenizers/0";
    let byte_level = |space: bool, cut: bool| json!({"type": "ByteLevel", "add_prefix_space": space, "use_regex": cut});
    let older: Vec<_> = ["t i", "d e", "ti de", "\u{120} tide"].into();
    let string = |behavior: &str, invert: bool| json!({"type": "Split", "pattern": {"String": "oo"}, "behavior": behavior, "invert": invert});
    let digits = |each: bool| json!({"type": "Digits", "individual_digits": each});
    for (path, value, expected) in [
        ("/model/ignore_merges", json!(true), vec![("harbour", 1), (" harbour", 8)]),
        ("/model/merges", json!(older), vec![(" tide", 1), ("the", 3), ("oo", 2)]),
        ("/model/type", Value::Null, vec![(" tide", 1)]),
        ("/normalizer", json!({"type": "NFC"}), vec![("e\u{301}", 1), ("tide", 1)]),
        (
            "/normalizer",
            json!({"type": "Sequence", "normalizers": [{"type": "NFKD"}, {"type": "NFC"}]}),
            vec![("\u{2460}\u{2461}", 1), ("\u{fb01}", 2)],
        ),
        ("/added_tokens/0/lstrip", json!(true), vec![("ooo     <|end|>     ooo", 7)]),
        ("/added_tokens/0/rstrip", json!(true), vec![("<|end|>  <|end|>  ", 2)]),
        ("/added_tokens", json!([]), vec![("<|end|>", 7)]),
        (
            "/pre_tokenizer",
            byte_level(true, true),
            vec![("tide", 1), ("12345", 4), ("'re", 4), ("the  tide", 3), ("", 0), ("\ttide", 3)],
        ),
        ("/pre_tokenizer", byte_level(false, false), vec![("tide tide", 2), ("12345", 3)]),
        (CUT, digits(true), vec![("12 tide", 3)]),
        (CUT, digits(false), vec![("1234 tide", 3)]),
        (CUT, string("Removed", false), vec![("tideootide", 2), ("oooo", 0), ("x", 1)]),
        (CUT, string("Removed", true), vec![("tideootide", 1), ("oooo", 2), ("x", 0)]),
        (CUT, string("Isolated", true), vec![("tideootide", 3), ("oooo", 2), ("x", 1)]),
        (CUTTERS, json!([byte_level(false, false)]), vec![("tide tide", 2)]),
    ] {
        for (text, tokens) in expected {
            assert_eq!(count(&[(path, value.clone())], text), tokens, "{text:?}, {path}: {value}");
        }
    }
}

#[test]
fn bytes_without_a_token_are_dropped_unknown_or_unknown_together() {
    let mut vocab = serde_json::from_str::<Value>(TIDES).unwrap()["model"]["vocab"].take();
    for gone in ["x", "y"] {
        vocab.as_object_mut().unwrap().remove(gone);
    }
    for (unknown, fuse, expected) in [
        (Value::Null, false, [("tixxde", 1), ("xx", 0), ("xzx", 1)]),
        (json!("z"), false, [("tixxde", 4), ("xxyx", 4), ("xzx", 3)]),
        (json!("z"), true, [("tixxde", 3), ("xxyx", 1), ("xzx", 3)]),
    ] {
        let changes = [
            ("/model/vocab", vocab.clone()),
            ("/model/unk_token", unknown.clone()),
            ("/model/fuse_unk", json!(fuse)),
        ];
        for (text, tokens) in expected {
            assert_eq!(count(&changes, text), tokens, "{text:?} with {unknown}, {fuse}");
        }
    }
    let without = changed(&[("/model/vocab", vocab), ("/model/byte_fallback", json!(true))]);
    assert!(without.unwrap_err().to_string().contains("byte_fallback"));
}

#[test]
fn what_is_not_understood_is_refused_and_named() {
    const CUT: &str = "/pre_tokenizer/pretokenizers/0";
    let split =
        |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated"});
    for (path, value, expected) in [
        ("/model/type", json!("Unigram"), "model \"Unigram\" is not supported"),
        ("/model/merges", json!(5), "`model` is not as in a tokenizer.json (line 1, column"),
        ("/model/merges", json!([["tide", "x"]]), "merge 0 has a token"),
        ("/model/merges", json!(["t i", "tide"]), "merge 1 has a token"),
        ("/model/dropout", json!(0.1), "dropout"),
        ("/model/end_of_word_suffix", json!("</w>"), "end_of_word_suffix"),
        ("/normalizer", json!({"type": "Lowercase"}), "normalizer \"Lowercase\""),
        ("/normalizer", json!("NFC"), "`normalizer` is not as in"),
        ("/pre_tokenizer", Value::Null, "a pre_tokenizer without ByteLevel"),
        ("/pre_tokenizer", json!({"type": "Metaspace"}), "pre_tokenizer \"Metaspace\""),
        (CUT, json!({"type": "ByteLevel"}), "after ByteLevel, pre_tokenizer \"ByteLevel\""),
        (CUT, split(r"a(?=b)"), "the syntax of the pre_tokenizer's pattern"),
        (CUT, split(r"(?i)a|\s+(?!\S)"), "a flag beside a look-ahead"),
        (CUT, split(r"\p{L}++"), "a possessive quantifier"),
        (CUT, split(r"(\p{L}{999}){999}"), "the size of the pre_tokenizer's pattern"),
        (CUT, json!({"type": "Split", "behavior": "Isolated"}), "a Split without pattern"),
        (CUT, json!({"type": "Split", "behavior": "Contiguous"}), "behavior \"Contiguous\""),
        ("/added_tokens/0/single_word", json!(true), "single_word of added token"),
    ] {
        let error = changed(&[(path, value)]).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error} for {path}, not {expected}");
    }
    for (text, expected) in [
        ("", "it is not as in a tokenizer.json (line 1, column 0 of it)"),
        ("{}", "it is not as in a tokenizer.json"),
        ("[core]\nname = planted", "it is not as in a tokenizer.json (line 1"),
    ] {
        let error = Tokenizer::from_json("file:x", text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains("planted"), "{error}");
    }
}

/// Were any step of this quadratic in the length, it would take hours.
#[test]
fn a_long_text_of_one_sort_takes_no_longer_than_another() {
    const MANY: usize = 1 << 20;
    let tides = changed(&[("/normalizer", json!({"type": "NFC"}))]).unwrap();
    for (unit, tokens) in [
        ("o", MANY / 2),
        ("x", MANY),
        (" ", MANY / 4),
        ("\n", MANY),
        ("\n ", 2 * MANY),
        ("1", MANY),
        ("!", MANY),
        (" tide", MANY),
        ("\u{6f6e}", MANY),
        ("\u{301}", 2 * MANY),
        ("<|end", 5 * MANY),
        ("<|end|>", MANY),
    ] {
        let counted = tides.count(&unit.repeat(MANY));
        assert_eq!(counted, tokens as u64, "{unit:?}");
    }
}

#[test]
fn two_are_the_same_if_they_came_from_the_same_place() {
    let read = |reference| Tokenizer::from_json(reference, TIDES.as_bytes()).unwrap();
    assert_eq!(read("file:a"), read("file:a"));
    assert_ne!(read("file:a"), read("file:b"));
    assert_ne!(read("file:a"), Tokenizer::O200k);
    let file = read("file:a");
    assert_eq!(
        (file.as_str(), format!("{file:?}")),
        ("file:a", "File(TokenizerFile(file:a))".into())
    );
}

proptest! {
    /// No file and no text is too odd, and no byte makes more than one token: its own, or that of a
    /// space which the file asks for before every piece.
    #[test]
    fn broken_files_are_refused_or_count(
        cut in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        text in ".{0,40}",
    ) {
        let mut bytes = TIDES.as_bytes().to_vec();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        // Whole, every other time.
        bytes.truncate((2 * cut.index(bytes.len())).min(bytes.len()));
        if let Ok(tokenizer) = Tokenizer::from_json("file:broken", &bytes) {
            prop_assert!(tokenizer.count(&text) <= 2 * text.len() as u64 + 1);
        }
    }

    /// Marks that mean something to expressions, put together at random.
    #[test]
    fn odd_expressions_are_refused_or_cut(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "(", ")", "[", "]", "|", "+", "?", "*", "{2}", "\\", "\\s", "\\p{L}", "^", "$", "(?:",
                "(?!", "a", " ", "\\s+(?!\\S)", "|\\s+(?!\\S)|", "&&", "\u{6f6e}", "(?i)",
            ]),
            0..8,
        ),
        text in "[a \n\u{6f6e}]{0,20}",
    ) {
        let split = json!({"type": "Split", "pattern": {"Regex": parts.concat()}, "behavior": "Isolated"});
        if let Ok(tokenizer) = changed(&[("/pre_tokenizer/pretokenizers/0", split)]) {
            prop_assert!(tokenizer.count(&text) <= text.len() as u64);
        }
    }
}
