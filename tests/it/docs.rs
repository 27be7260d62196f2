//! What the documents say of the program, compared with the program.

use std::collections::BTreeSet;
use std::fs;

use crate::support::{hello, pair, roomy, send};

#[tokio::test]
async fn the_metrics_page_lists_what_a_scrape_has() {
    let (_simulator, gateway) = pair(roomy(), "").await;
    send(gateway.chat(&hello())).await.bytes().await.expect("whole");
    let (_, scrape) = gateway.page("/metrics").await;
    let scraped: BTreeSet<&str> =
        scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let page = fs::read_to_string("docs/METRICS.md").expect("the page");
    let listed: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `tidegate_"))
        .filter_map(|rest| {
            let mut cells = rest.split('|');
            let name = cells.next()?.trim().trim_end_matches('`');
            Some(format!("tidegate_{name} {}", cells.next()?.trim()))
        })
        .collect();
    assert_eq!(listed.iter().map(String::as_str).collect::<BTreeSet<_>>(), scraped);
    gateway.close().await;
}
