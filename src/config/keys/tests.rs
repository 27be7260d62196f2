use std::io::Write;

use super::*;
use crate::config::Overrides;
use crate::limit::Unit;

const BASE: &str = r#"
[upstream]
base_url = "http://127.0.0.1:9"
api_key = "env:KEY"
[models."*"]
output_reservation = { default = 100 }
limits = [{ unit = "tokens", limit = 1_000, per = "1m" }]
"#;

fn hash(digit: char) -> String {
    format!("sha256:{}", digit.to_string().repeat(64))
}

fn read(text: &str) -> Result<Config, Problems> {
    let environment = [("KEY".to_owned(), "planted-secret".to_owned())];
    Config::parse(&format!("{BASE}{text}"), environment, &Overrides::default())
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn with_file(file: &tempfile::NamedTempFile, text: &str) -> Result<Config, Problems> {
    read(&format!("{text}\n[identity]\nkeys_file = {:?}\n", file.path()))
}

#[test]
fn everything_that_is_said_of_a_key_is_read_and_printed_as_it_was() {
    let text = format!(
        r#"
        [[keys]]
        name = "team-a"
        hash = "{}"
        previous = [{{ hash = "{}", expires = 2026-01-01T00:00:00+01:00 }}]
        expires = "2027-01-01T00:00:00Z"
        revoked = true
        models = ["a", "b*"]
        limits = [
          {{ unit = "requests", limit = 1_000, per = "1m" }},
          {{ unit = "tokens", limit = 5, per = "1d", mode = "fixed", reserve = 0.5 }},
        ]
        max_concurrent = 3
        output_cap = "clamp:9"
        "#,
        hash('1'),
        hash('2')
    );
    let config = read(&text).unwrap();
    let key = &config.keys[0];
    let instant = |text: &str| Timestamp::parse_rfc3339(text).unwrap();
    assert_eq!(key.expires, Some(instant("2027-01-01T00:00:00Z")));
    assert_eq!(key.previous[0].expires, instant("2025-12-31T23:00:00Z"));
    assert!(key.revoked);
    let terms = key.terms.as_ref().unwrap();
    assert!(terms.allow("a") && terms.allow("bc") && !terms.allow("c"));
    assert_eq!((terms.limits[0].unit(), terms.limits[0].limit()), (Unit::Requests, 1_000));
    assert_eq!((terms.limits[1].to_string().as_str(), terms.limits.len()), ("tokens/day", 2));
    assert_eq!(terms.max_concurrent.map(|most| most.get()), Some(3));
    let environment = [("KEY".to_owned(), "planted-secret".to_owned())];
    let again = Config::parse(&config.to_toml(), environment, &Overrides::default()).unwrap();
    assert_eq!(again.keys, config.keys);
    assert_eq!(again.output_choices, config.output_choices);
}

#[test]
fn what_makes_no_sense_of_a_key_is_listed_with_its_place() {
    let text = format!(
        r#"
        [[keys]]
        name = "operator"
        hash = "{0}"
        previous = [{{ hash = "{0}", expires = "soon" }}, {{ hash = "sk-planted" }}]
        expires = 5
        revoked = "yes"
        models = ["a*b", 5]
        limits = [{{ unit = "tokens", limit = 5, per = "1d", mode = "auto" }}]
        max_concurrent = 0
        [[keys]]
        name = "b"
        hash = "{1}"
        previous = [{2}]
        models = []
        limits = [{{ unit = "calls", limit = 5, per = "1d", learn = "down" }}]
        "#,
        hash('1'),
        hash('2'),
        (3..8)
            .map(|it| format!(
                "{{ hash = \"sha256:{}\", expires = \"2027-01-01\" }}",
                it.to_string().repeat(64)
            ))
            .collect::<Vec<_>>()
            .join(", "),
    );
    let shown = read(&text).unwrap_err().to_string();
    for expected in [
        "keys[0].name (line 10): operator is whoever runs the gateway",
        "keys[0].previous[0].hash (line 12): is another key's",
        "keys[0].previous[0].expires (line 12): an instant is expected",
        "keys[0].previous[1].hash (line 12): \"sha256:\" and 64",
        "keys[0].previous[1].expires (line 12): is missing",
        "keys[0].expires (line 13): an instant is expected",
        "keys[0].revoked (line 14): true or false",
        "keys[0].models (line 15): a model's name is expected",
        "keys[0].limits (line 16): `mode = \"auto\"`",
        "keys[0].max_concurrent (line 17): at least 1",
        "keys[1].previous (line 21): at most 4 keys",
        "keys[1].models (line 22): is empty",
        "keys[1].limits (line 23): `learn` has no meaning",
        "keys[1].limits[0].unit (line 23): \"requests\", \"tokens\"",
    ] {
        assert!(shown.contains(expected), "no {expected:?} in\n{shown}");
    }
    assert!(!shown.contains("sk-planted"), "{shown}");
}

#[test]
fn keys_of_the_file_are_added_and_not_printed_twice() {
    let file =
        file(&format!("[[keys]]\nname = \"b\"\nhash = \"{}\"\nclass = \"batch\"\n", hash('2')));
    let own = format!("[[keys]]\nname = \"a\"\nhash = \"{}\"", hash('1'));
    let config = with_file(&file, &own).unwrap();
    let names: Vec<_> = config.keys.iter().map(|key| (&*key.name, key.in_keys_file)).collect();
    assert_eq!(names, [("a", false), ("b", true)]);
    assert_eq!(config.files, [file.path()], "to be looked at for changes");
    let environment = [("KEY".to_owned(), "planted-secret".to_owned())];
    let again = Config::parse(&config.to_toml(), environment, &Overrides::default()).unwrap();
    assert_eq!(again.keys, config.keys);
}

#[test]
fn problems_of_the_file_name_it() {
    let twice = file(&format!(
        "other = 1\n[[keys]]\nname = \"a\"\nhash = \"{}\"\n\n[[keys]]\nname = \"c\"\nclass = \"fast\"",
        hash('1')
    ));
    let own = format!("[[keys]]\nname = \"a\"\nhash = \"{}\"", hash('1'));
    let shown = with_file(&twice, &own).unwrap_err().to_string();
    let path = twice.path().display().to_string();
    for expected in [
        "other (line 1): unknown key; known here: keys",
        "keys[0].name (line 3): a is there twice",
        "keys[0].hash (line 4): is another key's",
        "keys[1].hash (line 6): is missing",
        "keys[1].class (line 8): one of interactive, standard, batch",
    ] {
        let expected = format!("{path}: {expected}");
        assert!(shown.contains(&expected), "no {expected:?} in\n{shown}");
    }
    let broken = file("[[keys]");
    let shown = with_file(&broken, "").unwrap_err().to_string();
    assert!(shown.contains(&format!("{}: syntax (line 1)", broken.path().display())), "{shown}");
}

#[test]
fn a_file_without_keys_lets_nobody_in_and_none_that_is_there_does_not_pass() {
    let open = read("").unwrap();
    assert!(open.lets_everybody_in() && matches!(open.access(), Access::Open));
    let empty = file("# none yet\n");
    let closed = with_file(&empty, "").unwrap();
    let Access::Keys(keys) = closed.access() else { panic!("nobody holds a key") };
    assert!(keys.open(&[0; 32], Timestamp::default()).is_err());
    let missing = read("[identity]\nkeys_file = \"/nowhere/keys.toml\"").unwrap_err().to_string();
    assert!(missing.contains("identity.keys_file: /nowhere/keys.toml: "), "{missing}");
    assert!(missing.contains("tidegate keys add"), "{missing}");
    let without = BASE.replace("api_key = \"env:KEY\"", "");
    let text = format!("{without}[identity]\nkeys_file = {:?}\n", empty.path());
    let shown = Config::parse(&text, [], &Overrides::default()).unwrap_err().to_string();
    assert!(shown.contains("callers' keys need `upstream.api_key`"), "{shown}");
}

#[test]
fn there_are_so_many_keys_and_no_more() {
    let keys = |count: usize| -> String {
        let key =
            |number| format!("[[keys]]\nname = \"t{number}\"\nhash = \"sha256:{number:064x}\"\n");
        (0..count).map(key).collect()
    };
    assert_eq!(with_file(&file(&keys(MOST_KEYS)), "").unwrap().keys.len(), MOST_KEYS);
    let shown = with_file(&file(&keys(MOST_KEYS + 1)), "").unwrap_err().to_string();
    assert!(shown.contains("keys[10000]") && shown.contains("at most 10000 keys"), "{shown}");
}

#[test]
fn whoever_edits_keys_knows_the_configurations() {
    let main = file(
        "[upstream]\nbase_url = 5\n[identity]\nkeys_file = \"k.toml\"\n[classes.fast]\nrank = 1\n\
         [[keys]]\nname = \"a\"\n",
    );
    let context = KeysContext::load(Some(main.path()), []).unwrap();
    let expected = main.path().with_file_name("k.toml");
    assert_eq!(context.file.as_deref(), Some(&*expected), "beside the configuration");
    let key = |name: &str, class: &str| {
        format!("[[keys]]\nname = \"{name}\"\nhash = \"{}\"\nclass = \"{class}\"", hash('1'))
    };
    assert_eq!(context.check(&key("b", "fast")).unwrap().len(), 1);
    for (name, class) in [("a", "fast"), ("b", "slow")] {
        assert!(context.check(&key(name, class)).is_err(), "{name} {class}");
        assert!(KeysContext::default().check(&key(name, class)).is_ok(), "{name} {class}");
    }
    let variable = ("TIDEGATE_IDENTITY_KEYS_FILE".to_owned(), "/elsewhere/k.toml".to_owned());
    let context = KeysContext::load(None, [variable]).unwrap();
    assert_eq!(context.file.as_deref(), Some(Path::new("/elsewhere/k.toml")));
}
