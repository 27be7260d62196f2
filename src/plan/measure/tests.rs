use std::sync::Arc;

use super::*;
use crate::config::{Config, Overrides};

const MOST: usize = 2_000;

fn profile(tokenizer: &str) -> Arc<config::Profile> {
    let text = format!(
        "[upstream]\nbase_url = \"http://127.0.0.1:9\"\n[models.\"*\"]\nlimits = [{{ unit = \"tokens\", limit = 100_000, per = \"1m\" }}]\n\
         output_reservation = {{ default = 300 }}\n\
         prompt_estimate = {{ tokenizer = \"{tokenizer}\", bytes_per_token = 2.0, per_message = 8, \
         per_request = 16, per_part = 1000 }}\n"
    );
    let config = Config::parse(&text, [], &Overrides::default()).unwrap();
    Arc::clone(config.models.profile("m").unwrap())
}

fn measured(text: &str) -> Measured {
    measure(text.as_bytes(), &profile("o200k"), MOST).unwrap()
}

#[test]
fn every_kind_of_line_is_known_by_itself() {
    let found = measured(concat!(
        r#"{"model":"m","messages":[{"role":"user","content":"one two three"}],"max_tokens":50}"#,
        "\n\n",
        r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[{"role":"user","content":"one"}],"n":2}}"#,
        "\r\n",
        r#"{"model":"m","prompt":[1,2,3,4],"max_tokens":5}"#,
        "\n",
        r#"{"timestamp":"t","level":"INFO","message":"request","target":"tidegate::request","outcome":"completed","duration_ms":1500,"wait_ms":500,"tokens.estimated":900,"tokens.prompt":70,"tokens.completion":30}"#,
        "\n",
        r#"{"target":"tidegate::request","outcome":"client_gone","tokens.estimated":900}"#,
        "\n",
        r#"{"target":"tidegate::request","outcome":"completed","tokens.estimated":900}"#,
        "\n",
        r#"{"target":"tidegate::server","message":"ready"}"#,
    ));
    assert_eq!((found.bodies, found.logged, found.unanswered, found.others), (3, 1, 2, 1));
    assert_eq!(found.bad, []);
    let of = |input, output, held, latency: Option<u64>| Example {
        input,
        output,
        held,
        latency: latency.map(Duration::from_millis),
    };
    let expected = [
        // Three words and a message.
        of(3 + 8, 50, found.profile.examples()[0].held, None),
        // Two answers of what is reserved where nothing is asked for.
        of(1 + 8, 600, found.profile.examples()[1].held, None),
        // Tokens by number are what they are.
        of(4, 5, 4 + 16 + 5, None),
        of(70, 30, 900, Some(1_000)),
    ];
    assert_eq!(found.profile.examples(), expected);
    assert!(found.profile.examples()[..2].iter().all(|it| it.held > it.input + it.output));
}

#[test]
fn without_a_tokenizer_the_bound_is_what_is_known() {
    let body = r#"{"model":"m","messages":[{"role":"user","content":"one two three"}]}"#;
    let found = measure(body.as_bytes(), &profile("none"), MOST).unwrap();
    let one = found.profile.examples()[0];
    assert_eq!((one.input + one.output, one.output), (one.held, 300));
}

#[test]
fn bad_lines_are_told_by_number_and_never_quoted() {
    let long = format!("{{\"messages\":\"{}\"}}", "secret ".repeat(2_000));
    let body = format!("{{\"model\":\"m\",\"messages\":[\"{}\"]}}", "secret ".repeat(290));
    let lines = [
        ("secret", "is not one whole JSON object (column 1)"),
        ("[\"secret\"]", "is not an object with fields of the right type (column 10)"),
        ("{\"messages\":[\"secret\"", "is not one whole JSON object (column 21)"),
        ("{\"secret\":1}", "is neither a request"),
        ("{\"messages\":[]}", "`model` is required"),
        ("{\"model\":\"m\",\"messages\":[],\"max_tokens\":-7}", "`max_tokens` must be"),
        ("{\"url\":\"/v1/embeddings\",\"body\":{}}", "`url` must be"),
        ("{\"body\":7}", "the body must be a JSON object"),
        (long.as_str(), "is longer than 6096 bytes"),
        (body.as_str(), "the body is larger than 2000 bytes"),
        ("{\"target\":7}", "is not an object with fields"),
    ];
    let text = lines.map(|(line, _)| line).join("\n");
    let found = measured(&text);
    for ((number, reason), (index, (_, expected))) in found.bad.iter().zip((1..).zip(lines)) {
        assert!(reason.starts_with(expected), "{reason:?}, not {expected:?}");
        assert!(!reason.contains("secret"), "{reason}");
        assert_eq!(*number, index);
    }
    assert_eq!((found.bad.len(), found.bad_lines), (11, 11));
    assert_eq!(found.profile.jobs(), 0);
}

#[test]
fn many_bad_lines_take_little_room() {
    let found = measured(&"x\n".repeat(10_000));
    assert_eq!((found.bad.len(), found.bad_lines), (MOST_NAMED, 10_000));
    let not_text = measure(&b"{\"a\":\"\xff\"}\n"[..], &profile("none"), MOST).unwrap();
    assert_eq!(not_text.bad, [(1, "is not UTF-8".to_owned())]);
}

#[test]
fn a_long_line_is_never_kept() {
    // A quarter of a gigabyte in one line, made as it is read.
    let mut endless = io::BufReader::new(io::Read::take(io::repeat(b'x'), 1 << 28));
    let mut line = Vec::new();
    assert!(matches!(read_line(&mut endless, &mut line, 100), Ok(Piece::TooLong)));
    assert!(line.capacity() <= 200, "{}", line.capacity());
    assert!(matches!(read_line(&mut endless, &mut line, 100), Ok(Piece::End)));
}
