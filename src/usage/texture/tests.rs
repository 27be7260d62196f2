use proptest::prelude::*;

use super::*;

fn counts(text: &str) -> [u64; Texture::COUNTS] {
    let mut counter = Counter::default();
    counter.add(text.as_bytes());
    counter.finish().counts
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
fn a_counter_shows_nothing_of_a_text() {
    let mut counter = Counter::default();
    counter.add(b"AAAA");
    let shown = format!("{counter:?}");
    assert!(!shown.contains("65, 65") && !shown.contains("AA"), "{shown}");
}

/// What a text is made of, told byte by byte.
fn told(text: &[u8]) -> [u64; Texture::COUNTS] {
    let mut counts = [0; Texture::COUNTS];
    let (mut letters, mut digits, mut in_marks, mut blanks) = (0, 0, false, Vec::new());
    // The end of a text ends what it ends with.
    for byte in text.iter().copied().chain([0]) {
        letters = if byte.is_ascii_alphabetic() { letters + 1 } else { 0 };
        counts[WORD] += u64::from(letters == 1);
        counts[LONG] += u64::from(letters == 7);
        counts[LETTER] += u64::from(letters > 0);
        counts[HUMP] += u64::from(letters > 1 && byte.is_ascii_uppercase());
        digits = if byte.is_ascii_digit() { digits + 1 } else { 0 };
        counts[GROUP] += u64::from(digits % 3 == 1);
        let mark = byte.is_ascii_punctuation();
        counts[MARKS] += u64::from(mark);
        counts[MARK_RUN] += u64::from(mark && !in_marks);
        in_marks = mark;
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            blanks.push(byte);
        } else {
            counts[BLANK] += u64::from(!matches!(blanks[..], [] | [b' ']));
            blanks.clear();
        }
        match byte {
            0xC0..=0xDF => counts[LETTER2] += 1,
            0xE3 => counts[KANA] += 1,
            0xE4..=0xE9 => counts[IDEOGRAPH] += 1,
            0xEA..=0xED => counts[HANGUL] += 1,
            0xE0..=0xE2 | 0xEE..=0xEF => counts[LETTER3] += 1,
            0xF0..=0xFF => counts[LETTER4] += 1,
            _ => {}
        }
    }
    counts
}

/// The instructions that this machine has, from those that all of its kind have.
fn levels() -> Vec<Level> {
    let level = Level::new();
    let mut levels = vec![level, Level::baseline()];
    #[cfg(target_arch = "x86_64")]
    {
        levels.extend(level.as_sse4_2().map(Level::Sse4_2));
        levels.extend(level.as_avx2().map(Level::Avx2));
    }
    levels
}

#[test]
fn a_long_text_counts_as_its_parts_do() {
    let line = "The harbour clocks had stopped, and \"nobody\" in the office could say why.\n";
    assert_eq!(counts(&line.repeat(400)), counts(line).map(|count| count * 400));
}

proptest! {
    /// Whatever a text is made of, and wherever blocks meet in it, each instruction set counts it as one
    /// who reads it does; and many texts one by one.
    #[test]
    fn every_machine_counts_what_there_is(
        parts in prop::collection::vec(
            prop_oneof![
                4 => prop_oneof![
                    "[a-zA-Z0-9 .,_\\-\n日é]{0,90}",
                    "[a-zA-Z]{1,20}( |\n)",
                    "[0-9]{1,150}",
                    "[ \t\r\n]{0,70}",
                    "[!-/]{1,70}",
                    "\\PC{0,40}",
                ]
                .prop_map(String::into_bytes),
                1 => prop::collection::vec(any::<u8>(), 0..100),
            ],
            0..12,
        ),
    ) {
        let text = parts.concat();
        let mut apart = [0; Texture::COUNTS];
        for part in &parts {
            apart.iter_mut().zip(told(part)).for_each(|(sum, count)| *sum += count);
        }
        for level in levels() {
            let mut texture = Texture::default();
            texture.add(level, &text);
            prop_assert_eq!(texture.counts, told(&text), "{:?}", level);
            let mut counter = Counter::with(level);
            parts.iter().for_each(|part| counter.add(part));
            prop_assert_eq!(counter.finish().counts, apart, "{:?}, apart", level);
        }
    }
}
