//! `tidegate keys`, and a gateway that reads what it writes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use super::ask;
use crate::support::process::{run, tidegate};
use crate::support::{Gateway, config_text, roomy};

/// A directory with a configuration that names a file of keys.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new(more: &str) -> Self {
        let directory = TempDir::new().expect("a directory");
        let text = format!("identity.keys_file = \"keys.toml\"\n{more}");
        fs::write(directory.path().join("tidegate.toml"), text).expect("room");
        Self { directory }
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// Runs `tidegate keys` with the configuration.
    fn keys(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let config = self.file("tidegate.toml");
        let mut command = tidegate(&["keys", "--config", config.to_str().expect("text")]);
        run(command.args(args))
    }

    /// The same, of which a key is expected.
    fn key(&self, args: &[&str]) -> String {
        let (code, key, said) = self.keys(args);
        assert_eq!((code, key.lines().count()), (Some(0), 1), "{args:?}: {said}");
        key.trim_end().to_owned()
    }

    fn list(&self) -> Value {
        let (code, text, said) = self.keys(&["list", "--json"]);
        assert_eq!(code, Some(0), "{said}");
        serde_json::from_str(&text).expect("JSON")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.file("keys.toml")).expect("a file")
    }
}

#[tokio::test]
async fn a_key_that_was_made_opens_a_gateway_and_one_that_was_replaced_does_for_a_while() {
    let place = Place::new("");
    let first = place.key(&["add", "team-a", "--model", "m"]);
    let over = place.key(&["add", "team-b", "--expires", "2020-01-01"]);
    let second = place.key(&["rotate", "team-a", "--overlap", "1h"]);
    let third = place.key(&["add", "team-c", "--prefix", "acme_"]);
    let fourth = place.key(&["rotate", "team-c", "--overlap", "0s"]);
    let revoked = place.key(&["add", "team-d"]);
    assert_eq!(place.keys(&["revoke", "team-d"]).0, Some(0));
    let removed = place.key(&["add", "team-e"]);
    assert_eq!(place.keys(&["remove", "team-e"]).0, Some(0));
    let simulator = tidegate::simulator::Simulator::start(roomy(), crate::support::ANY).await;
    let simulator = simulator.expect("a free port");
    let file = place.file("keys.toml");
    let changes = format!("upstream.api_key = \"env:ACCOUNT_KEY\"\nidentity.keys_file = {file:?}");
    let gateway = Gateway::start_text(&config_text(&simulator.base_url(), &changes));
    for (key, status, code) in [
        (&first, 200, ""),
        (&second, 200, ""),
        (&over, 401, "expired_api_key"),
        (&third, 401, "wrong_api_key"),
        (&fourth, 200, ""),
        (&revoked, 401, "revoked_api_key"),
        (&removed, 401, "wrong_api_key"),
    ] {
        assert_eq!(ask(&gateway, key, "m").await, (status, code.to_owned()));
    }
    let text = place.text();
    for key in [&first, &over, &second, &third, &fourth, &revoked, &removed] {
        assert!(key.len() >= 46 && !text.contains(&**key), "no key is kept");
    }
    assert!(third.starts_with("acme_") && first.starts_with("tg-"));
    gateway.close().await;
}

#[test]
fn the_list_says_what_a_tenant_may_do_and_no_key() {
    let place = Place::new("");
    let key = place.key(&[
        "add",
        "team-a",
        "--class",
        "batch",
        "--weight",
        "3",
        "--limit",
        "1000 requests/1m",
        "--limit",
        "1M tokens/1d:fixed",
        "--model",
        "a",
        "--model",
        "b*",
        "--max-concurrent",
        "4",
        "--expires",
        "2500-01-01T00:00:00Z",
    ]);
    place.key(&["add", "b"]);
    let mode = fs::metadata(place.file("keys.toml")).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    place.key(&["rotate", "b"]);
    place.keys(&["revoke", "b"]);
    let list = place.list();
    let expected = serde_json::json!({
        "name": "team-a", "state": "active", "class": "batch", "weight": 3,
        "limits": ["1000 requests/1m:bucket", "1000000 tokens/1day:fixed"],
        "models": ["a", "b*"], "max_concurrent": 4, "expires": "2500-01-01T00:00:00Z",
        "previous_until": [],
    });
    assert_eq!(list[0], expected);
    assert_eq!((&list[1]["name"], &list[1]["state"]), (&"b".into(), &"revoked".into()));
    assert_eq!(list[1]["previous_until"].as_array().map(Vec::len), Some(1));
    let (code, table, _) = place.keys(&["list"]);
    let lines: Vec<_> = table.lines().collect();
    assert_eq!((code, lines.len()), (Some(0), 3), "{table}");
    assert!(lines[0].starts_with("NAME") && lines[1].contains("4 at once"), "{table}");
    assert!(!table.contains(&key) && !table.contains("sha256"), "{table}");
}

#[test]
fn what_cannot_be_done_is_said_and_changes_nothing() {
    let own = super::entry("inline", "");
    let place = Place::new(&own);
    place.key(&["add", "team-a"]);
    let before = place.text();
    for (args, code) in [
        (&["add", "team-a"][..], 1),
        (&["add", "inline"], 1),
        (&["add", "no spaces"], 2),
        (&["add", "../../etc/passwd"], 2),
        (&["add", "x\n[[keys]]"], 2),
        (&["add", "\u{1b}[31mred"], 2),
        (&["add", ""], 2),
        (&["add", "operator"], 2),
        (&["add", "b", "--class", "nowhere"], 2),
        (&["add", "b", "--weight", "0"], 2),
        (&["add", "b", "--weight", "1001"], 2),
        (&["add", "b", "--limit", "many requests/1m"], 2),
        (&["add", "b", "--model", "*b"], 2),
        (&["add", "b", "--expires", "soon"], 2),
        (&["add", "b", "--prefix", "a b"], 2),
        (&["add", "b", "--nonsense"], 2),
        (&["add"], 2),
        (&["rotate", "nobody"], 1),
        (&["rotate", "inline"], 1),
        (&["rotate", "team-a", "--overlap", "a while"], 2),
        (&["revoke", "nobody"], 1),
        (&["remove", "nobody"], 1),
        (&["remove", "\u{1b}[2J"], 1),
    ] {
        let (ended, key, said) = place.keys(args);
        assert_eq!((ended, &*key), (Some(code), ""), "{args:?}: {said}");
        assert!(!said.is_empty() && !said.contains('\u{1b}'), "{args:?}: {said:?}");
        assert_eq!(place.text(), before, "{args:?}");
    }
    let (code, _, said) = run(&mut tidegate(&["keys", "list"]));
    assert_eq!(code, Some(2));
    assert!(said.contains("--file"), "{said}");
    let nowhere = ["keys", "--file", "/nowhere/at/all/keys.toml", "add", "a"];
    assert_eq!(run(&mut tidegate(&nowhere)).0, Some(1));
    let broken = place.file("broken.toml");
    fs::write(&broken, "[[keys]").expect("room");
    let broken = broken.to_str().expect("text");
    assert_eq!(run(&mut tidegate(&["keys", "--file", broken, "add", "a"])).0, Some(2));
    assert_eq!(fs::read_to_string(Path::new(broken)).expect("text"), "[[keys]");
}

#[test]
fn programs_that_write_at_once_lose_nothing() {
    let place = Place::new("");
    let keys: Vec<String> = std::thread::scope(|scope| {
        let add = |number: usize| {
            let place = &place;
            scope.spawn(move || place.key(&["add", &format!("t{number}")]))
        };
        let threads: Vec<_> = (0..12).map(add).collect();
        threads.into_iter().map(|thread| thread.join().expect("a key")).collect()
    });
    let list = place.list();
    assert_eq!(list.as_array().map(Vec::len), Some(12));
    let text = place.text();
    for key in &keys {
        assert!(text.contains(&super::hash(key)), "every key that was shown is there");
    }
}
