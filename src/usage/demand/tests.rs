use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::encoding::{Coding, Format};
use super::*;

const JSON: BodyKind = BodyKind { format: Format::Json, coding: Coding::Identity };
const PACK: BodyKind = BodyKind { format: Format::MsgPack, coding: Coding::Identity };
const MAX: usize = 1 << 20;

fn read(text: &str) -> Result<Demand, BodyError> {
    Demand::read(JSON, text.as_bytes(), MAX)
}

/// Reads a body as JSON and as MessagePack, packed and not, and checks that all agree.
fn read_each_way(body: &Value) -> Demand {
    let text = body.to_string().into_bytes();
    let pack = rmp_serde::to_vec_named(body).unwrap();
    let demand = Demand::read(JSON, &text, MAX).unwrap();
    for (format, plain) in [(Format::Json, text), (Format::MsgPack, pack)] {
        let identity = BodyKind { format, coding: Coding::Identity };
        assert_eq!(Demand::read(identity, &plain, MAX).as_ref(), Ok(&demand));
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&plain).unwrap();
        let gzip = gzip.finish().unwrap();
        let kind = BodyKind { format, coding: Coding::Gzip };
        assert_eq!(Demand::read(kind, &gzip, MAX).as_ref(), Ok(&demand));
    }
    demand
}

fn weight(body: &Value) -> PromptWeight {
    let mut body = body.clone();
    body["model"] = json!("m");
    without_texture(read_each_way(&body).prompt)
}

/// What a text is made of is tested where it is counted.
fn without_texture(weight: PromptWeight) -> PromptWeight {
    PromptWeight { structure: 0, texture: Texture::default(), ..weight }
}

#[test]
fn a_chat_request_is_read_whole() {
    let mut demand = read_each_way(&json!({
        "messages": [
            {"role": "system", "content": "12345"},
            {"role": "user", "name": "bob", "content": [{"type": "text", "text": "héé"}]},
        ],
        "model": "some-model", "stream": true, "n": 2, "best_of": 3, "max_completion_tokens": 77,
        "service_tier": "flex", "temperature": 0.5, "stop": ["x"], "user": "someone",
    }));
    demand.prompt = without_texture(demand.prompt);
    let prompt = PromptWeight { text_bytes: 5 + 3 + 5, messages: 2, ..PromptWeight::default() };
    assert_eq!(
        demand,
        Demand {
            model: "some-model".to_owned(),
            stream: true,
            choices: 3,
            prompts: 1,
            output_limit: OutputLimit::Tokens(77),
            service_tier: Some(ServiceTier::Flex),
            prompt,
        }
    );
}

#[test]
fn what_is_absent_or_null_has_its_default() {
    let bare = read_each_way(&json!({"model": "m"}));
    assert_eq!(
        bare,
        Demand {
            model: "m".to_owned(),
            stream: false,
            choices: 1,
            prompts: 1,
            output_limit: OutputLimit::Unlimited,
            service_tier: None,
            prompt: PromptWeight::default(),
        }
    );
    let nulls = json!({"model": "m", "stream": null, "n": null, "best_of": null, "max_tokens": null,
        "max_completion_tokens": null, "service_tier": null, "messages": null, "prompt": null,
        "tools": null, "functions": null, "response_format": null, "prediction": null});
    assert_eq!(read_each_way(&nulls), bare);
}

#[test]
fn output_limits_are_read_under_both_names() {
    use OutputLimit::{Tokens, Unlimited};
    for (fields, expected) in [
        (r#""max_tokens":5"#, Ok(Tokens(5))),
        (r#""max_completion_tokens":0"#, Ok(Tokens(0))),
        (r#""max_tokens":-1"#, Ok(Unlimited)),
        (r#""max_tokens":-1.0"#, Ok(Unlimited)),
        (r#""max_tokens":100.0"#, Ok(Tokens(100))),
        (r#""max_tokens":9007199254740992"#, Ok(Tokens(1 << 53))),
        (r#""max_tokens":5,"max_completion_tokens":5"#, Ok(Tokens(5))),
        (r#""max_tokens":null,"max_completion_tokens":5"#, Ok(Tokens(5))),
        (r#""max_tokens":-1,"max_completion_tokens":null"#, Ok(Unlimited)),
        (r#""max_tokens":4,"max_completion_tokens":5"#, Err("max_tokens")),
        (r#""max_tokens":-1,"max_completion_tokens":5"#, Err("max_tokens")),
        (r#""max_tokens":-2"#, Err("max_tokens")),
        (r#""max_completion_tokens":1.5"#, Err("max_completion_tokens")),
        (r#""max_tokens":9007199254740993"#, Err("max_tokens")),
        (r#""max_tokens":18446744073709551616"#, Err("max_tokens")),
        (r#""max_tokens":-9223372036854775808"#, Err("max_tokens")),
        (r#""max_tokens":1e300"#, Err("max_tokens")),
        (r#""max_tokens":"5""#, Err("max_tokens")),
        (r#""max_tokens":true"#, Err("max_tokens")),
        (r#""max_tokens":[5]"#, Err("max_tokens")),
        (r#""max_tokens":{"a":5}"#, Err("max_tokens")),
        (r#""max_tokens":5,"max_tokens":5"#, Err("max_tokens")),
        (r#""max_tokens":5,"max\u005ftokens":5"#, Err("max_tokens")),
    ] {
        let demand = read(&format!(r#"{{"model":"m",{fields}}}"#));
        let seen = demand.map(|demand| demand.output_limit).map_err(|error| error.param());
        assert_eq!(seen, expected, "{fields}");
    }
}

/// What cannot be read is refused, and the refusal names the field and quotes nothing.
#[test]
fn a_bad_field_is_refused_by_name() {
    let long = format!(r#"{{"model":"{}"}}"#, "x".repeat(257));
    for (body, param) in [
        (r"{}", "model"),
        (r#"{"model":""}"#, "model"),
        (r#"{"model":null}"#, "model"),
        (r#"{"model":7}"#, "model"),
        (r#"{"model":["sesame"]}"#, "model"),
        (r#"{"model":"a\nsesame"}"#, "model"),
        (r#"{"model":"\u0085"}"#, "model"),
        (long.as_str(), "model"),
        (r#"{"model":"m","model":"sesame"}"#, "model"),
        (r#"{"model":"m","stream":"sesame"}"#, "stream"),
        (r#"{"model":"m","stream":1}"#, "stream"),
        (r#"{"model":"m","stream":true,"stream":false}"#, "stream"),
        (r#"{"model":"m","n":0}"#, "n"),
        (r#"{"model":"m","n":-1}"#, "n"),
        (r#"{"model":"m","n":1025}"#, "n"),
        (r#"{"model":"m","n":1.5}"#, "n"),
        (r#"{"model":"m","n":"sesame"}"#, "n"),
        (r#"{"model":"m","best_of":[]}"#, "best_of"),
        (r#"{"model":"m","service_tier":5}"#, "service_tier"),
        (r#"{"model":"m","messages":["sesame"],"messages":[]}"#, "messages"),
        (r#"{"model":"m","prompt":"sesame","prompt":""}"#, "prompt"),
        (r#"{"model":"m","tools":[],"tools":[]}"#, "tools"),
        (r"[]", ""),
        (r#""sesame""#, ""),
        (r"null", ""),
    ] {
        let error = read(body).unwrap_err();
        assert_eq!(error.param(), param, "{body}: {error}");
        let text = error.to_string();
        assert!(!text.contains("sesame") && text.contains(param), "{text}");
    }
}

#[test]
fn a_refusal_reads_well() {
    for (body, text) in [
        (r"{}", "`model` is required"),
        (r#"{"model":"m","n":0}"#, "`n` must be a whole number from 1 to 1024"),
        (r#"{"model":"m","n":1,"n":1}"#, "`n` is given twice"),
        (r"[]", "the body must be a JSON object"),
        (
            "{\"model\":\n \"m\",}",
            "the body is not valid JSON, or nested too deeply (line 2, column 6)",
        ),
        (
            r#"{"model":"m","max_tokens":-5}"#,
            "`max_tokens` must be a whole number from 0 to 2^53, or -1 for no limit",
        ),
    ] {
        assert_eq!(read(body).unwrap_err().to_string(), text);
    }
}

#[test]
fn a_document_must_be_whole_and_alone() {
    let good = r#"{"model":"m","messages":[{"content":"a\u00e9\ud83d\ude00"}]}"#;
    assert!(read(good).is_ok() && read(&format!(" {good}\n")).is_ok());
    for end in 0..good.len() {
        assert!(matches!(read(&good[..end]), Err(BodyError::Json { .. })), "{}", &good[..end]);
    }
    for bad in [
        format!("{good}x"),
        format!("{good}{good}"),
        format!("\u{feff}{good}"),
        good.replace("ud83d", "ud83e_"),
        good.replace(r"\ude00", ""),
        good.replace(':', "="),
        good.replace('a', "\n"),
    ] {
        assert!(matches!(read(&bad), Err(BodyError::Json { .. })), "{bad}");
    }
    let latin = b"{\"model\":\"m\",\"user\":\"\xe9\"}";
    assert_eq!(Demand::read(JSON, latin, MAX), Err(BodyError::NotUtf8));
}

#[test]
fn a_messagepack_document_must_be_whole_and_alone() {
    let pack = |value: &Value| rmp_serde::to_vec_named(value).unwrap();
    let good = pack(&json!({"model": "m", "messages": [{"content": "abc"}], "n": 2, "x": [1, 2]}));
    assert!(Demand::read(PACK, &good, MAX).is_ok());
    for end in 0..good.len() {
        assert_eq!(Demand::read(PACK, &good[..end], MAX), Err(BodyError::MsgPack), "{end}");
    }
    // The last four: an unused marker, and openings that want more than there is.
    for tail in [&[0x00][..], &[0xc0], &[0xc1], &[0x91], &[0x81], &[0xdd, 255, 255, 255, 255]] {
        let bad = [good.as_slice(), tail].concat();
        assert_eq!(Demand::read(PACK, &bad, MAX), Err(BodyError::MsgPack), "{tail:x?}");
    }
    for (bad, text) in [
        (pack(&json!([1])), "the body must be a MessagePack map"),
        (pack(&json!({"model": "m", "n": "sesame"})), "`n` must be a whole number from 1 to 1024"),
        (
            b"\x81\xa5model\xc4\x01m".to_vec(),
            "`model` must be a name of 1 to 256 bytes without control characters",
        ),
        (b"\x82\xa5model\xa1m\xc4\x05model\xa1n".to_vec(), "`model` is given twice"),
        (
            b"\x82\xa5model\xa1m\xa6prompt\xa1\xff".to_vec(),
            "the body is not valid MessagePack, or nested too deeply",
        ),
        (
            b"\x82\xa5model\xa1m\xa6prompt\xc4\x01\xff".to_vec(),
            "`prompt` must be made of text, numbers, lists and objects",
        ),
    ] {
        assert_eq!(Demand::read(PACK, &bad, MAX).unwrap_err().to_string(), text, "{bad:x?}");
    }
    // A key that is none is not the fault of the field before it.
    let keyless = b"\x83\xa5model\xa1m\xa1n\x02\xc0\x05".to_vec();
    let error = Demand::read(PACK, &keyless, MAX).unwrap_err();
    assert_eq!(error, BodyError::NotAnObject { format: Format::MsgPack });
    // Keys and values that only MessagePack has, where nobody reads them.
    let odd = b"\x84\xa5model\xa1m\x01\x02\xff\xd4\x05\x00\xa1x\xc4\x02\xff\xfe".to_vec();
    assert!(Demand::read(PACK, &odd, MAX).is_ok());
}

#[test]
fn depth_is_bounded() {
    for depth in [127, 1_000, 200_000] {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        for field in ["messages", "tools", "prompt", "response_format"] {
            let body = format!(r#"{{"model":"m","{field}":{open}{close}}}"#);
            assert!(matches!(read(&body), Err(BodyError::Json { .. })), "{field} {depth}");
            let pack = [
                b"\x82\xa5model\xa1m".as_slice(),
                &[0xa0 | u8::try_from(field.len()).unwrap()],
                field.as_bytes(),
                &vec![0x91; depth],
                &[0xc0],
            ]
            .concat();
            assert_eq!(Demand::read(PACK, &pack, MAX), Err(BodyError::MsgPack), "{field} {depth}");
        }
        let pack = [b"\x82\xa5model\xa1m\xa1x".as_slice(), &vec![0x91; depth], &[0xc0]].concat();
        assert_eq!(Demand::read(PACK, &pack, MAX), Err(BodyError::MsgPack), "{depth}");
        // Skipping JSON takes no stack, so there depth is as harmless as length.
        assert!(read(&format!(r#"{{"model":"m","x":{open}{close}}}"#)).is_ok());
    }
    let body = format!(r#"{{"model":"m","tools":{}{}}}"#, "[".repeat(100), "]".repeat(100));
    assert!(read(&body).is_ok());
}

#[test]
fn images_and_files_are_counted_and_their_data_is_not_text() {
    let data = "data:image/png;base64,".to_owned() + &"A".repeat(10_000);
    let seen = weight(&json!({"messages": [{"role": "user", "content": [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": data, "detail": "high"}},
        {"image_url": {"url": data}, "type": "image_url"},
        {"type": "input_image", "image_url": data},
        {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}},
        {"type": "file", "file": {"file_data": data, "filename": "x.pdf"}},
    ]}]}));
    let expected = PromptWeight {
        text_bytes: 4,
        messages: 1,
        images: 3,
        other_parts: 2,
        ..PromptWeight::default()
    };
    assert_eq!(seen, expected);
}

/// A part is known by its type or by the field that holds its data, whichever is there.
#[test]
fn a_part_is_known_by_either_name() {
    for (part, images, other_parts) in [
        (json!({"type": "image_url"}), 1, 0),
        (json!({"image_url": {"url": "x"}}), 1, 0),
        (json!({"type": "file"}), 0, 1),
        (json!({"file": {}}), 0, 1),
        (json!({"type": "image_url", "file": {}}), 1, 1),
        (json!({"type": "text"}), 0, 0),
    ] {
        let seen = weight(&json!({"messages": [{"role": "user", "content": [part]}]}));
        let expected = PromptWeight { messages: 1, images, other_parts, ..PromptWeight::default() };
        assert_eq!(seen, expected, "{part}");
    }
}

#[test]
fn a_part_cannot_hide_its_text() {
    for part in [
        json!({"type": "image_url", "text": "0123456789"}),
        json!({"type": "text", "image_url": {}, "text": "0123456789"}),
        json!({"type": "text", "content": "0123456789"}),
        json!({"type": "text", "parts": [{"deep": "0123456789"}]}),
        json!(["0123456789"]),
        json!("0123456789"),
    ] {
        let seen = weight(&json!({"messages": [{"role": "user", "content": [part]}]}));
        assert!(seen.text_bytes >= 10, "{part}: {seen:?}");
    }
}

#[test]
fn a_prompt_may_be_text_or_tokens_one_or_many() {
    for (prompt, prompts, text_bytes, token_ids) in [
        (json!("four"), 1, 4, 0),
        (json!(["four", "five", ""]), 3, 8, 0),
        (json!([1, 2, 3]), 1, 0, 3),
        (json!([[1, 2, 3], [4], []]), 3, 0, 4),
        (json!([]), 1, 0, 0),
        (json!(["four", [5], 6, 7]), 3, 4, 3),
        (json!(null), 1, 0, 0),
    ] {
        let demand = read_each_way(&json!({"model": "m", "prompt": prompt}));
        let expected = PromptWeight { text_bytes, token_ids, ..PromptWeight::default() };
        assert_eq!(
            (demand.prompts, without_texture(demand.prompt)),
            (prompts, expected),
            "{prompt}"
        );
    }
}

/// The weight as the words say it, from a document tree.
fn oracle(body: &Value) -> PromptWeight {
    let mut weight = PromptWeight::default();
    for message in body["messages"].as_array().into_iter().flatten() {
        weight.messages += 1;
        for (name, value) in message.as_object().into_iter().flatten() {
            match (name.as_str(), value) {
                ("role", _) => {}
                ("content", Value::Array(parts)) => {
                    for part in parts {
                        match part["type"].as_str() {
                            Some("image_url") => weight.images += 1,
                            Some("input_audio") => weight.other_parts += 1,
                            _ => weight.text_bytes += text(&part["text"]),
                        }
                    }
                }
                (_, value) => weight.text_bytes += text(value),
            }
        }
    }
    for tool in body["tools"].as_array().into_iter().flatten() {
        weight.tools += 1;
        weight.text_bytes += text(tool);
    }
    weight.text_bytes += text(&body["response_format"]);
    weight
}

/// The bytes of every string, key and number, with what stands around them in JSON.
fn text(value: &Value) -> u64 {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 5,
        Value::Number(number) => number.to_string().len() as u64,
        Value::String(text) => text.len() as u64,
        Value::Array(items) => 2 + items.iter().map(|item| 3 + text(item)).sum::<u64>(),
        Value::Object(map) => {
            2 + map.iter().map(|(name, value)| 6 + name.len() as u64 + text(value)).sum::<u64>()
        }
    }
}

fn tree() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((".{0,8}", inner), 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

fn message() -> impl Strategy<Value = Value> {
    let part = prop_oneof![
        any::<String>().prop_map(|text| json!({"type": "text", "text": text})),
        any::<String>().prop_map(|url| json!({"type": "image_url", "image_url": {"url": url}})),
        tree().prop_map(|data| json!({"input_audio": data, "type": "input_audio"})),
    ];
    let content = prop_oneof![
        any::<String>().prop_map(Value::from),
        vec(part, 0..4).prop_map(Value::from),
        Just(Value::Null),
    ];
    (content, tree(), any::<String>()).prop_map(|(content, calls, name)| {
        json!({"role": "user", "content": content, "tool_calls": calls, "name": name})
    })
}

proptest! {
    /// However it is written, a request weighs what its strings and structures add up to.
    #[test]
    fn weight_is_what_a_document_tree_adds_up_to(
        messages in vec(message(), 0..4),
        tools in vec(tree(), 0..3),
        response_format in tree(),
        extra in tree(),
    ) {
        let body = json!({"model": "m", "messages": messages, "tools": tools,
            "response_format": response_format, "extra": extra});
        prop_assert_eq!(without_texture(read_each_way(&body).prompt), oracle(&body));
    }

    /// Compact JSON is never longer than its weight, but for escapes.
    #[test]
    fn a_structure_weighs_no_less_than_its_json(
        names in vec("[a-z]{0,6}", 1..5), numbers in vec(any::<f64>(), 1..5), flag in any::<bool>(),
    ) {
        let tool = json!({"names": names, "numbers": numbers, "flag": flag, "more": [[], {}, "x"]});
        let seen = weight(&json!({"tools": [tool]})).text_bytes;
        prop_assert!(seen >= tool.to_string().len() as u64);
    }

    /// Nothing that can be sent makes the reader panic.
    #[test]
    fn garbage_is_refused_and_never_panics(
        bytes in vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let body = json!({"model": "m", "messages": [{"content": ["a", {"text": "b"}]}], "n": 3,
            "prompt": [1, "x", [2]], "tools": [{"a": {"b": [1.5, true, null]}}]});
        for format in [Format::Json, Format::MsgPack] {
            for coding in [Coding::Identity, Coding::Gzip] {
                let _ = Demand::read(BodyKind { format, coding }, &bytes, 4096);
            }
        }
        let mut json = body.to_string().into_bytes();
        *at.get_mut(&mut json) = byte;
        let _ = Demand::read(JSON, &json, 4096);
        let mut pack = rmp_serde::to_vec_named(&body).unwrap();
        *at.get_mut(&mut pack) = byte;
        let _ = Demand::read(PACK, &pack, 4096);
    }
}
