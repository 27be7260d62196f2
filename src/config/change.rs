//! What one configuration changes of another, by path, and what of that a running gateway takes up.
//!
//! # Invariants
//!
//! - Complete: it compares what [`Config::to_toml`] shows, which is all there is to configure, and
//!   beside that what files and variables hold, of which only the path is told.
//! - Nothing secret is shown: what is compared is shown by `/config`, too; the hash of a key is not.
//! - A key that is not in [`KEYS`] counts as one that needs a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use toml::{Table, Value};

use super::{Config, print};

/// A value that is another one in the next configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// Its path: `models."*".limits.tokens/minute.limit`.
    pub path: String,
    /// What it was; `None` if it was not there, or is not to be shown.
    pub before: Option<String>,
    /// What it is now; `None` if it is not there any more, or is not to be shown.
    pub after: Option<String>,
    /// Whether a running gateway cannot take it up.
    pub restart: bool,
}

/// The keys, or all below a path, that a running gateway takes up, and those that are fixed for as long
/// as a process runs: sockets and their limits, what holds data, and what began with the process.
const KEYS: [(&str, Taken); 44] = [
    ("server.listen", Taken::AtStart),
    ("server.admin", Taken::AtStart),
    ("server.admin_token", Taken::Live),
    ("server.admin_open", Taken::Live),
    ("server.admin_hosts", Taken::Live),
    ("server.tls.cert", Taken::Live),
    ("server.tls.key", Taken::Live),
    ("server.tls.client_ca", Taken::Live),
    ("server.tls.admin", Taken::AtStart),
    ("server.max_connections", Taken::AtStart),
    ("server.max_connections_per_ip", Taken::AtStart),
    ("server.max_body_bytes", Taken::Live),
    ("server.header_timeout", Taken::AtStart),
    ("server.body_timeout", Taken::Live),
    ("server.write_timeout", Taken::AtStart),
    ("server.reuse_port", Taken::AtStart),
    ("server.drain_delay", Taken::Live),
    ("server.drain_timeout", Taken::Live),
    ("server.reload", Taken::Live),
    ("upstream", Taken::Live),
    ("admission", Taken::Live),
    ("classes", Taken::Live),
    ("retry", Taken::Live),
    ("breaker", Taken::Live),
    ("log.level", Taken::Live),
    ("log.format", Taken::AtStart),
    ("log.requests", Taken::Live),
    ("metrics", Taken::AtStart),
    ("state", Taken::AtStart),
    ("batch.dir", Taken::AtStart),
    ("batch.class", Taken::Live),
    ("batch.max_lines", Taken::Live),
    ("batch.max_file_bytes", Taken::Live),
    ("batch.max_stored_bytes", Taken::Live),
    ("batch.max_batches", Taken::Live),
    ("batch.max_in_flight", Taken::AtStart),
    ("batch.max_attempts", Taken::Live),
    ("batch.keep", Taken::Live),
    ("identity", Taken::Live),
    ("keys", Taken::Live),
    ("models", Taken::Live),
    ("fallback", Taken::Live),
    ("shared", Taken::AtStart),
    ("traces", Taken::AtStart),
];

/// When a value is taken up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Taken {
    /// By a running gateway.
    Live,
    /// When it starts.
    AtStart,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => write!(f, ": {before} -> {after}"),
            (Some(before), None) => write!(f, ": {before} -> (not there)"),
            (None, Some(after)) => write!(f, ": (not there) -> {after}"),
            (None, None) => write!(f, ": what it refers to, or hides, has changed"),
        }
    }
}

/// What `next` changes of what is `running`, in the order of the paths.
pub fn changes(running: &Config, next: &Config) -> Vec<Change> {
    let mut all = compared(&print::to_table(running), next);
    // What the printed form does not show: secrets, and what files hold.
    let token = |config: &Config| config.server.admin_access.token.clone();
    let mut server = next.server.clone();
    server.admin_access.token = token(running);
    let hidden = [
        ("server.admin_token", token(running) == token(next)),
        ("server", running.server == server),
        ("upstream.api_key", running.upstream == next.upstream),
        ("keys", running.keys == next.keys),
        ("models", running.models == next.models),
        ("fallback", running.fallbacks == next.fallbacks),
        ("shared", running.shared == next.shared),
        ("traces", running.traces == next.traces),
    ];
    for (path, is_same) in hidden {
        // A token is compared by itself, others with all that is in their section.
        let by_itself = path == "server.admin_token";
        let section = if by_itself { path } else { path.split('.').next().unwrap_or(path) };
        let is_shown = |it: &Change| below(&it.path, section);
        if !is_same && !all.iter().any(is_shown) {
            let restart = matches!(path, "server" | "shared" | "traces");
            all.push(Change { path: path.to_owned(), before: None, after: None, restart });
        }
    }
    all
}

/// What `next` changes of a configuration that was printed as `running`. What secrets and files hold
/// cannot be compared.
///
/// # Errors
///
/// If the text is no TOML.
pub fn changes_to(running: &str, next: &Config) -> Result<Vec<Change>, toml::de::Error> {
    Ok(compared(&running.parse()?, next))
}

fn compared(running: &Table, next: &Config) -> Vec<Change> {
    let next_table = print::to_table(next);
    let order = reordered(running, &next_table);
    // A listener that speaks TLS goes on to, one that does not goes on not to.
    let tls_anew = is_encrypted(running) != is_encrypted(&next_table);
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    flatten("", &Value::Table(running.clone()), &mut before);
    flatten("", &Value::Table(next_table), &mut after);
    // Replicas know each other's classes by their place in the order of ranks.
    let ranked_anew = next.shared.is_some() && !next.classes.is_by_rank();
    let mut all = Vec::new();
    let paths: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for path in paths {
        let (before, after) = (before.get(path), after.get(path));
        if before == after {
            continue;
        }
        let is_class = below(path, "classes");
        let (come, gone) = (before.is_none(), after.is_none());
        // Metrics and requests on their way know classes by their index.
        let restart = taken(path) != Some(Taken::Live)
            || (is_class && (come || gone || ranked_anew))
            || (below(path, "server.tls") && tls_anew);
        let shown = |value: Option<&String>| value.filter(|_| !path.ends_with(".hash")).cloned();
        let (before, after) = (shown(before), shown(after));
        all.push(Change { path: path.clone(), before, after, restart });
    }
    all.extend(order);
    all
}

/// Whether there is a certificate.
fn is_encrypted(table: &Table) -> bool {
    let tls = table.get("server").and_then(|server| server.get("tls"));
    let cert = tls.and_then(|tls| tls.get("cert")).and_then(Value::as_str);
    cert.is_some_and(|cert| !cert.is_empty())
}

/// That fallbacks which were there before are tried in another order: their paths do not say so.
fn reordered(running: &Table, next: &Table) -> Option<Change> {
    let names = |table: &Table| -> Vec<String> {
        let all = table.get("fallback").and_then(Value::as_array);
        all.into_iter().flatten().filter_map(named).collect()
    };
    let (before, after) = (names(running), names(next));
    let both = |names: &[String], others: &[String]| {
        let stay = names.iter().filter(|name| others.contains(name));
        stay.cloned().collect::<Vec<_>>().join(", ")
    };
    let (before, after) = (both(&before, &after), both(&after, &before));
    (before != after).then(|| Change {
        path: "fallback".to_owned(),
        before: Some(before),
        after: Some(after),
        restart: false,
    })
}

/// When the value at a path is taken up.
fn taken(path: &str) -> Option<Taken> {
    KEYS.iter().find(|(key, _)| below(path, key)).map(|(_, taken)| *taken)
}

/// Whether a path is that of a key, or below it.
fn below(path: &str, key: &str) -> bool {
    path.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Every value by its path; the entries of a list by what names them.
fn flatten(path: &str, value: &Value, into: &mut BTreeMap<String, String>) {
    let child = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    match value {
        Value::Table(table) => {
            for (name, value) in table {
                let bare = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
                let is_bare = !name.is_empty() && name.chars().all(bare);
                let name = if is_bare { name.clone() } else { format!("{name:?}") };
                flatten(&child(&name), value, into);
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                flatten(&child(&named(value).unwrap_or_else(|| index.to_string())), value, into);
            }
        }
        scalar => {
            into.insert(path.to_owned(), scalar.to_string());
        }
    }
}

/// What an entry of a list is called: a limit by its unit and window, others by their names.
fn named(entry: &Value) -> Option<String> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str);
    match (text("unit"), text("name")?) {
        (Some(unit), window) => Some(format!("{unit}/{window}")),
        (None, name) => Some(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    const BASE: &str = r#"
        [upstream]
        base_url = "http://h"
        api_key = "env:KEY"
        [models."*"]
        output_reservation = { default = 1 }
        limits = [{ unit = "tokens", limit = 9, per = "1m" }]
        [[keys]]
        name = "team-a"
        hash = "sha256:0101010101010101010101010101010101010101010101010101010101010101"
    "#;

    fn read(text: &str, key: &str) -> Config {
        let environment = [("KEY".to_owned(), key.to_owned())];
        Config::parse(text, environment, &Overrides::default()).unwrap()
    }

    fn shown(all: &[Change]) -> Vec<String> {
        all.iter().map(|it| format!("{}{it}", if it.restart { "!" } else { "" })).collect()
    }

    #[test]
    fn what_changes_is_told_by_its_path_and_secrets_are_not() {
        let running = read(BASE, "planted-1");
        assert_eq!(changes(&running, &read(BASE, "planted-1")), []);
        let other = BASE
            .replace("limit = 9, per = \"1m\"", "limit = 8, per = \"1m\"")
            .replace("\"sha256:0101", "\"sha256:0202")
            .replace("[upstream]", "server.listen = \"0.0.0.0:1\"\n[upstream]")
            + "weight = 2\n[models.\"a.b\"]\nmax_concurrent = 3\n";
        let seen = shown(&changes(&running, &read(&other, "planted-2")));
        for expected in [
            "keys.team-a.hash: what it refers to, or hides, has changed",
            "keys.team-a.weight: 1 -> 2",
            "models.\"*\".limits.tokens/minute.limit: 9 -> 8",
            "models.\"a.b\".max_concurrent: (not there) -> 3",
            "upstream.api_key: what it refers to, or hides, has changed",
            "!server.listen: \"127.0.0.1:8080\" -> \"0.0.0.0:1\"",
        ] {
            assert!(seen.iter().any(|it| it == expected), "no {expected:?} in {seen:#?}");
        }
        let said = seen.join(" ");
        assert!(!said.contains("planted") && !said.contains("0101"), "{said}");
        let told = changes_to(&running.to_toml(), &read(BASE, "planted-2")).unwrap();
        assert_eq!(told, [], "what is printed says nothing of secrets");
    }

    #[test]
    fn fallbacks_are_told_by_name_and_so_is_their_order() {
        let entry = |name: &str, more: &str| {
            format!("[[fallback]]\nname = {name:?}\nfor = \"*\"\n{more}\n")
        };
        let account = |key: &str| format!("base_url = \"http://o\"\napi_key = \"env:{key}\"");
        let (one, two) = (entry("one", "model = \"b\""), entry("two", &account("KEY")));
        let running = read(&format!("{BASE}{one}{two}"), "planted-1");
        assert_eq!(changes(&running, &read(&format!("{BASE}{one}{two}"), "planted-1")), []);
        let turned = read(&format!("{BASE}{two}{one}"), "planted-1");
        assert_eq!(shown(&changes(&running, &turned)), ["fallback: one, two -> two, one"]);
        let told = changes_to(&running.to_toml(), &turned).unwrap();
        assert_eq!(shown(&told), ["fallback: one, two -> two, one"]);
        let slower = read(&format!("{BASE}{one}after = \"7s\"\n"), "planted-1");
        let seen = shown(&changes(&running, &slower));
        assert!(seen.contains(&"fallback.one.after: \"10s\" -> \"7s\"".to_owned()), "{seen:?}");
        assert!(
            seen.iter().all(|it| it.starts_with("fallback.")),
            "live, and nothing else: {seen:?}"
        );
        // Its key is another one, and so is the gateway's own.
        let seen = shown(&changes(&running, &read(&format!("{BASE}{one}{two}"), "planted-2")));
        let hidden = |path: &str| format!("{path}: what it refers to, or hides, has changed");
        assert_eq!(seen, [hidden("upstream.api_key"), hidden("fallback")]);
    }

    #[test]
    fn classes_keep_their_indexes_and_stay_the_same() {
        let class = |ranks: [u32; 2]| {
            let [one, two] = ranks;
            format!(
                "{BASE}class = \"b\"\n[admission]\ndefault_class = \"a\"\n[classes]\na.rank = {one}\nb.rank = {two}\n"
            )
        };
        let running = read(&class([0, 1]), "k");
        let again = |text: &str| {
            let environment = [("KEY".to_owned(), "k".to_owned())];
            let directory = std::path::Path::new("");
            let read =
                Config::read(Some(&running), text, directory, environment, &Overrides::default());
            read.unwrap()
        };
        let turned = again(&class([5, 2]));
        assert_eq!(turned.classes.names().collect::<Vec<_>>(), ["a", "b"], "by index");
        assert_eq!((turned.classes.default(), turned.keys[0].class), (0, Some(1)));
        let seen = shown(&changes(&running, &turned));
        assert_eq!(seen, ["classes.a.rank: 0 -> 5", "classes.b.rank: 1 -> 2"]);
        // Where replicas know classes by their order, that cannot change.
        let sharing = again(&(class([5, 2]) + "[shared]\nurl = \"redis://h\"\n"));
        let before = Config { shared: sharing.shared.clone(), ..running.clone() };
        let seen = shown(&changes(&before, &sharing));
        assert_eq!(seen, ["!classes.a.rank: 0 -> 5", "!classes.b.rank: 1 -> 2"]);
        let more = again(&(class([0, 1]) + "c.rank = 2\n"));
        let seen = changes(&running, &more);
        let mut of_classes = seen.iter().filter(|it| below(&it.path, "classes")).peekable();
        assert!(of_classes.peek().is_some() && of_classes.all(|it| it.restart), "a class comes");
    }

    #[test]
    fn the_documentation_says_the_same() {
        let page = include_str!("../../docs/CONFIG.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
        let known = |key: &str| KEYS.iter().any(|(other, _)| *other == key);
        let rows: BTreeMap<_, _> = rows.filter(|(key, _)| known(key)).collect();
        for (key, taken) in KEYS {
            let start = match taken {
                Taken::Live => "takes it up",
                Taken::AtStart => "needs a restart",
            };
            assert!(rows.get(key).is_some_and(|it| it.starts_with(start)), "{key}: {rows:?}");
        }
    }

    /// Every key of the file that has them all is in the list, by one entry and not by two.
    #[test]
    fn every_key_is_known_to_be_taken_up_or_not() {
        let full = include_str!("../../config/full.toml");
        let mut paths = BTreeMap::new();
        flatten("", &Value::Table(full.parse().unwrap()), &mut paths);
        // Those that are left out by default: a line `# name = value` below its section.
        let mut section = String::new();
        for line in full.lines() {
            let plain = line.trim_start_matches("# ");
            if plain.starts_with('[') {
                let name = plain.trim_matches(['[', ']']).split(['"', ' ', ']']).next();
                name.unwrap_or_default().trim_end_matches('.').clone_into(&mut section);
            }
            let key = plain.split_once(" = ").map(|(key, _)| key);
            let is_key = |key: &&str| key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            if let Some(key) = key.filter(is_key).filter(|_| !section.is_empty()) {
                paths.insert(format!("{section}.{key}"), String::new());
            }
        }
        assert!(paths.len() > 70 && paths.contains_key("keys.weight"), "{paths:?}");
        for path in paths.keys() {
            let known = KEYS.iter().filter(|(key, _)| below(path, key)).count();
            assert_eq!(known, 1, "{path}: say in KEYS whether a running gateway takes it up");
        }
        for (key, _) in KEYS {
            assert!(paths.keys().any(|path| below(path, key)), "{key} is no key any more");
        }
    }
}
