//! Everything that the admin port tells, and what other commands make of it.

use super::run::Run;
use crate::support::client;
use crate::support::process::{run, tidegate};

/// Every page, by its path.
pub(super) async fn all(gateway: &Run) -> Vec<(String, String)> {
    let process = &gateway.process;
    let mut pages = Vec::new();
    for path in [
        "/",
        "/metrics",
        "/livez",
        "/readyz",
        "/status",
        "/history",
        "/config",
        "/usage",
        "/usage?by=tenant,model&step=minute",
        "/usage?by=total&format=csv",
        "/usage?by=path-needle",
        "/elsewhere",
    ] {
        let page = process.page(path).await.expect("it answers");
        pages.push((path.to_owned(), page));
    }
    let url = format!("http://{}/events", process.admin);
    let mut events = client().get(url).send().await.expect("it answers");
    let mut first = Vec::new();
    while !first.windows(2).any(|two| two == b"\n\n") {
        first.extend(events.chunk().await.expect("it goes on").expect("there is more"));
    }
    let first = String::from_utf8(first).expect("text");
    assert!(first.contains("\"refusals\""), "{first}");
    pages.push(("/events".to_owned(), first));
    let admin = format!("http://{}", process.admin);
    let (_, stdout, stderr) = run(&mut tidegate(&["top", "--once", &admin]));
    assert!(stdout.contains("tokens"), "{stdout}{stderr}");
    pages.push(("`tidegate top`".to_owned(), stdout + &stderr));
    pages
}
