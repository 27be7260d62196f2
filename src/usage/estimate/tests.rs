use proptest::prelude::*;
use serde_json::json;

use super::super::demand::PromptWeight;
use super::super::encoding::BodyKind;
use super::*;

/// Texts and how many tokens they are: the larger of the counts by `o200k_base` and `cl100k_base`.
const COUNTED: [(&str, u64, &str); 15] = [
    (
        "English prose",
        42,
        r#"It was a bright cold day in late April, and the harbour clocks had all stopped at different hours. Nobody in the office of the tide tables could say why, though the oldest clerk suspected the gulls."#,
    ),
    (
        "German prose",
        56,
        r#"Der Wasserstandsanzeiger am Fischereihafen zeigte über Nacht außergewöhnlich niedrige Werte, weshalb die Schleusenwärter vorsichtshalber die Straßenbrücke sperrten."#,
    ),
    (
        "Rust code",
        57,
        "fn next(&mut self) -> Option<u64> {\n    let (head, tail) = self.items.split_first()?;\n    self.items = tail;\n    if *head % 2 == 0 { Some(head / 2) } else { self.next() }\n}\n",
    ),
    (
        "minified JavaScript",
        55,
        r#"!function(e,t){for(var n=0,r=e.length;n<r;n++){var o=e[n];o.x=o.x>>>1^t[o.y&15],o.z||(o.z={a:[],b:!0})}}(q,w);"#,
    ),
    (
        "Chinese prose",
        59,
        r#"港口的钟在不同的时刻停了下来，潮汐表办公室里没有人能说明原因，只有最年长的职员怀疑是海鸥干的。"#,
    ),
    (
        "Japanese prose",
        69,
        r#"港の時計はみな違う時刻で止まっていた。潮汐表の係の誰にも理由は分からなかったが、一番年上の書記だけはカモメを疑っていた。"#,
    ),
    (
        "Korean prose",
        58,
        r#"항구의 시계들은 모두 다른 시각에 멈춰 있었다. 조석표 사무실의 누구도 그 까닭을 알지 못했다."#,
    ),
    (
        "Arabic prose",
        63,
        r#"توقفت ساعات الميناء كلها عند أوقات مختلفة، ولم يستطع أحد في مكتب جداول المد أن يقول لماذا."#,
    ),
    (
        "JSON",
        73,
        r#"{"tide":[{"at":"2031-04-05T06:07:08Z","level_mm":-1234,"ok":true},{"at":"2031-04-05T12:19:44Z","level_mm":4821,"ok":false}],"port":"N\u00e4s","id":90210}"#,
    ),
    (
        "base64",
        141,
        r#"OLTmUuRNp/I3DZ4mDicTZVCko6bQf1wMMy+LEiQIP9IrkC+JEegYGPjJnV1dmDGVdQTZDpRd4uj1TueBzHX2NthQmQlaowAWWmcDb5tUDWuPC+IRJBecPdn3OBfObhGNJkqtbLbdIQ+vlKzTz5LBkCN8sR9dEIzyWTAmOTizcKG1dp+g8Ug/lakNnfLxMNYPzwS9k+aV"#,
    ),
    (
        "hexadecimal",
        113,
        r#"14da8c659ce2b10cccdaebf990d19838b0d7ec0b3e97818ecb96c4dbadbe172296d5234a42b24c6ba4e6ed24ec636a8ac0a1271e5866279238aaf84e58056d8f2fa8edd094ba97ae8b15442ee2db611a91bfe39469733a9247d58fa3c55018300372555f"#,
    ),
    (
        "digits",
        67,
        r#"18190937865797543231948757491186252760189555979711471049746507529170342366712768426846563212233079244026859952890786666176031372159010928159013962459571177774121547280385280841485253888539336338750047"#,
    ),
    ("emoji", 53, r#"🌊⚓🐦🕰️🚢🙂👩‍🚀🧜🏽‍♀️🏴‍☠️🦑🪼🫧"#),
    (
        "random letters",
        135,
        r#"ljXzpsKZppdkfktjnjtzzVbt pK dVQfqKXJjthrK ndKZqsqZdZhhgbgxsK gzVztQpgwwgbbKZ fvZgrjVjbljmvkJxnlwrVgcZpsQxVvrVvgwgvvbsJhzbJKghgtzZfwcnQvvwtKJfwckjlcJfvswbJdsnzvzvjXlsvwKtvkXvlwjVsgrfqsndQkrdjQmKfJgX Qp"#,
    ),
    (
        "punctuation",
        76,
        r#"{}[]();,.<>!?@#$%^&*-+=|~`\/":'_{}[]();,.<>!?@#$%^&*-+=|~`\/":'_{}[]();,.<>!?@#$%^&*-+=|~`\/":'_{}[]();,.<>!?@#$%^&*-+=|~`\/":'_"#,
    ),
];

/// The samples that are what people write; the others are what machines do.
const WRITTEN: [&str; 9] = [
    "English prose",
    "German prose",
    "Rust code",
    "minified JavaScript",
    "Chinese prose",
    "Japanese prose",
    "Korean prose",
    "Arabic prose",
    "JSON",
];

fn rule(milli: u64) -> EstimateRule {
    EstimateRule {
        prompt_bytes_per_token_milli: NonZeroU64::new(milli).unwrap(),
        per_message: 0,
        per_request: 0,
        per_image: 0,
        per_other_part: 0,
        output_default: 0,
        output_cap: None,
    }
}

fn demand(prompt: PromptWeight) -> Demand {
    Demand {
        model: "m".to_owned(),
        stream: false,
        choices: 1,
        prompts: 1,
        output_limit: OutputLimit::Unlimited,
        service_tier: None,
        prompt,
    }
}

/// The prompt estimate of one message with this text, by its bytes alone.
fn text_estimate(text: &str, milli: u64) -> u64 {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": text}]}).to_string();
    let kind = BodyKind::from_headers(None, None).unwrap();
    rule(milli).estimate(&Demand::read(kind, body.as_bytes(), 1 << 20).unwrap()).prompt
}

/// Two bytes a token bound what people write; machine-made text needs 1.4, and says so here.
#[test]
fn sample_texts_stay_below_their_estimate() {
    for (name, tokens, text) in COUNTED {
        assert!(text_estimate(text, 1_000) >= tokens, "{name} at 1");
        assert!(text_estimate(text, 1_400) >= tokens, "{name} at 1.4");
        let weight = PromptWeight { text_bytes: text.len() as u64, ..PromptWeight::default() };
        assert!(rule(1_400).least(&demand(weight)).prompt <= tokens, "{name} at the least");
        if WRITTEN.contains(&name) {
            assert!(text_estimate(text, 2_000) >= tokens, "{name} at 2");
        }
    }
    assert!(text_estimate(COUNTED[9].2, 2_000) < COUNTED[9].1, "base64 is denser than 2");
}

#[test]
fn an_estimate_adds_up() {
    let rule = EstimateRule {
        prompt_bytes_per_token_milli: NonZeroU64::new(2_500).unwrap(),
        per_message: 10,
        per_request: 100,
        per_image: 1_000,
        per_other_part: 10_000,
        output_default: 50,
        output_cap: Some(70),
    };
    let weight = PromptWeight {
        text_bytes: 6,
        messages: 2,
        images: 3,
        other_parts: 1,
        tools: 4,
        token_ids: 7,
        ..PromptWeight::default()
    };
    let mut demand = demand(weight);
    let prompt = 3 + 7 + (2 + 4) * 10 + 100 + 3_000 + 10_000;
    assert_eq!(rule.estimate(&demand), Estimate { prompt, output: 50 });
    (demand.choices, demand.prompts) = (3, 2);
    for (limit, each) in [
        (OutputLimit::Unlimited, 50),
        (OutputLimit::Tokens(0), 0),
        (OutputLimit::Tokens(60), 60),
        (OutputLimit::Tokens(71), 70),
    ] {
        demand.output_limit = limit;
        let expected = Estimate { prompt: prompt + 100, output: each * 6 };
        assert_eq!(rule.estimate(&demand), expected, "{limit:?}");
        assert_eq!(expected.total(), prompt + 100 + each * 6);
    }
    let capped = EstimateRule { output_cap: Some(40), ..rule };
    demand.output_limit = OutputLimit::Unlimited;
    assert_eq!(capped.estimate(&demand).output, 240, "the cap holds for the default too");
}

#[test]
fn the_heaviest_demand_saturates() {
    let most = u64::MAX;
    let weight = PromptWeight {
        text_bytes: most,
        messages: most,
        images: most,
        other_parts: most,
        tools: most,
        token_ids: most,
        ..PromptWeight::default()
    };
    let heaviest = Demand {
        choices: most,
        prompts: most,
        output_limit: OutputLimit::Tokens(most),
        ..demand(weight)
    };
    let estimate = rule(1).estimate(&heaviest);
    assert_eq!(estimate, Estimate { prompt: most, output: most });
    assert_eq!(estimate.total(), most);
}

/// The counts of a demand in one array, so that one of them can be picked and raised.
fn from_counts(counts: [u64; 9]) -> Demand {
    let [text_bytes, messages, images, other_parts, tools, token_ids, choices, prompts, tokens] =
        counts;
    Demand {
        choices,
        prompts,
        output_limit: OutputLimit::Tokens(tokens),
        ..demand(PromptWeight {
            text_bytes,
            messages,
            images,
            other_parts,
            tools,
            token_ids,
            ..PromptWeight::default()
        })
    }
}

proptest! {
    /// Asking for more of anything never lowers the estimate.
    #[test]
    fn more_is_never_estimated_at_less(
        counts in prop::array::uniform9(any::<u64>().prop_map(|n| n >> (n % 64))),
        which in 0..9_usize,
        more in any::<u64>().prop_map(|n| n >> (n % 64)),
        weights in prop::array::uniform5(0..5_000_u64),
        milli in 1..10_000_u64,
        output_cap in prop::option::of(any::<u64>()),
    ) {
        let [per_message, per_request, per_image, per_other_part, output_default] = weights;
        let rule = EstimateRule {
            per_message, per_request, per_image, per_other_part, output_default, output_cap,
            ..rule(milli)
        };
        let less = rule.estimate(&from_counts(counts));
        let mut raised = counts;
        raised[which] = raised[which].saturating_add(more);
        let more = rule.estimate(&from_counts(raised));
        prop_assert!(more.prompt >= less.prompt && more.output >= less.output);
        prop_assert!(more.total() >= less.total());
    }

    /// At one byte a token, no way of cutting a text into tokens exceeds its estimate; at any
    /// other rate the estimate is the exact quotient, rounded up.
    #[test]
    fn text_rounds_up_from_its_bytes(text in any::<String>(), milli in 1..10_000_u64) {
        prop_assert_eq!(text_estimate(&text, 1_000), text.len() as u64);
        let estimate = text_estimate(&text, milli);
        let bytes_milli = text.len() as u64 * 1000;
        prop_assert!(estimate * milli >= bytes_milli);
        prop_assert!(estimate == 0 || (estimate - 1) * milli < bytes_milli);
    }
}
