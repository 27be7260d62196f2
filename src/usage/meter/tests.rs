use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const JSON: (Option<&str>, Option<&str>) = (Some("application/json"), None);
const SSE: (Option<&str>, Option<&str>) = (Some("text/event-stream; charset=utf-8"), None);

/// What a meter sees of a body that comes in these pieces.
fn watch<'a>(
    (kind, coding): (Option<&str>, Option<&str>),
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Seen {
    let mut meter = Meter::new(kind, coding);
    for piece in pieces {
        meter.feed(piece);
    }
    meter.finish();
    meter.seen()
}

fn whole(head: (Option<&str>, Option<&str>), body: &[u8]) -> Seen {
    watch(head, [body])
}

/// What is seen of a body fed whole, once it is certain that no split changes it.
fn at_every_split(head: (Option<&str>, Option<&str>), body: &[u8]) -> Seen {
    let seen = whole(head, body);
    for at in 0..=body.len() {
        assert_eq!(watch(head, [&body[..at], &body[at..]]), seen, "split at {at}");
    }
    assert_eq!(watch(head, body.chunks(1)), seen, "byte by byte");
    seen
}

fn used(prompt: u64, completion: u64) -> Option<Usage> {
    Some(Usage { prompt, completion, total: prompt + completion, cached: 0 })
}

fn failed(status: Option<u16>, code: &str) -> Option<StreamError> {
    Some(StreamError { status, code: code.to_owned() })
}

#[test]
fn a_stream_is_metered() {
    let body = "\u{feff}: hello\r\n\r\n\
        event: chunk\ndata: {\"id\":\"a\",\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\":\"}}],\"usage\":null}\n\n\
        data:{\"choices\":[{\"delta\":{\"content\":\"}\",\"usage\":{\"prompt_tokens\":1}}}]}\r\n\r\n\
        data: {\"choices\":[],\r\ndata: \"usage\" : {\"prompt_tokens\":11,\rdata:\"completion_tokens\":22,\"prompt_tokens_details\":{\"cached_tokens\":3}},\n\
        data: \"time_info\":{}}\n\n\
        data: [DONE]\n\n";
    let expected = Seen {
        usage: Some(Usage { prompt: 11, completion: 22, total: 33, cached: 3 }),
        error: None,
        done: true,
        events: 3,
        first_content: true,
        cut: false,
    };
    assert_eq!(at_every_split(SSE, body.as_bytes()), expected);
}

#[test]
fn lines_end_and_fields_are_told_apart_as_the_standard_says() {
    let usage = r#"{"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;
    for (body, seen, events, why) in [
        (format!("data: {usage}\n\n"), true, 1, "line feeds"),
        (format!("data: {usage}\r\n\r\n"), true, 1, "both"),
        (format!("data: {usage}\r\r"), true, 1, "returns"),
        (format!("data:{usage}\n\n"), true, 1, "no space"),
        (format!("data:  {usage}\n\n"), true, 1, "two spaces"),
        (format!("data: {usage}\n"), true, 1, "the end ends the event"),
        (format!("data: {usage}"), true, 1, "and the line"),
        (format!("data\ndata: {usage}\ndata\n\n"), true, 1, "empty lines of data"),
        (format!("data: {usage}\ndata: {{}}\n\n"), true, 1, "the value was whole"),
        ("data\ndata\n\n".to_owned(), false, 1, "two are joined by a line feed, which is data"),
        ("data: [DO\ndata: NE]\n\n".to_owned(), false, 1, "so they are not run together"),
        (
            format!("data: {{\"error\":{{\"code\":\n\ndata: {usage}\n\n"),
            true,
            2,
            "a broken event harms no other",
        ),
        ("data\n\n".to_owned(), false, 0, "an event without data is none"),
        ("data:\n\ndata: \n\n\n\n".to_owned(), false, 0, "nor are these"),
        (format!(" data: {usage}\n\n"), false, 0, "a space before the name"),
        (format!("Data: {usage}\n\n"), false, 0, "names have a case"),
        (format!("datax: {usage}\n\n"), false, 0, "another name"),
        (format!("dat: {usage}\n\n"), false, 0, "a shorter name"),
        (format!(": data: {usage}\n\n"), false, 0, "a comment"),
        (format!("id: 7\nevent: data: {usage}\n\n"), false, 0, "other fields"),
        (format!("data: x{usage}\n\n"), false, 1, "no JSON"),
        (format!("data: [{usage}]\n\n"), false, 1, "no object"),
        (format!("data: {{\"a\":\ndata: {usage}}}\n\n"), false, 1, "not at the top"),
    ] {
        let expected =
            Seen { usage: seen.then(|| used(1, 2)).flatten(), events, ..Seen::default() };
        assert_eq!(at_every_split(SSE, body.as_bytes()), expected, "{why}: {body:?}");
    }
}

#[test]
fn the_last_usage_wins_and_null_is_none() {
    let event = |usage: Value| format!("data: {}\n\n", json!({"choices": [], "usage": usage}));
    let body = [
        event(json!({"prompt_tokens": 1, "completion_tokens": 1})),
        event(json!({"prompt_tokens": 2, "completion_tokens": 5})),
        event(Value::Null),
    ]
    .concat();
    let expected = Seen { usage: used(2, 5), events: 3, ..Seen::default() };
    assert_eq!(at_every_split(SSE, body.as_bytes()), expected);
}

#[test]
fn an_error_in_a_stream_is_seen() {
    let error = json!({"message": "secret", "type": "too_many_requests_error", "param": "quota",
        "code": "queue_exceeded", "id": "x"});
    for (data, expected) in [
        (json!({"status_code": 429, "error": error}), failed(Some(429), "queue_exceeded")),
        (json!({"error": {"code": "x"}, "status_code": 500}), failed(Some(500), "x")),
        (json!({"error": {"message": "m"}}), failed(None, "")),
        (json!({"error": "m", "status_code": "500"}), failed(None, "")),
        (json!({"error": {}, "status_code": 70_000}), failed(None, "")),
        (json!({"error": null, "status_code": 500}), None),
        (json!({"error": {}, "status_code_": 500}), failed(None, "")),
        (json!({"choices": [{"error": {"code": "x"}}]}), None),
    ] {
        let first_content = data.get("choices").is_some();
        let body = format!("data: {data}\n\n");
        let expected = Seen { error: expected, events: 1, first_content, ..Seen::default() };
        assert_eq!(at_every_split(SSE, body.as_bytes()), expected, "{body}");
    }
    let spelt: String = "status_code".bytes().map(|byte| format!("\\u{byte:04x}")).collect();
    for (name, status) in [(spelt.clone(), Some(500)), (spelt + "x", None)] {
        let body = format!("data: {{\"error\":{{}},\"{name}\":500}}\n\n");
        assert_eq!(at_every_split(SSE, body.as_bytes()).error, failed(status, ""), "{name}");
    }
    let two = "data: {\"error\":{\"code\":\"a\"}}\n\ndata: {\"error\":{\"code\":\"b\"}}\n\n";
    assert_eq!(whole(SSE, two.as_bytes()).error, failed(None, "a"), "the first one is the cause");
}

#[test]
fn a_document_is_metered() {
    let usage = r#""usage":{"prompt_tokens":5,"completion_tokens":6}"#;
    let not = r#""usage":{"prompt_tokens":1}"#;
    for (body, seen, done, why) in [
        (format!("{{{usage}}}"), true, true, "plain"),
        (format!("\u{feff} {{\n {usage} \t}} \r\n"), true, true, "spaced"),
        (format!(r#"{{"x":"\"","y":"\\",{usage}}}"#), true, true, "escapes"),
        (format!(r#"{{"x":[{{"a":"]}}"}}],{usage},"z":-1.5e3}}"#), true, true, "nested"),
        (format!("{{{}}}", usage.replace("usage", r"us\u0061ge")), true, true, "spelt otherwise"),
        (
            format!("{{{}}}", usage.replace("usage", r"\u0075\u0073\u0061\u0067\u0065")),
            true,
            true,
            "in full",
        ),
        (format!(r#"{{"x":{{{not}}}}}"#), false, true, "nested usage"),
        (format!(r#"{{"x":[{{{not}}}]}}"#), false, true, "listed usage"),
        (json!({ "x": format!("{{{not}}}") }).to_string(), false, true, "quoted usage"),
        (format!("{{{}}}", not.replace("usage", "usage ")), false, true, "another key"),
        (format!("[{{{not}}}]"), false, false, "a list"),
        (format!("{{{not},{usage}}}"), true, true, "the last of two"),
        (format!("{{{usage},\"usage\":null}}"), false, true, "the last of two, being null"),
        ("{}".to_owned(), false, true, "empty"),
        (format!("{{{usage},\"x\":["), true, false, "cut after the usage"),
        (format!("{{{}", &usage[..usage.len() - 1]), false, false, "cut within it"),
        (format!("{{{usage}}}x"), true, false, "something follows"),
        (format!("{{{usage},}}"), true, false, "a comma too many"),
        (format!("{{,{not}}}"), false, false, "no JSON"),
        (String::new(), false, false, "nothing"),
    ] {
        let expected = Seen { usage: seen.then(|| used(5, 6)).flatten(), done, ..Seen::default() };
        assert_eq!(at_every_split(JSON, body.as_bytes()), expected, "{why}: {body}");
    }
}

#[test]
fn a_value_too_large_is_passed_over() {
    let value =
        |size| format!(r#"{{"usage":{{"prompt_tokens":1,"x":"{}"}},"a":1}}"#, "x".repeat(size));
    assert_eq!(whole(JSON, value(16_000).as_bytes()).usage, used(1, 0));
    let seen = whole(JSON, value(17_000).as_bytes());
    assert_eq!((seen.usage, seen.done), (None, true));
    let error = value(17_000).replace("usage", "error");
    assert_eq!(whole(JSON, error.as_bytes()).error, failed(None, ""), "an error all the same");
}

#[test]
fn what_is_seen_is_seen_at_once() {
    let mut meter = Meter::new(Some("text/event-stream"), None);
    meter.feed(b"data: {\"choices\":[{\"index\":0}]}\n\n");
    assert_eq!((meter.seen().events, meter.seen().first_content), (1, true));
    meter.feed(b"data: {\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n");
    assert_eq!(meter.seen().usage, None, "the event is not over");
    meter.feed(b"\n");
    assert_eq!(meter.seen().usage, used(1, 2));
}

#[test]
fn packed_bodies_are_unpacked() {
    let text = format!(
        "data: {}\n\ndata: [DONE]\n\n",
        json!({"choices": ["x".repeat(300)], "usage": {"prompt_tokens": 4, "completion_tokens": 5}})
    );
    let usage = used(4, 5);
    let expected = Seen { usage, done: true, events: 1, first_content: true, ..Seen::default() };
    let pack = |gzip: bool| {
        let (half, rest) = text.as_bytes().split_at(text.len() / 2);
        if gzip {
            let members = [half, rest].map(|part| {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(part).unwrap();
                encoder.finish().unwrap()
            });
            members.concat()
        } else {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(text.as_bytes()).unwrap();
            encoder.finish().unwrap()
        }
    };
    for (coding, gzip) in [("gzip", true), ("X-GZIP", true), ("deflate", false)] {
        let body = pack(gzip);
        assert_eq!(at_every_split((SSE.0, Some(coding)), &body), expected, "{coding}");
        let late = [body.as_slice(), b"garbage"].concat();
        assert_eq!(whole((SSE.0, Some(coding)), &late), expected, "{coding}, then garbage");
        let wrong = if gzip { "deflate" } else { "gzip" };
        assert_eq!(whole((SSE.0, Some(wrong)), &body), Seen::default(), "{coding} as {wrong}");
        assert_eq!(whole((SSE.0, Some("br")), &body), Seen::default());
    }
    let mut raw = DeflateEncoder::new(Vec::new(), Compression::default());
    raw.write_all(text.as_bytes()).unwrap();
    assert_eq!(whole((SSE.0, Some("deflate")), &raw.finish().unwrap()), Seen::default());
}

/// A stream packed as it is made, each event flushed, shows each event when its bytes are there.
#[test]
fn a_packed_stream_is_seen_as_it_comes() {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let mut meter = Meter::new(Some("text/event-stream"), Some("gzip"));
    let mut fed = 0;
    for count in 1..50 {
        let data = json!({"choices": [count], "usage": {"prompt_tokens": count}});
        write!(encoder, "data: {data}\n\n").unwrap();
        encoder.flush().unwrap();
        meter.feed(&encoder.get_ref()[fed..]);
        fed = encoder.get_ref().len();
        assert_eq!((meter.seen().events, meter.seen().usage), (count, used(count, 0)));
    }
}

#[test]
fn a_bomb_is_given_up() {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(b"{\"usage\":{\"prompt_tokens\":1}").unwrap();
    encoder.write_all(&[b' '; 1 << 20]).unwrap();
    encoder.write_all(b",\"usage\":{\"prompt_tokens\":2}}").unwrap();
    let bomb = encoder.finish().unwrap();
    for (room, prompt) in [(2 << 20, 2), (1 << 20, 1)] {
        let mut meter = Meter::new(JSON.0, Some("gzip"));
        let Decoder::Gzip(decoder) = &mut meter.decoder else { unreachable!("gzip was named") };
        assert_eq!(decoder.get_ref().room, DECODED_MAX);
        decoder.get_mut().room = room;
        meter.feed(&bomb);
        assert_eq!(matches!(meter.decoder, Decoder::Opaque(_)), prompt == 1);
        assert_eq!(meter.seen().usage, used(prompt, 0), "what was seen stays");
    }
}

#[test]
fn other_bodies_are_none_of_its_business() {
    let body = b"{\"usage\":{\"prompt_tokens\":1}}";
    for kind in [None, Some(""), Some("text/plain"), Some("application/vnd.msgpack"), Some("x")] {
        assert_eq!(whole((kind, None), body), Seen::default(), "{kind:?}");
    }
    for kind in ["application/json; charset=utf-8", "Application/JSON", "application/problem+json"]
    {
        assert_eq!(whole((Some(kind), None), body).usage, used(1, 0), "{kind}");
    }
}

/// What is kept does not grow with the body, whatever the body is.
#[test]
fn memory_is_bounded() {
    for pattern in ["{\"usage\":[", "{\"usage\":\"x", "{\"xxxxxxxx", "data: {\"error\":{", "{{{[[["]
    {
        for head in [JSON, SSE] {
            let mut meter = Meter::new(head.0, head.1);
            meter.feed(pattern.as_bytes());
            for _ in 0..1_000 {
                meter.feed(pattern.repeat(100).replace(['\\', '"'], "a").as_bytes());
            }
            let sink = meter.decoder.sink().expect("both heads are read");
            let (Frames::Json(scanner, _) | Frames::Sse(Sse { scanner, .. })) = &sink.frames;
            assert!(scanner.kept_capacity() <= 32 << 10, "{pattern}");
        }
    }
}

fn tree() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        r#"[\\"{}\[\],: a\n]{0,12}"#.prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let key = prop_oneof!["usage", "error", "choices", r#"[\\"a:}]{0,4}"#];
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((key, inner), 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

fn document() -> impl Strategy<Value = Value> {
    let count = || prop::option::of(0..1_000_u64);
    let usage =
        (count(), count(), count(), count()).prop_map(|(prompt, completion, total, cached)| {
            json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total,
            "prompt_tokens_details": {"cached_tokens": cached, "more": [1]}})
        });
    let code = "[a-z_]{1,8}".prop_map(|code| json!({"message": "m", "code": code}));
    (
        prop_oneof![usage, tree()],
        prop_oneof![Just(Value::Null), code],
        prop_oneof![(400..600).prop_map(Value::from), tree()],
        tree(),
        vec((r#"[a-z"\\]{0,5}"#, prop_oneof![tree(), winding(), winding_list()]), 0..3),
        any::<u8>(),
    )
        .prop_map(|(usage, error, status, choices, more, which)| {
            let named =
                [("usage", usage), ("error", error), ("status_code", status), ("choices", choices)];
            let named = named.into_iter().enumerate().filter(|(bit, _)| which >> bit & 1 == 1);
            let named = named.map(|(_, (name, value))| (name.to_owned(), value));
            more.into_iter().chain(named).collect()
        })
}

#[test]
fn an_answer_cut_by_its_limit_is_told_if_somebody_asks() {
    let document = json!({"choices": [{"finish_reason": "length", "index": 0}]}).to_string();
    let event = format!("data: {document}\n\ndata: [DONE]\n\n");
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(event.as_bytes()).unwrap();
    let packed = gzip.finish().unwrap();
    for (head, body) in
        [(JSON, document.as_bytes()), (SSE, event.as_bytes()), ((SSE.0, Some("gzip")), &packed)]
    {
        let mut meters = [Meter::new(head.0, head.1), Meter::new(head.0, head.1).watch_length()];
        for piece in body.chunks(5) {
            meters.iter_mut().for_each(|meter| meter.feed(piece));
        }
        assert_eq!(meters.map(|meter| meter.seen().cut), [false, true]);
    }
}

/// A string that a scan can lose its way in: with what looks like structure, and escapes wherever blocks
/// meet.
fn winding() -> impl Strategy<Value = Value> {
    let turn = prop_oneof![r#"[\\"{}\[\]a]{1,6}"#, "[a-z ]{20,90}", Just("\n".to_owned())];
    vec(turn, 0..8).prop_map(|turns| Value::from(turns.concat()))
}

fn winding_list() -> impl Strategy<Value = Value> {
    vec((winding(), tree()), 0..4).prop_map(|list| {
        list.into_iter().map(|(text, tree)| json!([{"text": text}, tree])).collect()
    })
}

/// What a document says, from its tree.
fn oracle(document: &Value) -> Seen {
    let usage = &document["usage"];
    let count = |name: &str| usage[name].as_u64();
    let counted =
        ["prompt_tokens", "completion_tokens", "total_tokens"].into_iter().find_map(count);
    let (prompt, completion) =
        (count("prompt_tokens").unwrap_or(0), count("completion_tokens").unwrap_or(0));
    let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0).min(prompt);
    let total = count("total_tokens").unwrap_or(prompt + completion);
    Seen {
        usage: counted.map(|_| Usage { prompt, completion, total, cached }),
        error: document["error"]["code"].as_str().map(|code| StreamError {
            status: document["status_code"].as_u64().and_then(|status| u16::try_from(status).ok()),
            code: code.to_owned(),
        }),
        done: true,
        events: 0,
        first_content: document["choices"].as_array().is_some_and(|choices| !choices.is_empty()),
        cut: false,
    }
}

/// Cuts a body at these places, given in parts of its length.
fn cut<'a>(body: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
    places.extend([0, body.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &body[pair[0]..pair[1]]).collect()
}

#[test]
fn the_usage_so_far_is_told_from_that_of_the_whole_answer() {
    let text = r#"data: {"choices":[{"delta":{}}]}"#;
    let used = r#"data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":1}}"#;
    for (events, is_final) in [
        (vec![text], false),
        (vec![text, used], true),
        (vec![text, used, "data: [DONE]"], true),
        (vec![used], false),
        (vec![used, text, text], false),
        (vec![used, used], false),
        (vec![used, used, "data: [DONE]"], true),
    ] {
        let mut meter = Meter::new(SSE.0, None);
        for event in &events {
            meter.feed(format!("{event}\n\n").as_bytes());
        }
        assert_eq!(meter.is_usage_final(), is_final, "{events:?}");
    }
    let mut meter = Meter::new(JSON.0, None);
    meter.feed(br#"{"usage":{"prompt_tokens":1}"#);
    assert!(meter.is_usage_final() && meter.is_reading());
    assert!(!Meter::new(Some("text/html"), None).is_reading());
}

proptest! {
    /// A document tells the meter what it tells a parser, however it is cut and laid out.
    #[test]
    fn a_document_is_seen_as_a_parser_sees_it(
        document in document(),
        pretty in any::<bool>(),
        cuts in vec(any::<prop::sample::Index>(), 0..9),
    ) {
        let text = if pretty {
            serde_json::to_string_pretty(&document).unwrap()
        } else {
            document.to_string()
        };
        let expected = oracle(&document);
        prop_assert_eq!(&whole(JSON, text.as_bytes()), &expected);
        prop_assert_eq!(&watch(JSON, text.as_bytes().chunks(1)), &expected);
        prop_assert_eq!(&watch(JSON, cut(text.as_bytes(), &cuts)), &expected);
    }

    /// A stream tells the meter what its events tell a parser, however it is written and cut.
    #[test]
    fn a_stream_is_seen_as_its_events_are(
        events in vec((document(), any::<bool>(), 0..4_usize, 0..4_usize), 0..5),
        done in any::<bool>(),
        cuts in vec(any::<prop::sample::Index>(), 0..9),
    ) {
        let mut body = String::new();
        let mut expected = Seen { done, ..Seen::default() };
        for (document, pretty, end, noise) in &events {
            let text = if *pretty {
                serde_json::to_string_pretty(document).unwrap()
            } else {
                document.to_string()
            };
            let end = ["\n", "\r\n", "\r", "\n"][*end];
            body += [": ping", "event: x", "id:7\nretry: 3", ""][*noise];
            body += end;
            for line in text.lines() {
                body += &format!("data: {line}{end}");
            }
            body += end;
            let seen = oracle(document);
            expected.usage = seen.usage.or(expected.usage);
            expected.error = expected.error.or(seen.error);
            expected.first_content |= seen.first_content;
            expected.events += 1;
        }
        if done {
            body += "data: [DONE]\n\n";
        }
        let body = body.as_bytes();
        prop_assert_eq!(&whole(SSE, body), &expected);
        prop_assert_eq!(&watch(SSE, body.chunks(1)), &expected);
        prop_assert_eq!(&watch(SSE, cut(body, &cuts)), &expected);
    }

    /// Garbage is passed over, and where it is cut does not matter either.
    #[test]
    fn garbage_is_survived(
        bytes in prop_oneof![
            vec(any::<u8>(), 0..200),
            r#"(data:|[{}\[\]",:\\\r\n a1]|"usage"|"error"|null|\[DONE\]){0,40}"#.prop_map(String::into_bytes),
        ],
        cuts in vec(any::<prop::sample::Index>(), 0..9),
    ) {
        for coding in [None, Some("gzip"), Some("deflate")] {
            for kind in [JSON.0, SSE.0] {
                let seen = whole((kind, coding), &bytes);
                prop_assert_eq!(&watch((kind, coding), cut(&bytes, &cuts)), &seen);
                prop_assert_eq!(&watch((kind, coding), bytes.chunks(1)), &seen);
            }
        }
    }
}
