use proptest::prelude::*;
use serde_json::{Value as Tree, json};

use super::*;
use crate::usage::{Demand, OutputLimit};

const MAX: usize = 1 << 20;

fn kind(content_type: Option<&str>, coding: Option<&str>) -> BodyKind {
    BodyKind::from_headers(content_type, coding).unwrap()
}

fn spliced(text: &str, tokens: u64) -> Option<String> {
    let body = limit_output(kind(None, None), text.as_bytes(), MAX, tokens)?;
    Some(String::from_utf8(body).unwrap())
}

#[test]
fn the_limit_is_replaced_where_it_stands_or_put_first() {
    for (before, after) in [
        (
            r#"{"model":"m","messages":[]}"#,
            r#"{"max_completion_tokens":77,"model":"m","messages":[]}"#,
        ),
        (r#"{"model":"m","prompt":"x"}"#, r#"{"max_tokens":77,"model":"m","prompt":"x"}"#),
        (
            " \n{ \"model\" : \"m\", \"messages\": [] }\n",
            " \n{\"max_completion_tokens\":77, \"model\" : \"m\", \"messages\": [] }\n",
        ),
        (
            r#"{"max_tokens": -1 ,"model":"m","messages":[]}"#,
            r#"{"max_tokens": 77 ,"model":"m","messages":[]}"#,
        ),
        (
            r#"{"model":"m","messages":[],"max_completion_tokens":null}"#,
            r#"{"model":"m","messages":[],"max_completion_tokens":77}"#,
        ),
        (
            r#"{"max_completion_tokens":null,"model":"m","max_tokens":9e3,"messages":[]}"#,
            r#"{"max_completion_tokens":null,"model":"m","max_tokens":77,"messages":[]}"#,
        ),
        (
            r#"{"max_tokens":null,"max_completion_tokens":null,"model":"m","messages":[]}"#,
            r#"{"max_tokens":null,"max_completion_tokens":77,"model":"m","messages":[]}"#,
        ),
        // Numbers no float holds, keys spelt with escapes, look-alikes below and in text.
        (
            r#"{"seed":12345678901234567890123,"model":"m","max\u005ftokens":5000,"x":0.10}"#,
            r#"{"seed":12345678901234567890123,"model":"m","max\u005ftokens":77,"x":0.10}"#,
        ),
        (
            r#"{"messages":[{"content":"{\"max_tokens\":1}","max_tokens":1}],"model":"mü{"}"#,
            r#"{"max_completion_tokens":77,"messages":[{"content":"{\"max_tokens\":1}","max_tokens":1}],"model":"mü{"}"#,
        ),
    ] {
        assert_eq!(spliced(before, 77).as_deref(), Some(after));
    }
    let both = r#"{"model":"m","max_tokens":5,"max_completion_tokens":5,"messages":[]}"#;
    assert_eq!(spliced(both, 77), None, "two limits are for the upstream to refuse");
    for odd in ["[]", "{", "", "7"] {
        assert_eq!(spliced(odd, 77), None, "{odd}");
    }
}

#[test]
fn a_map_that_outgrows_its_header_gets_a_longer_one() {
    let pack = kind(Some("application/msgpack"), None);
    for members in [1, 14, 15, 16, 17, 65_534, 65_535, 65_536] {
        let mut tree = json!({"model": "m"});
        for n in 1..members {
            tree[format!("k{n}")] = n.into();
        }
        let body = rmp_serde::to_vec_named(&tree).unwrap();
        let seen = limit_output(pack, &body, MAX, 70_000).unwrap();
        tree[OLD] = 70_000.into();
        assert_eq!(rmp_serde::from_slice::<Tree>(&seen).unwrap(), tree, "{members}");
    }
}

#[test]
fn every_msgpack_value_is_stepped_over() {
    // One of each marker, as the values of a map; none of the lengths is zero.
    let mut body = vec![0xde, 0, 0];
    let mut count = 0_u8;
    let mut put = |value: &[u8]| {
        body.extend([0xa2, b'k', b'a' + count]);
        body.extend(value);
        count += 1;
    };
    for value in [
        &[0xc0][..],
        &[0xc2],
        &[0x7f],
        &[0xe0],
        &[0x81, 0x01, 0x02],
        &[0x92, 0x01, 0xc0],
        &[0xa1, b'x'],
        &[0xcc, 1],
        &[0xd0, 1],
        &[0xcd, 1, 2],
        &[0xd1, 1, 2],
        &[0xd4, 1, 2],
        &[0xce, 1, 2, 3, 4],
        &[0xca, 1, 2, 3, 4],
        &[0xcf, 1, 2, 3, 4, 5, 6, 7, 8],
        &[0xd5, 1, 2, 3],
        &[0xd6, 1, 2, 3, 4, 5],
        &[0xc4, 1, 9],
        &[0xd9, 1, b'x'],
        &[0xc5, 0, 1, 9],
        &[0xc6, 0, 0, 0, 1, 9],
        &[0xdb, 0, 0, 0, 1, b'x'],
        &[0xc7, 1, 5, 9],
        &[0xc8, 0, 1, 5, 9],
        &[0xdc, 0, 1, 0xc0],
        &[0xde, 0, 1, 0x01, 0xa1, b'y'],
    ] {
        put(value);
    }
    body[2] = count + 1;
    body.extend(b"\xaamax_tokens\xcd\x10\x00");
    let expected = [&body[..body.len() - 3], &[0x4d][..]].concat();
    let pack = kind(Some("application/msgpack"), None);
    assert_eq!(limit_output(pack, &body, MAX, 77), Some(expected));
    // Cut anywhere, or followed by anything, it is left alone.
    for end in 0..body.len() {
        assert_eq!(limit_output(pack, &body[..end], MAX, 77), None, "{end}");
    }
    body.push(0xc0);
    assert_eq!(limit_output(pack, &body, MAX, 77), None);
}

/// Values of any shape, with look-alikes of what is looked for.
fn tree() -> impl Strategy<Value = Tree> {
    let text = prop_oneof![any::<String>(), Just("\"max_tokens\":1".to_owned())];
    let leaf = prop_oneof![
        Just(Tree::Null),
        any::<bool>().prop_map(Tree::from),
        any::<i64>().prop_map(Tree::from),
        // In eighths: the parser that compares them rounds the others.
        any::<i32>().prop_map(|eighths| Tree::from(f64::from(eighths) / 8.0)),
        text.prop_map(Tree::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let key = prop_oneof![any::<String>(), Just(OLD.to_owned()), Just(NEW.to_owned())];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Tree::from),
            prop::collection::vec((key, inner), 0..4)
                .prop_map(|members| members.into_iter().collect()),
        ]
    })
}

proptest! {
    /// However a request is written, only its limit changes.
    #[test]
    fn only_the_limit_changes(
        extra in prop::collection::vec(("x[a-zé\"\\\\]{0,8}", tree()), 0..5),
        old in prop::option::of(prop_oneof![Just(Tree::Null), Just(Tree::from(-1)), (100..100_000_u64).prop_map(Tree::from)]),
        chat in any::<bool>(),
        pretty in any::<bool>(),
        new_name in any::<bool>(),
        tokens in 1..(1_u64 << 53),
    ) {
        let mut body: Tree = json!({"model": "m"});
        body[if chat { "messages" } else { "prompt" }] = json!([]);
        for (key, value) in extra {
            body.as_object_mut().unwrap().entry(key).or_insert(value);
        }
        let name = if new_name { NEW } else { OLD };
        if let Some(limit) = old.clone() {
            body[name] = limit;
        }
        let mut expected = body.clone();
        expected[if old.is_some() { name } else if chat { NEW } else { OLD }] = tokens.into();
        let text = if pretty { format!("{body:#}") } else { body.to_string() };
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(text.as_bytes()).unwrap();
        let pack = rmp_serde::to_vec_named(&body).unwrap();
        for (kind, bytes) in [
            (kind(None, None), text.into_bytes()),
            (kind(None, Some("gzip")), gzip.finish().unwrap()),
            (kind(Some("application/msgpack"), None), pack),
        ] {
            let demand = Demand::read(kind, &bytes, MAX).unwrap();
            let seen = limit_output(kind, &bytes, MAX, tokens).unwrap();
            let after = Demand::read(kind, &seen, MAX).unwrap();
            prop_assert_eq!(&after, &Demand { output_limit: OutputLimit::Tokens(tokens), ..demand });
            let seen = kind.decode(&seen, MAX).unwrap();
            let tree: Tree = match kind.format {
                Format::Json => serde_json::from_slice(&seen).unwrap(),
                Format::MsgPack => rmp_serde::from_slice(&seen).unwrap(),
            };
            prop_assert_eq!(&tree, &expected);
        }
    }
}

fn renamed(text: &str, model: &str) -> Option<String> {
    let body = name_model(kind(None, None), text.as_bytes(), MAX, model)?;
    Some(String::from_utf8(body).unwrap())
}

#[test]
fn the_model_is_replaced_where_it_stands() {
    for (before, model, after) in [
        (r#"{"model":"m","messages":[]}"#, "other", r#"{"model":"other","messages":[]}"#),
        (
            " {\n\"seed\":12345678901234567890123, \"mod\\u0065l\" : \"m\" , \"x\":0.10}",
            "o/\"ü\"",
            " {\n\"seed\":12345678901234567890123, \"mod\\u0065l\" : \"o/\\\"ü\\\"\" , \"x\":0.10}",
        ),
        (
            r#"{"messages":[{"model":"m","content":"\"model\":\"m\""}],"model":"m"}"#,
            "o",
            r#"{"messages":[{"model":"m","content":"\"model\":\"m\""}],"model":"o"}"#,
        ),
    ] {
        assert_eq!(renamed(before, model).as_deref(), Some(after));
    }
    for odd in ["[]", "{", "", "{\"messages\":[]}"] {
        assert_eq!(renamed(odd, "o"), None, "{odd}");
    }
}

proptest! {
    /// In each format and coding: the same demand, but for the model.
    #[test]
    fn the_renamed_body_is_the_same_request_to_another_model(
        model in "[a-z]{1,40}|[\\x20-\\x7e]{1,256}|ü{100}",
        tokens in 1_u64..100_000,
        text in ".{0,80}",
        packed in any::<bool>(),
        gzip in any::<bool>(),
    ) {
        let tree = json!({
            "stream": true, "max_completion_tokens": tokens, "model": "some/model",
            "messages": [{"role": "user", "content": text, "model": "inner"}],
        });
        let kind = kind(
            packed.then_some("application/msgpack"),
            gzip.then_some("gzip"),
        );
        let plain = if packed { rmp_serde::to_vec_named(&tree).unwrap() } else { tree.to_string().into() };
        let body = coded(kind, plain).unwrap();
        let renamed = name_model(kind, &body, MAX, &model).unwrap();
        let (before, after) = (Demand::read(kind, &body, MAX).unwrap(), Demand::read(kind, &renamed, MAX).unwrap());
        prop_assert_eq!(after, Demand { model, ..before });
        let back = name_model(kind, &renamed, MAX, "some/model").unwrap();
        prop_assert_eq!(kind.decode(&back, MAX).unwrap(), kind.decode(&body, MAX).unwrap());
    }
}
