use proptest::prelude::*;

use super::*;

fn counts(text: &str) -> [u64; Texture::COUNTS] {
    let mut texture = Texture::default();
    texture.add(text.as_bytes());
    texture.counts
}

#[test]
fn a_text_is_counted_by_what_it_is_made_of() {
    for (text, expected) in [
        ("", [0; 14]),
        ("two words", [2, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("six_words sevenths", [3, 1, 16, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0]),
        ("camelCaseNAME", [1, 1, 13, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("1234 567", [0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("{[]}, \"", [0, 0, 0, 0, 0, 6, 2, 0, 0, 0, 0, 0, 0, 0]),
        ("a  b\n\t\r\n c d\n", [4, 0, 4, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0]),
        ("é日かア한“🌊", [0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 1, 1, 1, 1]),
    ] {
        assert_eq!(counts(text), expected, "{text:?}");
    }
}

#[test]
fn a_long_text_counts_as_its_parts_do() {
    let line = "The harbour clocks had stopped, and \"nobody\" in the office could say why.\n";
    let (one, many) = (counts(line), counts(&line.repeat(400)));
    for (one, many) in one.into_iter().zip(many) {
        assert!(many.abs_diff(one * 400) <= 8, "{one} {many}");
    }
}

proptest! {
    /// No count exceeds the bytes, and none is lost where spans and lanes meet.
    #[test]
    fn every_byte_is_seen(text in "[a-zA-Z0-9 .,\n日é]{0,1500}") {
        let counts = counts(&text);
        let bytes = text.len() as u64;
        prop_assert!(counts.iter().all(|count| *count <= bytes));
        let of = |keep: fn(&char) -> bool| text.chars().filter(keep).count() as u64;
        prop_assert_eq!(counts[LETTER], of(char::is_ascii_alphabetic));
        prop_assert_eq!(counts[MARKS], of(char::is_ascii_punctuation));
        prop_assert_eq!(counts[LETTER2 + 2], of(|c| *c == '日'));
    }
}
