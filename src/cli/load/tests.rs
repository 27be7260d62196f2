use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Command {
    #[command(flatten)]
    args: Args,
}

fn parse(flags: &[&str]) -> Result<Options, String> {
    let words = ["load", "127.0.0.1:1", "--model", "m"].iter().chain(flags).copied();
    let command = Command::try_parse_from(words).map_err(|error| error.to_string())?;
    let environment = [(USUAL_KEY, "usual"), ("MY_KEY", " own\n"), ("EMPTY", ""), ("ODD", "a\nb")];
    let find =
        |name: &str| environment.iter().find(|(it, _)| *it == name).map(|it| it.1.to_owned());
    options(command.args, find)
}

#[test]
fn without_flags_it_is_little_and_short() {
    let options = parse(&[]).expect("defaults");
    assert_eq!(options.pace, Pace::Closed { concurrency: 2 });
    assert_eq!(options.stretch, Stretch { length: Some(SHORT), ..Stretch::default() });
    assert_eq!(options.headers[AUTHORIZATION], "Bearer usual");
    assert!(options.other.is_none());
}

#[test]
fn flags_are_what_they_say() {
    let flags = "--rate 90/m --max-in-flight 7 --requests 30 --warm-up 2s --stream=0.5 --class batch \
                 --prompt-tokens uniform:1..5 --output-tokens none --api-key-env MY_KEY --compare host/v1 \
                 --header x-one:1 --header x-one:2";
    let options =
        parse(&flags.split(' ').filter(|it| !it.is_empty()).collect::<Vec<_>>()).expect("valid");
    let rate = "1.5/s".parse().expect("a rate");
    assert_eq!(options.pace, Pace::Open { rate, max_in_flight: 7 });
    let warm_up = Duration::from_secs(2);
    assert_eq!(options.stretch, Stretch { warm_up, length: None, requests: Some(30) });
    assert_eq!(options.headers[AUTHORIZATION], "Bearer own");
    assert_eq!(options.headers[CLASS], "batch");
    assert_eq!(options.headers.get_all("x-one").iter().count(), 2);
    assert!((options.workload.streamed - 0.5).abs() < 1e-9);
    assert!(options.workload.output.is_none());
    assert_eq!(
        options.other.expect("a second").chat.to_string(),
        "http://host/v1/chat/completions"
    );
    assert!((parse(&["--stream"]).expect("valid").workload.streamed - 1.0).abs() < 1e-9);
}

#[test]
fn bad_flags_say_what_is_wrong_and_no_secret() {
    for (flags, why) in [
        (&["--concurrency", "0"][..], "from 1 to"),
        (&["--concurrency", "3", "--rate", "5"], "cannot be used with"),
        (&["--rate", "0"], "requests per second"),
        (&["--max-in-flight", "0"], "from 1 to"),
        (&["--duration", "0s"], "more than no time"),
        (&["--duration", "long"], "--duration"),
        (&["--requests", "0"], "--requests"),
        (&["--stream=2"], "share from 0 to 1"),
        (&["--prompt-tokens", "0"], "whole numbers"),
        (&["--prompt-tokens", "file:/nowhere"], "/nowhere"),
        (&["--output-tokens", "file:/nowhere"], "/nowhere"),
        (&["--api-key-env", "MISSING"], "MISSING is not set"),
        (&["--api-key-env", "EMPTY"], "EMPTY is not set"),
        (&["--api-key-env", "ODD"], "cannot be sent"),
        (&["--header", "authorization: Bearer x"], "--api-key-env"),
        (&["--header", "no-colon"], "NAME: VALUE"),
        (&["--header", "host: x"], "not yours"),
        (&["--timeout", "0s"], "more than no time"),
        (&["--compare", "ftp://x"], "http:// or https://"),
    ] {
        let error = parse(flags).expect_err(why);
        assert!(error.contains(why), "{flags:?}: {error}");
    }
    let options = parse(&["--header", "x-secret: planted"]).expect("valid");
    assert!(!format!("{options:?}").contains("planted"), "headers are not shown");
    assert!(!format!("{options:?}").contains("usual"), "nor is the key");
}

#[test]
fn what_may_be_a_secret_is_not_quoted() {
    for url in ["http://me:planted@host/v1", "me:planted@host"] {
        let words = ["load", url, "--model", "m"];
        let command = Command::try_parse_from(words).expect("clap does not look at it");
        let error = options(command.args, |_| None).expect_err("a password");
        assert!(!error.contains("planted") && error.contains("--api-key-env"), "{error}");
    }
    for header in ["authorization: planted", "planted", "x-bad: planted\u{7}x", "host: planted"] {
        let error = parse(&["--header", header]).expect_err("not allowed");
        assert!(!error.contains("planted"), "{error}");
    }
}
