use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::usage::{BodyKind, Tokenizer};

const RULE: EstimateRule = EstimateRule::assumed(16_384);

fn demand(text: &str) -> Demand {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": text}]}).to_string();
    let kind = BodyKind::from_headers(None, None).unwrap();
    Demand::read(kind, body.as_bytes(), 1 << 24).unwrap()
}

fn lesson(prompt: u64, completion: u64) -> Lesson {
    let usage = Usage { prompt, completion, total: prompt + completion, cached: 0 };
    Lesson { usage, counted: None, cut: false }
}

/// Prose of so many words, none like the last.
fn prose(words: u64) -> String {
    const WORDS: [&str; 8] =
        ["harbour", "clocks", "had", "stopped", "at", "different", "hours", "yesterday"];
    let word = |n: u64| WORDS[usize::try_from((n * n + n / 3) % 8).unwrap()];
    (0..words).map(word).collect::<Vec<_>>().join(" ")
}

/// As a tokenizer might count prose: seven of framing, a word each, now and then one more.
fn count(words: u64) -> u64 {
    7 + words + words / 10
}

fn taught(answers: u64) -> Calibration {
    let mut calibration = Calibration::default();
    for n in 0..answers {
        let words = 50 + n * 37 % 900;
        calibration.learn(&demand(&prose(words)), lesson(count(words), 100 + n % 50));
    }
    calibration
}

#[test]
fn the_rule_holds_until_enough_is_known_and_for_what_is_new() {
    let text = demand(&prose(500));
    let safe = RULE.estimate(&text).prompt;
    assert_eq!(taught(ENOUGH - 1).prompt(&RULE, &text, None), safe);
    let bound = taught(50).prompt(&RULE, &text, None);
    assert!((count(500)..count(500) * 11 / 10).contains(&bound), "{bound}, safe {safe}");
    // Nothing was learned of these: they are held as before.
    let pictures =
        "iVBORw0KGgoAAAANSUhEUgAAAfQAAAH0CAYAAADL1t+KAAAACXBIWXMAAAsTAAALEwEAmpwY".repeat(20);
    for other in ["港口的钟在不同的时刻停了下来。".repeat(50), pictures] {
        let other = demand(&other);
        assert_eq!(taught(50).prompt(&RULE, &other, None), RULE.estimate(&other).prompt);
    }
    // Prose with a little of something else is held for both.
    let mixed = demand(&format!("{}{}", prose(500), "🌊".repeat(100)));
    let with_waves = taught(50).prompt(&RULE, &mixed, None);
    assert!(with_waves >= count(500) + 300, "{with_waves}");
}

#[test]
fn pictures_and_tokens_by_number_are_added_and_teach_nothing() {
    let mut calibration = taught(50);
    let mut with_parts = demand(&prose(500));
    with_parts.prompt.images = 1;
    with_parts.prompt.token_ids = 11;
    let plain = calibration.prompt(&RULE, &demand(&prose(500)), None);
    assert_eq!(calibration.prompt(&RULE, &with_parts, None), plain + 3_000 + 11);
    calibration.learn(&with_parts, lesson(90_000, 1));
    assert_eq!(calibration.prompt(&RULE, &demand(&prose(500)), None), plain);
}

#[test]
fn an_upstream_that_counts_more_is_followed_beyond_the_rule() {
    let mut calibration = taught(200);
    for n in 0..1_500 {
        let words = 50 + n * 37 % 900;
        calibration.learn(&demand(&prose(words)), lesson(count(words) * 8, 1));
    }
    let text = demand(&prose(500));
    assert!(RULE.estimate(&text).prompt < count(500) * 8, "the rule is too low here");
    let bound = calibration.prompt(&RULE, &text, None);
    assert!(bound >= count(500) * 8 && bound < count(500) * 9, "{bound}");
}

#[test]
fn a_count_by_another_tokenizer_is_worth_what_was_learned_of_it() {
    let kind = BodyKind::from_headers(None, None).unwrap();
    let mut calibration = Calibration::default();
    let mut rng = fastrand::Rng::with_seed(5);
    let mut text = || -> String {
        let letters = (0..rng.usize(500..4_000)).map(|_| rng.alphanumeric());
        letters.enumerate().map(|(n, c)| if n % 9 == 0 { ' ' } else { c }).collect()
    };
    let counted = |text: &str| {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": text}]});
        Tokenizer::O200k.count_prompt(kind, body.to_string().as_bytes(), 1 << 20).unwrap()
    };
    for _ in 0..40 {
        let text = text();
        let hint = counted(&text);
        let lesson = Lesson { counted: Some(hint), ..lesson(hint * 9 / 10 + 9, 1) };
        calibration.learn(&demand(&text), lesson);
    }
    let text = text();
    let (hint, demand) = (counted(&text), demand(&text));
    let (by_text, by_count) =
        (calibration.prompt(&RULE, &demand, None), calibration.prompt(&RULE, &demand, Some(hint)));
    let actual = hint * 9 / 10 + 9;
    assert!((actual..=actual * 104 / 100).contains(&by_count), "{by_count} for {actual}");
    assert!(by_count <= by_text && by_text < RULE.estimate(&demand).prompt, "{by_text}");
    assert_eq!(calibration.summary().counted, 40);
}

#[test]
fn what_is_fair_is_what_is_likely_and_not_what_is_safe() {
    let mut text = demand(&prose(500));
    let unknown = Calibration::default().fair(&RULE, &text);
    assert!(unknown >= 16_384, "all that is reserved");
    let calibration = taught(60);
    let fair = calibration.fair(&RULE, &text);
    assert!(fair.abs_diff(count(500) + 124) <= 15, "{fair}");
    text.output_limit = OutputLimit::Tokens(10);
    text.choices = 3;
    assert!(calibration.fair(&RULE, &text).abs_diff(count(500) + 30) <= 15);
}

proptest! {
    /// Whatever answers say, bounds stay whole numbers, at least what is likely, and at most the
    /// rule's where the rule was never contradicted.
    #[test]
    fn nothing_breaks_it(
        answers in prop::collection::vec((any::<String>(), any::<u64>(), any::<u64>(), any::<bool>()), 0..60),
        text in any::<String>(),
        counted in prop::option::of(any::<u64>()),
    ) {
        let mut calibration = Calibration::default();
        for (text, prompt, completion, cut) in answers {
            let usage = Usage { prompt, completion, total: prompt, cached: 0 };
            calibration.learn(&demand(&text), Lesson { usage, counted: Some(completion), cut });
        }
        let _ = calibration.prompt(&RULE, &demand(&text), counted);
        let _ = calibration.fair(&RULE, &demand(&text));
    }

    /// As long as answers keep to the rule, so does the bound.
    #[test]
    fn the_rule_is_never_exceeded_without_need(words in prop::collection::vec(1..2_000_u64, 8..80)) {
        let mut calibration = Calibration::default();
        for words in words {
            let text = demand(&prose(words));
            prop_assert!(calibration.prompt(&RULE, &text, None) <= RULE.estimate(&text).prompt);
            calibration.learn(&text, lesson(count(words), 1));
        }
    }
}
