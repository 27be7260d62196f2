//! Certificates in other files than before, for a gateway that serves.

use std::fs;

use tempfile::TempDir;
use tidegate::config::{Origin, Overrides};
use tidegate::server::{Reloaded, Reloader};

use super::certificates::{Authority, Files, client};
use super::{RELOADED, ask, serves};
use crate::support::upstream::{Upstream, completion};
use crate::support::{ACCOUNT_KEY, Gateway, config_text};

/// A gateway whose configuration lies in a file.
struct Filed {
    gateway: Gateway,
    reloader: Reloader,
    upstream: String,
    directory: TempDir,
}

impl Filed {
    fn start(upstream: &str, changes: &str) -> Self {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("tidegate.toml");
        fs::write(&path, config_text(upstream, changes)).expect("room");
        let environment = [("ACCOUNT_KEY".to_owned(), ACCOUNT_KEY.to_owned())];
        let origin = Origin::new(Some(&path), environment, Overrides::default());
        let (gateway, reloader) = Gateway::start_from(origin);
        Self { gateway, reloader, upstream: upstream.to_owned(), directory }
    }

    /// The paths of what is taken up, or why nothing is.
    async fn reload(&self, changes: &str) -> Result<Vec<String>, String> {
        let path = self.directory.path().join("tidegate.toml");
        fs::write(path, config_text(&self.upstream, changes)).expect("room");
        match self.reloader.reload().await {
            Reloaded::Applied(changed) => Ok(changed.into_iter().map(|it| it.path).collect()),
            Reloaded::Unchanged => Ok(Vec::new()),
            Reloaded::Refused(why) => Err(why),
        }
    }
}

#[tokio::test]
async fn certificates_in_other_files_are_taken_up_with_the_configuration() {
    let upstream = Upstream::answering(completion()).await;
    let ((before, old), (after, new)) = (Files::fresh("localhost"), Files::fresh("localhost"));
    let filed = Filed::start(&upstream.url(), &old.config(""));
    let gateway = &filed.gateway;
    assert!(serves(gateway, &before).await);
    let changed = filed.reload(&new.config("")).await;
    assert_eq!(changed, Ok(vec!["server.tls.cert".to_owned(), "server.tls.key".to_owned()]));
    assert!(serves(gateway, &after).await && !serves(gateway, &before).await, "at once");
    gateway.wait_metric(RELOADED, 1.0).await;
    // From now on it is the new files that are looked at.
    old.write(&before.issue("localhost", 2098));
    let third = Authority::new();
    let next = third.issue("localhost", 2098);
    new.write(&next);
    crate::support::eventually("the third", async || serves(gateway, &third).await.then_some(()))
        .await;
    // Callers of whom certificates are asked have to have one.
    let staff = Authority::new();
    let changed = filed.reload(&new.config(&new.client_ca(&staff))).await;
    assert_eq!(changed, Ok(vec!["server.tls.client_ca".to_owned()]));
    assert!(ask(gateway, &client(&[&third], None)).await.is_err());
    let mine = staff.issue("me", 2099);
    assert!(ask(gateway, &client(&[&third], Some(&mine))).await.is_ok());
    filed.gateway.close().await;
}

#[tokio::test]
async fn whether_a_port_speaks_tls_stays_as_it_is_until_a_restart() {
    let upstream = Upstream::answering(completion()).await;
    let (authority, files) = Files::fresh("localhost");
    let filed = Filed::start(&upstream.url(), &files.config(""));
    let admin = filed.reload(&files.config("server.tls.admin = true")).await;
    assert_eq!(admin, Err("needs a restart: server.tls.admin".to_owned()));
    let both = "needs a restart: server.tls.cert, server.tls.key".to_owned();
    assert_eq!(filed.reload("").await, Err(both.clone()));
    // A key that is another's is a mistake, and changes nothing either.
    let (_, others) = Files::fresh("localhost");
    let mixed = files
        .config("")
        .replace(files.key().to_str().expect("text"), others.key().to_str().expect("text"));
    let why = filed.reload(&mixed).await.expect_err("the key is another's");
    assert!(why.contains("server.tls.key") && why.contains("is not the key of"), "{why}");
    assert!(serves(&filed.gateway, &authority).await);
    assert!(filed.gateway.metric(RELOADED).await < 0.5);
    filed.gateway.close().await;
    let plain = Filed::start(&upstream.url(), "");
    assert_eq!(plain.reload(&files.config("")).await, Err(both));
    plain.gateway.close().await;
}
