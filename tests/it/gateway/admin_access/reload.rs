//! Another token for an admin port that is in use.

use std::fs;
use std::path::Path;

use http::StatusCode;
use tempfile::TempDir;
use tidegate::config::{Origin, Overrides};
use tidegate::server::Reloaded;
use tokio::time::timeout;

use super::{TOKEN, browser, cookie, login};
use crate::support::process::{Process, tidegate};
use crate::support::{ACCOUNT_KEY, Gateway, PATIENCE, config_text, eventually, send};

const NEXT: &str = "planted-next-admin-token";

/// The status of a page for whoever presents this token.
async fn with_token(gateway: &Gateway, token: &str) -> StatusCode {
    let url = format!("http://{}/status", gateway.admin);
    send(browser().get(url).bearer_auth(token)).await.status()
}

async fn with_session(gateway: &Gateway, session: &str) -> StatusCode {
    let url = format!("http://{}/status", gateway.admin);
    send(browser().get(url).header("cookie", session)).await.status()
}

/// The paths of what was taken up.
fn applied(reloaded: &Reloaded) -> Vec<String> {
    let changed: Vec<_> = match reloaded {
        Reloaded::Applied(changed) => changed.iter().map(|it| it.path.clone()).collect(),
        Reloaded::Unchanged | Reloaded::Refused(_) => Vec::new(),
    };
    assert!(!changed.is_empty(), "not taken up: {reloaded:?}");
    changed
}

/// The configuration that asks for the token in a file.
fn locked(path: &Path) -> String {
    format!("server.admin_token = \"file:{}\"", path.display())
}

#[tokio::test]
async fn another_token_counts_at_once_and_ends_what_the_one_before_began() {
    let directory = TempDir::new().expect("a directory");
    let in_directory = |name: &str| directory.path().join(name);
    let (config, one, other) =
        (in_directory("tidegate.toml"), in_directory("one"), in_directory("other"));
    let with = |lines: &str| {
        fs::write(&config, config_text("http://127.0.0.1:9", lines)).expect("room");
    };
    fs::write(&one, TOKEN).expect("room");
    with(&locked(&one));
    let environment = [("ACCOUNT_KEY".to_owned(), ACCOUNT_KEY.to_owned())];
    let origin = Origin::new(Some(&config), environment, Overrides::default());
    let (gateway, reloader) = Gateway::start_from(origin);
    let session = cookie(&send(login(&gateway, "token=planted-admin-token")).await);
    let events = browser().get(format!("http://{}/events", gateway.admin));
    let mut events = send(events.header("cookie", &session)).await;
    assert!(events.chunk().await.expect("open").is_some());
    assert_eq!(reloader.reload().await, Reloaded::Unchanged);
    assert_eq!(with_session(&gateway, &session).await, 200);
    // A new value behind the same reference, beside another change.
    fs::write(&one, format!("{NEXT}\n")).expect("room");
    with(&format!("{}\nserver.drain_timeout = \"7s\"", locked(&one)));
    let changed = applied(&reloader.reload().await);
    assert_eq!(changed, ["server.drain_timeout", "server.admin_token"]);
    assert_eq!(with_token(&gateway, TOKEN).await, 401);
    assert_eq!(with_session(&gateway, &session).await, 401);
    assert_eq!(with_token(&gateway, NEXT).await, 200);
    let ended = async { while events.chunk().await.expect("an end in order").is_some() {} };
    timeout(PATIENCE, ended).await.expect("the stream of the session ends, too");
    assert_eq!(send(login(&gateway, "token=planted-admin-token")).await.status(), 401);
    let next = cookie(&send(login(&gateway, "token=planted-next-admin-token")).await);
    assert_eq!(with_session(&gateway, &next).await, 200);
    // What is no token leaves the one before in force.
    fs::write(&other, "planted-short").expect("room");
    with(&locked(&other));
    let Reloaded::Refused(why) = reloader.reload().await else { panic!("taken up") };
    assert!(why.contains("too short") && !why.contains("planted"), "{why}");
    assert_eq!(with_session(&gateway, &next).await, 200);
    // Another reference, with the same value: sessions go on.
    fs::write(&other, NEXT).expect("room");
    let changed = applied(&reloader.reload().await);
    assert!(changed.contains(&"server.admin_token".to_owned()), "{changed:?}");
    assert_eq!(with_session(&gateway, &next).await, 200);
    // None, which loopback allows, and one again.
    with("");
    applied(&reloader.reload().await);
    assert_eq!(with_session(&gateway, "").await, 200);
    let named = || {
        let url = format!("http://{}/status", gateway.admin);
        browser().get(url).header("host", "status.example")
    };
    assert_eq!(send(named()).await.status(), 421);
    with("server.admin_hosts = [\"status.example\"]");
    assert_eq!(applied(&reloader.reload().await), ["server.admin_hosts.0"]);
    assert_eq!(send(named()).await.status(), 200);
    with(&locked(&one));
    applied(&reloader.reload().await);
    assert_eq!(with_session(&gateway, "").await, 401);
    assert_eq!(with_token(&gateway, NEXT).await, 200);
    gateway.stop.cancel();
    gateway.ended().await;
}

#[tokio::test]
async fn a_token_that_is_replaced_in_its_file_is_noticed() {
    let directory = TempDir::new().expect("a directory");
    let (config, token) = (directory.path().join("tidegate.toml"), directory.path().join("token"));
    fs::write(&token, TOKEN).expect("room");
    fs::write(&config, config_text("http://127.0.0.1:9", &locked(&token))).expect("room");
    let config = config.to_str().expect("text");
    let process = Process::start(&mut tidegate(&["serve", "--stateless", "--config", config]));
    let status = async |token: &str| {
        let url = format!("http://{}/status", process.admin);
        send(browser().get(url).bearer_auth(token)).await.status()
    };
    assert_eq!(status(TOKEN).await, 200);
    fs::write(&token, NEXT).expect("room");
    eventually("the next token", async || (status(NEXT).await == 200).then_some(())).await;
    assert_eq!(status(TOKEN).await, 401);
}
