//! Batches of tenants that may not use everything.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Place, form, good, greetings, line, upload};
use crate::support::{eventually, hello, roomy, with};

const KEY: &str = "planted-team";

fn changes() -> String {
    let hash: String = Sha256::digest(KEY).iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "upstream.api_key = \"env:ACCOUNT_KEY\"\n[[keys]]\nname = \"team\"\nhash = \"sha256:{hash}\"\n\
         models = [\"m\"]\n\
         limits = [{{ unit = \"requests\", limit = 3, per = \"1h\", mode = \"sliding\" }}]\n"
    )
}

/// The id of a batch with this content.
async fn batch(place: &Place, content: &str) -> String {
    let form = form(content, &[("purpose", "batch")]);
    let file = good(upload(&place.gateway, form).bearer_auth(KEY)).await;
    let file = file["id"].as_str().expect("an id");
    let batch = good(place.wanted(file, "24h").bearer_auth(KEY)).await;
    batch["id"].as_str().expect("an id").to_owned()
}

async fn seen(place: &Place, id: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let path = format!("/v1/batches/{id}");
    let look = async || Some(good(place.get(&path).bearer_auth(KEY)).await).filter(&is);
    eventually(what, look).await
}

#[tokio::test]
async fn a_batch_keeps_to_its_tenants_limits_and_says_what_it_waits_for() {
    let place = Place::with(roomy(), &changes()).await;
    let id = batch(&place, &greetings(5)).await;
    let waits = |batch: &Value| {
        batch["tidegate"]["limited_by"] == "tenant:requests/hour"
            && batch["request_counts"]["completed"] == 3
    };
    seen(&place, &id, "it waits for its tenant's limit", waits).await;
    let cancel = place.gateway.post(&format!("/v1/batches/{id}/cancel")).bearer_auth(KEY);
    good(cancel).await;
    let ended = seen(&place, &id, "its end", |batch| batch["status"] == "cancelled").await;
    assert_eq!(ended["request_counts"], json!({"total": 5, "completed": 3, "failed": 2}));
    assert_eq!(place.simulator.stats().started, 3);
    place.close().await;
}

#[tokio::test]
async fn a_batch_for_a_model_that_its_key_does_not_open_is_not_begun() {
    let place = Place::with(roomy(), &changes()).await;
    let other = line("other", &with(hello(), "model", "other"));
    let id = batch(&place, &format!("{}{other}\n", greetings(1))).await;
    let ended = seen(&place, &id, "its end", |batch| batch["status"] == "failed").await;
    let problem = &ended["errors"]["data"][0];
    assert_eq!((&problem["code"], &problem["line"]), (&json!("model_not_found"), &json!(2)));
    assert_eq!(place.simulator.stats().started, 0);
    place.close().await;
}
