//! A configuration that is wrong is told so without its secrets, wherever somebody put them.

use super::needles::{ACCOUNT, Needles, SHARED};
use crate::support::process::{file, path, run, tidegate};

#[test]
fn what_is_wrong_with_a_configuration_is_told_without_its_secrets() {
    let key = format!("{ACCOUNT:?}");
    for text in [
        // Where a reference belongs.
        format!("[upstream]\napi_key = {key}"),
        format!("[upstream]\napi_key = [{key}]"),
        format!("[upstream]\napi_key = {{ value = {key} }}"),
        format!("[[keys]]\nname = \"a\"\nhash = {key}"),
        format!("[shared]\nurl = \"redis://r\"\npassword = {key}"),
        format!("[traces]\nendpoint = \"http://c\"\nheaders = {key}"),
        // In an address.
        "[upstream]\nbase_url = \"https://u:Acc0unt-key-needle-01@host\"".to_owned(),
        "[shared]\nurl = \"redis://:Acc0unt-key-needle-01@host\"".to_owned(),
        "[traces]\nendpoint = \"http://u:Acc0unt-key-needle-01@host\"".to_owned(),
        // Under a name that is not known, or in a line that cannot be read.
        format!("[upstream]\nkey = {key}\n[unknown]\nkey = {key}"),
        format!("[upstream]\napi_key = {key} {key}"),
        "[upstream]\napi_key = Acc0unt-key-needle-01".to_owned(),
        "[upstream]\napi_key = \"Acc0unt-key-needle-01".to_owned(),
        "[upstream]\nCaller-One+key/needle".to_owned(),
    ] {
        let config = file(&text);
        let (code, stdout, stderr) = run(&mut tidegate(&["check", path(&config)]));
        assert_ne!(code, Some(0), "{text}: {stdout}");
        assert!(stderr.contains("problem"), "{text}: {stderr}");
        let said = format!("{stdout}{stderr}");
        Needles::all().are_not_in(&format!("what is said of {text:?}"), said.as_bytes());
        assert!(!said.contains("Acc0unt-key"), "{text}: {said}");
    }
    for (name, value) in [
        ("TIDEGATE_UPSTREAM_API_KEY", ACCOUNT),
        ("TIDEGATE_SHARED_PASSWORD", SHARED),
        ("TIDEGATE_TRACES_HEADERS", ACCOUNT),
        ("TIDEGATE_ACCOUNT_KEY", ACCOUNT),
        ("OTEL_EXPORTER_OTLP_HEADERS", ACCOUNT),
    ] {
        let mut command = tidegate(&["check"]);
        command.env(name, value).env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c");
        let (_, stdout, stderr) = run(&mut command);
        let said = format!("{stdout}{stderr}");
        assert!(!said.is_empty());
        Needles::all().are_not_in(&format!("what is said of {name}"), said.as_bytes());
    }
}
