//! Fallbacks and whose request it is: its models, its own limits, its account's key; and a configuration
//! that has others.

use std::fs;

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tidegate::config::{Origin, Overrides};
use tidegate::server::Reloaded;
use tidegate::simulator::Simulator;

use super::{SCARCE, SECOND_KEY, fallbacks, gateway, start};
use crate::support::upstream::{COMPLETION, Upstream, answer, completion};
use crate::support::{
    ACCOUNT_KEY, ANY, Gateway, config_text, header, hello, refusal, roomy, send, with,
};

/// An entry of `[[keys]]` for a key that is `planted-` and the name.
fn key(name: &str, more: &str) -> String {
    let digest = Sha256::digest(format!("planted-{name}"));
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("[[keys]]\nname = {name:?}\nhash = \"sha256:{hex}\"\n{more}\n")
}

/// Requests that a tenant has spent of its limit, once nothing is held any more.
async fn spent(gateway: &Gateway, tenant: &str) -> i64 {
    let status = gateway.settled().await;
    let tenants = status["tenants"].as_array().expect("a list");
    let found = tenants.iter().find(|it| it["tenant"] == tenant).expect("it has limits");
    let level = &found["constraints"][0];
    level["limit"].as_i64().expect("a number") - level["available"].as_i64().expect("a number")
}

#[tokio::test]
async fn a_key_goes_to_no_model_that_it_may_not_use() {
    let first = Upstream::answering(answer("500 Oops", "", "{}")).await;
    let smaller = "[[fallback]]\nname = \"smaller\"\nfor = \"m\"\nmodel = \"n\"\n";
    let changes = format!(
        "upstream.api_key = \"env:ACCOUNT_KEY\"\nretry.max_attempts = 1\n{}{}{smaller}",
        key("few", "models = [\"m\"]"),
        key("all", "")
    );
    let gateway = start(&first.url(), &changes);
    for (name, sent) in [("few", vec!["m"]), ("all", vec!["m", "n"])] {
        let before = first.seen().len();
        let request = gateway.chat(&hello()).bearer_auth(format!("planted-{name}"));
        let response = send(request).await;
        assert_eq!(response.status(), 500);
        let went = header(&response, "x-tidegate-fallback").is_some();
        assert_eq!(went, name == "all", "{name}");
        drop(response);
        let seen = first.seen();
        let models: Vec<_> = seen[before..]
            .iter()
            .map(|it| serde_json::from_slice::<serde_json::Value>(&it.body).expect("JSON"))
            .map(|body| body["model"].as_str().expect("text").to_owned())
            .collect();
        assert_eq!(models, sent, "{name}");
    }
    gateway.close().await;
}

#[tokio::test]
async fn a_tenant_pays_once_wherever_its_request_is_served_and_its_own_limits_go_with_it() {
    let limit = "limits = [{ unit = \"requests\", limit = 2, per = \"1d\", mode = \"sliding\" }]";
    let broken = Upstream::answering(answer("500 Oops", "", "{}")).await;
    let good = Upstream::answering(completion()).await;
    // After a failed attempt, and instead of a refusal for want of the account's quota.
    for (first, more, gone) in [(&broken, "", 2.0), (&good, SCARCE, 1.0)] {
        let second = Simulator::start(roomy(), ANY).await.expect("a free port");
        let changes = format!("retry.max_attempts = 1\n{more}\n{}", key("few", limit));
        let gateway = gateway(&first.url(), &second.base_url(), &changes, "");
        for round in 1..=2 {
            let response = send(gateway.chat(&hello()).bearer_auth("planted-few")).await;
            assert_eq!(response.status(), 200, "{round}");
            response.bytes().await.expect("whole");
            assert_eq!(spent(&gateway, "few").await, round, "once for each");
        }
        let went = gateway.metric("tidegate_fallbacks_total").await;
        assert!((went - gone).abs() < 0.1, "{went}");
        let response = send(gateway.chat(&hello()).bearer_auth("planted-few")).await;
        let limited_by = header(&response, "x-tidegate-limited-by");
        assert_eq!(limited_by.as_deref(), Some("tenant:requests/day"));
        assert_eq!(header(&response, "x-tidegate-fallback"), None, "they are the same everywhere");
        refusal(response, 429, "wait_exceeded").await;
        let after = gateway.metric("tidegate_fallbacks_total").await;
        assert!((after - gone).abs() < 0.1, "{after}");
        gateway.close().await;
    }
}

#[tokio::test]
async fn no_host_sees_the_key_of_another_account() {
    let first = Upstream::answering(answer("500 Oops", "", "{}")).await;
    let second = Upstream::answering(answer("500 Oops", "", "{}")).await;
    // The first account, the second one, and the first again for another model.
    let again = "[[fallback]]\nname = \"again\"\nfor = \"m\"\nmodel = \"n\"";
    let gateway = gateway(&first.url(), &second.url(), "retry.max_attempts = 1", again);
    let response = send(gateway.chat(&hello()).header("authorization", "Bearer callers")).await;
    assert_eq!(header(&response, "x-tidegate-fallback").as_deref(), Some("again"));
    drop(response);
    let (at_first, at_second) = (first.seen(), second.seen());
    assert_eq!((at_first.len(), at_second.len()), (2, 1));
    for seen in &at_first {
        assert_eq!(seen.all("authorization"), [format!("Bearer {ACCOUNT_KEY}")]);
        assert_eq!(seen.all("host"), [first.addr.to_string()]);
    }
    assert_eq!(at_second[0].all("authorization"), [format!("Bearer {SECOND_KEY}")]);
    assert_eq!(at_second[0].all("host"), [second.addr.to_string()]);
    let (_, metrics) = gateway.page("/metrics").await;
    let shown = [metrics, gateway.status().await.to_string(), gateway.page("/config").await.1];
    assert!(shown.iter().all(|page| !page.contains(SECOND_KEY) && !page.contains(ACCOUNT_KEY)));
    gateway.close().await;
}

#[tokio::test]
async fn no_request_names_where_it_goes() {
    let first = Upstream::answering(completion()).await;
    let second = Upstream::answering(completion()).await;
    let gateway = gateway(&first.url(), &second.url(), "", "");
    let url = second.url();
    for (name, value) in [
        ("host", url.trim_start_matches("http://")),
        ("x-forwarded-host", &url),
        ("x-tidegate-fallback", "on"),
        ("x-tidegate-upstream", &url),
    ] {
        let body = with(hello(), "base_url", url.clone());
        let response = send(gateway.chat(&body).header(name, value)).await;
        assert_eq!(response.status(), 200, "{name}");
        assert_eq!(header(&response, "x-tidegate-fallback"), None, "{name}");
        assert_eq!(response.text().await.expect("whole"), COMPLETION);
    }
    assert_eq!((first.seen().len(), second.seen().len()), (4, 0));
    gateway.close().await;
}

#[tokio::test]
async fn another_configuration_has_others_and_what_they_have_spent_stays_spent() {
    let first = Upstream::answering(answer("500 Oops", "", "{}")).await;
    let second = Upstream::answering(completion()).await;
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("tidegate.toml");
    let secret = directory.path().join("key");
    fs::write(&secret, SECOND_KEY).expect("room");
    let home = "upstream.api_key = \"env:ACCOUNT_KEY\"\nretry.max_attempts = 1\n";
    let entry = format!(
        "[[fallback]]\nname = \"second\"\nfor = \"*\"\nbase_url = {:?}\napi_key = \"file:{}\"\n",
        second.url(),
        secret.display()
    );
    fs::write(&path, config_text(&first.url(), home)).expect("room");
    let environment = [("ACCOUNT_KEY".to_owned(), ACCOUNT_KEY.to_owned())];
    let origin = Origin::new(Some(&path), environment, Overrides::default());
    let (gateway, reloader) = Gateway::start_from(origin);
    let mut served = 0;
    for (changes, status) in [("", 500), (&*entry, 200), ("", 500), (&*entry, 200)] {
        fs::write(&path, config_text(&first.url(), &format!("{home}{changes}"))).expect("room");
        let reloaded = reloader.reload().await;
        if let Reloaded::Applied(changed) = &reloaded {
            let told = changed.iter().all(|it| it.path.starts_with("fallback") && !it.restart);
            assert!(told && !format!("{changed:?}").contains(SECOND_KEY), "{changed:?}");
        } else {
            assert_eq!((reloaded, served), (Reloaded::Unchanged, 0));
        }
        let response = send(gateway.chat(&hello())).await;
        assert_eq!(response.status(), status);
        drop(response);
        served += u64::from(status == 200);
        gateway.settled().await;
    }
    assert_eq!(gateway.metric(&fallbacks("second", "failure")).await.to_string(), "2");
    let status = gateway.settled().await;
    let pools = status["pools"].as_array().expect("a list");
    let used = |pool: &serde_json::Value| {
        let quota = &pool["constraints"][0];
        quota["limit"].as_i64().expect("one") - quota["available"].as_i64().expect("one")
    };
    let mut used: Vec<_> = pools.iter().map(used).collect();
    used.sort_unstable();
    assert_eq!(used, [2, 4], "one ledger of each account, from beginning to end");
    gateway.close().await;
}
