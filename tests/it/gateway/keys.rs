//! Keys of the gateway's own: what they open, until when, and how they are made.

mod command;
mod quotas;

use sha2::{Digest, Sha256};
use tidegate::time::{Timestamp, wall};

use crate::support::wire::{Wire, request};
use crate::support::{Gateway, hello, pair, refusal, roomy, send, with};

/// An entry of `[[keys]]` for a key that is `planted-` and the name, with more said of it.
pub(crate) fn entry(name: &str, more: &str) -> String {
    format!("[[keys]]\nname = {name:?}\nhash = {:?}\n{more}\n", hash(&format!("planted-{name}")))
}

fn hash(key: &str) -> String {
    let hex: String = Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// The tests' configuration with the account's key and these entries.
pub(crate) fn with_entries(entries: &str) -> String {
    format!("upstream.api_key = \"env:ACCOUNT_KEY\"\n{entries}")
}

fn instant(at: Timestamp) -> String {
    String::from_utf8_lossy(&at.rfc3339()).into_owned()
}

/// The status, and the error's code if it is one.
async fn ask(gateway: &Gateway, key: &str, model: &str) -> (u16, String) {
    let answer = send(gateway.chat(&with(hello(), "model", model)).bearer_auth(key)).await;
    let status = answer.status().as_u16();
    let body: serde_json::Value = answer.json().await.expect("JSON");
    (status, body["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn only_its_holder_is_told_what_is_wrong_with_a_key() {
    let (before, after) = (instant(Timestamp::default()), "2500-01-01T00:00:00Z");
    let replaced = |key: &str, expires: &str| {
        format!("previous = [{{ hash = {:?}, expires = {expires:?} }}]", hash(key))
    };
    let entries = [
        entry("good", &format!("expires = {after:?}")),
        entry("over", &format!("expires = {before:?}")),
        entry("gone", "revoked = true"),
        entry("new", &replaced("planted-old", after)),
        entry("newer", &replaced("planted-older", &before)),
    ]
    .concat();
    let (simulator, gateway) = pair(roomy(), &with_entries(&entries)).await;
    for (key, status, code) in [
        ("planted-good", 200, ""),
        ("planted-over", 401, "expired_api_key"),
        ("planted-gone", 401, "revoked_api_key"),
        ("planted-new", 200, ""),
        ("planted-old", 200, ""),
        ("planted-newer", 200, ""),
        ("planted-older", 401, "expired_api_key"),
        ("planted-ove", 401, "wrong_api_key"),
        ("planted-gone2", 401, "wrong_api_key"),
    ] {
        assert_eq!(ask(&gateway, key, "m").await, (status, code.to_owned()), "{key}");
        // What costs no quota is no less closed.
        let head = format!("authorization: Bearer {key}\r\n");
        let mut get = Wire::open(gateway.api, request("GET /v1/models", &head, "")).await;
        assert_eq!(get.answer().await.status, status, "{key}");
    }
    assert_eq!(simulator.stats().started, 4);
    assert!((gateway.outcome("unauthorized").await - 10.0).abs() < 0.1);
    // Old key or new, one tenant.
    let used = "tidegate_tenant_tokens_total{tenant=\"new\",kind=\"prompt\"}";
    gateway.wait_metric(used, 20.0).await;
    gateway.close().await;
}

#[tokio::test]
async fn a_key_is_good_until_its_very_end() {
    let end = wall().after(std::time::Duration::from_millis(1_500));
    let entries = entry("short", &format!("expires = {:?}", instant(end)));
    let (_simulator, gateway) = pair(roomy(), &with_entries(&entries)).await;
    let mut good = 0;
    loop {
        let (before, (status, code)) = (wall(), ask(&gateway, "planted-short", "m").await);
        match (status, &*code) {
            // A fast machine uses the quota up, which only a key that is good can do.
            (200, "") | (429, "wait_exceeded") => good += 1,
            (401, "expired_api_key") => {
                assert!(wall() > end, "it was good still");
                break;
            }
            other => unreachable!("{other:?}"),
        }
        assert!(before < end, "it was over");
    }
    // A machine that is too slow for one request in a second and a half proves nothing else.
    assert!(good > 0 || wall() > end);
    gateway.close().await;
}

#[tokio::test]
async fn a_key_opens_its_models_and_others_are_as_if_they_were_not() {
    let entries = entry("few", "models = [\"m\", \"big-*\"]") + &entry("all", "");
    let (simulator, gateway) = pair(roomy(), &with_entries(&entries)).await;
    for (key, model, status) in [
        ("planted-few", "m", 200),
        ("planted-few", "big-one", 200),
        ("planted-few", "big", 404),
        ("planted-few", "M", 404),
        ("planted-few", "other", 404),
        ("planted-all", "other", 200),
    ] {
        let code = if status == 200 { "" } else { "model_not_found" };
        assert_eq!(ask(&gateway, key, model).await, (status, code.to_owned()), "{key} {model}");
    }
    assert_eq!(simulator.stats().started, 3);
    let request = gateway.chat(&with(hello(), "model", "other")).bearer_auth("planted-few");
    let error = refusal(send(request).await, 404, "model_not_found").await;
    assert_eq!((&error["param"], &error["type"]), (&"model".into(), &"not_found_error".into()));
    gateway.close().await;
}
