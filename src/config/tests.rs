use super::*;
use crate::limit::{Mode, Unit};

fn parse(text: &str) -> Result<Config, Problems> {
    Config::parse(text, [], &Overrides::default())
}

fn with(environment: &[(&str, &str)]) -> Result<Config, Problems> {
    let environment = environment.iter().map(|(key, value)| ((*key).into(), (*value).into()));
    Config::parse(DEFAULT_FILE, environment.collect::<Vec<_>>(), &Overrides::default())
}

fn limits(config: &Config) -> Vec<(String, u64)> {
    let profile = config.models.profile("any model").unwrap();
    profile.limits.iter().map(|quota| (quota.to_string(), quota.limit())).collect()
}

#[test]
fn the_shipped_files_are_valid_and_agree_with_the_defaults() {
    let plain = parse(DEFAULT_FILE).unwrap();
    let full = parse(include_str!("../../config/full.toml")).unwrap();
    assert_eq!(plain, full, "full.toml must show the defaults");
    let expected = [
        ("requests/minute", 120),
        ("requests/hour", 7_200),
        ("requests/day", 172_800),
        ("tokens/minute", 1_500_000),
        ("tokens/hour", 120_000_000),
        ("tokens/day", 120_000_000),
    ];
    assert_eq!(limits(&plain), expected.map(|(name, limit)| (name.to_owned(), limit)));
}

#[test]
fn the_effective_configuration_reads_back_as_itself() {
    let text = r#"
        [upstream]
        base_url = "http://127.0.0.1:9/v1"
        api_key = "env:KEY"
        [[keys]]
        name = "team-a"
        hash = "sha256:0101010101010101010101010101010101010101010101010101010101010101"
        weight = 3
        class = "urgent"
        [admission]
        default_class = "rest"
        tenant_header = "X-Team"
        [classes.rest]
        rank = 7
        share = 0.125
        [classes.urgent]
        rank = 2
        [models."*"]
        output_reservation = { default = 100, cap = 200 }
        prompt_estimate = { bytes_per_token = 3.5 }
        limits = [{ unit = "tokens", limit = 1_000, per = "3s", name = "minute", mode = "fixed" }]
        [models.small]
        max_concurrent = 2
        min_gap = "250ms"
    "#;
    let environment = [("KEY".to_owned(), "planted-secret".to_owned())];
    let config = Config::parse(text, environment.clone(), &Overrides::default()).unwrap();
    let small = config.models.profile("small").unwrap();
    assert_eq!((small.limits.len(), small.estimate.output_cap), (1, Some(200)), "inherited");
    let classes: Vec<_> = config.classes.names().collect();
    assert_eq!((classes, config.classes.default()), (vec!["urgent", "rest"], 1), "by rank");
    assert_eq!((config.keys[0].weight.get(), config.keys[0].class), (3, Some(0)));
    let printed = config.to_toml();
    assert!(!printed.contains("planted-secret") && !format!("{config:?}").contains("planted"));
    let mut again = Config::parse(&printed, environment, &Overrides::default()).unwrap();
    again.upstream.base_url = config.upstream.base_url.clone();
    assert_eq!(again, config);
}

#[test]
fn an_empty_key_has_a_path_too() {
    let problems = parse("\"\" = 1\n[log]\n\"\" = 2\n[models.\"*\"]\nlimits = []").unwrap_err();
    let paths: Vec<_> = problems.list().iter().map(|it| it.path.as_str()).collect();
    assert!(paths.contains(&"\"\"") && paths.contains(&"log.\"\""), "{paths:?}");
}

#[test]
fn every_problem_is_listed_with_its_path_and_line() {
    let text = r#"
[server]
listen = "nowhere"
max_connection = 5
header_timeout = 30
[upstream]
base_url = "https://user:hunter2@host"
api_key = "sk-not-a-reference"
[retry]
backoff = "10s"
max_backoff = "1s"
[[keys]]
name = "team a"
hash = "sk-not-a-hash"
weight = 0
class = "fast"
[admission]
default_class = "slow"
tenant_header = "not a name"
[classes.Loud]
share = 0.6
[classes.quiet]
rank = 1
share = 0.6
[models."*"]
output_reservation = { default = 5_000 }
limits = [
  { unit = "tokens", limit = 1_000, per = "1m" },
  { unit = "token", limit = 0, per = "1m" },
  { unit = "requests", limit = 0, per = "1m" },
  { unit = "tokens", limit = 2_000, per = "60s", skew = "1s" },
]
[unknown]
"#;
    let problems = parse(text).unwrap_err();
    let shown = problems.to_string();
    for expected in [
        "server.listen (line 3): an address and port is expected",
        "server.max_connection (line 4): unknown key; known here: listen",
        "server.header_timeout (line 5): a duration with its unit is expected",
        "upstream.base_url (line 7): \"http://HOST[:PORT]\"",
        "upstream.api_key (line 8): a reference is expected",
        "retry.max_backoff (line 11): must not be below",
        "keys[0].name (line 13): 1 to 64",
        "keys[0].hash (line 14): \"sha256:\"",
        "keys[0].weight (line 15): at least 1",
        "keys[0].class (line 16): one of Loud, quiet is expected, got \"fast\"",
        "admission.default_class (line 18): one of Loud, quiet is expected",
        "admission.tenant_header (line 19): the name of a header",
        "classes.Loud (line 20): a class is named by",
        "classes.Loud.rank (line 20): is missing",
        "classes (line 20): the shares come to more than 1",
        "models.\"*\".output_reservation.default: 5000 is above the limit of tokens/minute (1000)",
        "models.\"*\".limits[1].unit (line 29): \"requests\", \"tokens\" or \"uncached_tokens\"",
        "models.\"*\".limits[2].limit (line 30): a limit must be between",
        "models.\"*\".limits[3].skew (line 31): only",
        "unknown (line 33): unknown key",
    ] {
        assert!(shown.contains(expected), "no {expected:?} in\n{shown}");
    }
    for secret in ["hunter2", "sk-not-a-reference", "sk-not-a-hash"] {
        assert!(!shown.contains(secret), "{secret} is shown in\n{shown}");
    }
}

#[test]
fn an_authority_of_ones_own_is_a_file_with_certificates() {
    let parse_with = |file: &str| {
        parse(&DEFAULT_FILE.replace("[upstream]", &format!("[upstream]\nca_file = {file:?}")))
    };
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
    std::fs::write(path("two"), certificate.pem().repeat(2)).unwrap();
    std::fs::write(path("none"), "nothing").unwrap();
    std::fs::write(path("bad"), certificate.pem().replacen("MI", "!?", 1)).unwrap();
    let config = parse_with(&path("two")).unwrap();
    assert_eq!((config.upstream.ca.len(), &config.upstream.ca_file), (2, &path("two")));
    assert!(parse(&config.to_toml()).is_ok_and(|again| again == config), "it reads back");
    for (name, problem) in
        [("none", "no certificate in it"), ("bad", "bad"), ("nowhere", "No such")]
    {
        let problems = parse_with(&path(name)).unwrap_err().to_string();
        assert!(problems.contains("upstream.ca_file"), "{problems}");
        assert!(problems.contains(problem), "{problems}");
    }
}

#[test]
fn a_configuration_that_limits_nothing_is_an_error() {
    let upstream = "[upstream]\nbase_url = \"http://h\"\n";
    for (models, why) in [
        ("", "no models at all"),
        ("[models]", "none in the table"),
        ("[models.\"*\"]\noutput_reservation = { default = 1 }", "no limits"),
        ("[models.\"*\"]\noutput_reservation = { default = 1 }\nlimits = []", "an empty list"),
        ("[models.a]\nlimits = [{ unit = \"tokens\", limit = 9, per = \"1m\" }]", "no reservation"),
    ] {
        assert!(parse(&format!("{upstream}{models}")).is_err(), "{why}");
    }
    let twice = "[models.\"*\"]\noutput_reservation = { default = 1 }\nlimits = [\
        { unit = \"tokens\", limit = 9, per = \"1m\" }, { unit = \"tokens\", limit = 8, per = \"60s\" }]";
    let problems = parse(&format!("{upstream}{twice}")).unwrap_err().to_string();
    assert!(problems.contains("tokens/minute is limited twice"), "{problems}");
    let syntax = parse("[server\nlisten = 5\n[upstream]]").unwrap_err().to_string();
    assert!(syntax.contains("syntax (line 1)"), "{syntax}");
}

#[test]
fn politeness_can_be_switched_off_and_is_told_what_makes_no_sense() {
    let quiet = with(&[
        ("TIDEGATE_ADMISSION_HEARTBEAT_AFTER", "0s"),
        ("TIDEGATE_ADMISSION_KEEP_PLACE", "0s"),
    ])
    .unwrap();
    assert!(quiet.admission.heartbeat_after.is_zero() && quiet.admission.keep_place.is_zero());
    let text = format!(
        "{DEFAULT_FILE}\n[admission]\nheartbeat_every = \"0s\"\nkeep_place = 60\n\
         [[keys]]\nname = \"a\"\nheartbeats = \"no\"\n"
    );
    let shown = parse(&text).unwrap_err().to_string();
    for expected in [
        "admission.heartbeat_every",
        "must be above zero",
        "admission.keep_place",
        "a duration with its unit is expected",
        "keys[0].heartbeats",
    ] {
        assert!(shown.contains(expected), "no {expected:?} in\n{shown}");
    }
}

#[test]
fn the_environment_wins_over_the_file_and_flags_over_both() {
    let config = with(&[
        ("CEREBRAS_API_KEY", "key"),
        ("CEREBRAS_MAX_CONCURRENT", "2"),
        ("CEREBRAS_RATE_LIMIT_DELAY", "0.5"),
        ("CEREBRAS_MINUTES_BUDGET", "1200000"),
        ("CEREBRAS_HOURS_BUDGET", "110_000_000"),
        ("CEREBRAS_DAYS_BUDGET", "100000000"),
        ("CEREBRAS_BASE_URL", "http://the-sdk's-own"),
        ("TIDEGATE_SERVER_LISTEN", "0.0.0.0:80"),
        ("TIDEGATE_ADMISSION_MAX_WAIT", "5s"),
        ("TIDEGATE_LOG_REQUESTS", "false"),
        ("HOME", "/"),
    ])
    .unwrap();
    let profile = config.models.profile("any").unwrap();
    assert_eq!(config.upstream.api_key.as_ref().map(Secret::expose), Some("key"));
    assert_eq!(profile.max_concurrent.map(NonZeroU32::get), Some(2));
    assert_eq!(profile.min_gap, Duration::from_millis(500));
    assert_eq!(config.server.listen.to_string(), "0.0.0.0:80");
    assert_eq!((config.admission.max_wait, config.log.requests), (Duration::from_secs(5), false));
    let tokens: Vec<u64> = limits(&config)[3..].iter().map(|(_, limit)| *limit).collect();
    assert_eq!(tokens, [1_200_000, 110_000_000, 100_000_000]);

    let flags = Overrides { listen: Some("127.0.0.1:1".into()), ..Overrides::default() };
    let environment = [("TIDEGATE_SERVER_LISTEN".to_owned(), "127.0.0.1:2".to_owned())];
    let config = Config::parse(DEFAULT_FILE, environment, &flags).unwrap();
    assert_eq!(config.server.listen.port(), 1);

    let problems = with(&[
        ("CEREBRAS_MAX_CONCURRENT", "0"),
        ("CEREBRAS_RATE_LIMIT_DELAY", "-1"),
        ("CEREBRAS_MINUTES_BUDGET", "lots"),
        ("TIDEGATE_SERVER_LISTN", "x"),
        ("TIDEGATE_LISTEN", "x"),
    ]);
    assert_eq!(problems.unwrap_err().list().len(), 5);
}

#[test]
fn state_is_kept_where_it_is_said_the_flags_first() {
    let flags = |dir: Option<&str>, stateless| Overrides {
        state_dir: dir.map(Into::into),
        stateless,
        ..Overrides::default()
    };
    let place = |file: &str, environment: &[(&str, &str)], flags: &Overrides| {
        let text = format!("{DEFAULT_FILE}\n[state]\n{file}");
        let environment = environment.iter().map(|(key, value)| ((*key).into(), (*value).into()));
        let config = Config::parse(&text, environment.collect::<Vec<_>>(), flags).unwrap();
        config.state.place().map(|dir| dir.display().to_string())
    };
    let (file, variable) = ("dir = \"/file\"", [("TIDEGATE_STATE_DIR", "/variable")]);
    let none = [("TIDEGATE_STATE_STATELESS", "true")];
    for (file, environment, dir, stateless, expected) in [
        ("", &[][..], None, false, None),
        (file, &[], None, false, Some("/file")),
        (file, &variable, None, false, Some("/variable")),
        (file, &variable, Some("/flag"), false, Some("/flag")),
        (file, &variable, None, true, None),
        (file, &none, None, false, None),
        (file, &none, Some("/flag"), false, Some("/flag")),
        ("stateless = true", &[], Some("/flag"), false, Some("/flag")),
    ] {
        let seen = place(file, environment, &flags(dir, stateless));
        assert_eq!(seen.as_deref(), expected, "{file} {environment:?} {dir:?} {stateless}");
    }
    let problems = parse(&format!(
        "{DEFAULT_FILE}\n[state]\nsync = \"often\"\nkeep_minutes = \"1m\"\nkeep_hours = 5\n"
    ));
    let problems = problems.unwrap_err().to_string();
    for part in
        ["state.sync", "\"normal\" or \"full\"", "state.keep_minutes", "at least 1h", "3 problems"]
    {
        assert!(problems.contains(part), "no {part:?} in\n{problems}");
    }
}

#[test]
fn serve_keeps_state_in_the_users_home_unless_told_otherwise() {
    let chosen = |state: &str, variables: &[(&str, &str)]| {
        let mut config = parse(&format!("{DEFAULT_FILE}\n[state]\n{state}")).unwrap();
        let variable = |name: &str| {
            let found = variables.iter().find(|(it, _)| *it == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        config.state.choose(variable)?;
        Ok(config.state.place().map(|dir| dir.display().to_string()))
    };
    let (home, xdg) = (("HOME", "/h"), ("XDG_STATE_HOME", "/x"));
    let some = |dir: &str| Ok(Some(dir.to_owned()));
    for (state, variables, expected) in [
        ("", &[home][..], some("/h/.local/state/tidegate")),
        ("", &[home, xdg], some("/x/tidegate")),
        ("", &[home, ("XDG_STATE_HOME", "relative")], some("/h/.local/state/tidegate")),
        ("", &[("HOME", "")], Err(NoDirectory)),
        ("", &[], Err(NoDirectory)),
        ("dir = \"d\"", &[home], some("d")),
        ("stateless = true", &[], Ok(None)),
    ] {
        assert_eq!(chosen(state, variables), expected, "{state} {variables:?}");
    }
}

#[test]
fn a_window_is_named_by_its_length_unless_it_is_named() {
    let config = parse(
        r#"
        [upstream]
        base_url = "http://h"
        [models.a]
        output_reservation = { default = 1 }
        limits = [
          { unit = "requests", limit = 1, per = "1s" },
          { unit = "requests", limit = 1, per = "24h", mode = "fixed", skew = "1s" },
          { unit = "requests", limit = 1, per = "90m", mode = "sliding" },
        ]
        "#,
    )
    .unwrap();
    assert!(config.models.profile("b").is_none(), "no fallback, no profile");
    let limits = &config.models.profile("a").unwrap().limits;
    let names: Vec<_> = limits.iter().map(|quota| (quota.name(), quota.mode())).collect();
    let skew = Duration::from_secs(1);
    let expected =
        [("second", Mode::Bucket), ("day", Mode::Fixed { skew }), ("1h_30m", Mode::Sliding)];
    assert_eq!(names, expected);
    assert!(limits.iter().all(|quota| quota.unit() == Unit::Requests));
}
