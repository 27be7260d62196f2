use crate::config::{Cause, Config, Overrides, Problems};

const BASE: &str = r#"
[upstream]
base_url = "http://127.0.0.1:9"
api_key = "env:KEY"
[models.a]
output_reservation = { default = 1 }
limits = [{ unit = "requests", limit = 1, per = "1m" }]
[models.b]
output_reservation = { default = 1 }
limits = [{ unit = "requests", limit = 1, per = "1m" }]
"#;

fn read(text: &str) -> Result<Config, Problems> {
    let environment = [("KEY", "planted-first"), ("SECOND", "planted-second")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Config::parse(text, environment, &Overrides::default())
}

/// Every problem, on a line of its own.
fn told(text: &str) -> String {
    let problems = read(text).unwrap_err();
    let lines = problems.list().iter().map(|it| format!("{}: {}\n", it.path, it.message));
    lines.collect()
}

#[test]
fn an_entry_is_read_and_written_back_without_its_key() {
    let text = format!(
        "{BASE}
        [[fallback]]
        name = \"smaller\"
        for = \"a\"
        model = \"b\"
        on = [\"failure\", \"quota\"]
        after = \"3s\"
        [[fallback]]
        name = \"second\"
        for = \"*\"
        base_url = \"https://other.example\"
        api_key = \"env:SECOND\""
    );
    let config = read(&text).unwrap();
    let [smaller, second] = &config.fallbacks[..] else { panic!("{:?}", config.fallbacks) };
    assert_eq!(
        (smaller.is_for("a"), smaller.is_for("b"), smaller.is_for("c")),
        (true, false, false)
    );
    assert!(Cause::ALL.iter().all(|cause| smaller.on.has(*cause) == (*cause != Cause::Overload)));
    assert!(Cause::ALL.iter().all(|cause| second.on.has(*cause)), "all, unless it says otherwise");
    assert!(second.is_for("a") && second.is_for("b"));
    assert_eq!((smaller.after.as_secs(), second.after.as_secs()), (3, 10));
    let account = second.account.as_ref().unwrap();
    assert_eq!(account.base_url.host(), Some("other.example"));
    assert_eq!(account.api_key.expose(), "planted-second");
    assert!(smaller.account.is_none(), "the same");
    let printed = config.to_toml();
    assert!(!printed.contains("planted") && !format!("{config:?}").contains("planted"));
    assert_eq!(read(&printed).unwrap().fallbacks[0], config.fallbacks[0]);
    assert_eq!(read(&printed).unwrap().to_toml(), printed);
}

#[test]
fn a_model_is_no_fallback_for_itself() {
    let text = format!("{BASE}\n[[fallback]]\nname = \"x\"\nfor = \"*\"\nmodel = \"b\"");
    let config = read(&text).unwrap();
    let is_for = |model| config.fallbacks[0].is_for(model);
    assert_eq!((is_for("a"), is_for("b"), is_for("any")), (true, false, true));
}

#[test]
fn every_problem_is_told_by_its_path() {
    let text = format!(
        "{BASE}
        [[fallback]]
        for = \"a\"
        [[fallback]]
        name = \"x y\"
        for = \"a\"
        model = \"a\"
        on = []
        [[fallback]]
        name = \"twice\"
        for = \"a\"
        model = \"c\"
        base_url = \"https://other.example\"
        on = [\"quota\", \"rain\", 7]
        [[fallback]]
        name = \"itself\"
        for = \"no-such\"
        base_url = \"HTTP://127.0.0.1:9\"
        api_key = \"env:KEY\"
        [[fallback]]
        name = \"twice\"
        api_key = \"sk-planted\"
        after = 5
        until = 1"
    );
    let problems = told(&text);
    for line in [
        "fallback[0].name: is missing",
        "fallback[0]: is no other account",
        "fallback[1].name: 1 to 64",
        "fallback[1]: is no other account",
        "fallback[1].on: names nothing",
        "fallback[2].model: [models] has no profile for \"c\"",
        "fallback[2].base_url: needs an `api_key` of its own",
        "fallback[2].on: \"quota\", \"overload\" and \"failure\" are expected, got \"rain\"",
        "fallback[2].on: \"quota\", \"overload\" and \"failure\" are expected, got 7",
        "fallback[3].for: [models] has no profile for \"no-such\"",
        "fallback[3].api_key: is that of `upstream.api_key`",
        "fallback[4].name: twice is there twice",
        "fallback[4].for: is missing",
        "fallback[4].api_key: a reference is expected",
        "fallback[4].after: a duration",
        "fallback[4].until: unknown key",
    ] {
        assert!(problems.contains(line), "{line}\n{problems}");
    }
    assert!(!problems.contains("sk-planted"), "{problems}");
    let open = BASE.replace("api_key = \"env:KEY\"", "");
    let text = format!("{open}\n[[fallback]]\nname = \"x\"\nfor = \"a\"\napi_key = \"env:SECOND\"");
    let problems = told(&text);
    assert!(problems.contains("fallback[0].api_key: needs `upstream.api_key`"), "{problems}");
    // Another key there is another account, and the same key elsewhere is none of it.
    for (url, key) in [("http://127.0.0.1:9", "env:SECOND"), ("http://127.0.0.1:10", "env:KEY")] {
        let entry = format!("name = \"x\"\nfor = \"a\"\nbase_url = {url:?}\napi_key = {key:?}");
        assert!(read(&format!("{BASE}\n[[fallback]]\n{entry}")).is_ok(), "{url} {key}");
    }
    let many: String = (0..17)
        .map(|n| format!("[[fallback]]\nname = \"n{n}\"\nfor = \"a\"\nmodel = \"b\"\n"))
        .collect();
    let problems = told(&format!("{BASE}{many}"));
    assert!(problems.contains("fallback[16]: one too many: at most 16"), "{problems}");
}

#[test]
fn one_place_is_known_however_it_is_written() {
    let place = |url: &str| crate::config::place(&url.parse().unwrap());
    assert_eq!(place("https://API.example.com"), place("https://api.example.com:443"));
    assert_eq!(place("http://h"), place("http://h:80"));
    assert_ne!(place("http://h"), place("https://h"));
    assert_ne!(place("http://h:81"), place("http://h"));
    assert_eq!(place("http://[::1]:8"), "http://[::1]:8");
}
