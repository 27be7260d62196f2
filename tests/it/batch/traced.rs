//! Traces of a batch's lines.

use super::{Place, greetings};
use crate::support::roomy;
use crate::traces::collector::Collector;

#[tokio::test]
async fn each_line_is_a_trace_that_names_its_batch() {
    let collector = Collector::start().await;
    let place = Place::with(roomy(), &collector.config("")).await;
    let id = place.batch(&greetings(3), "24h").await;
    place.ended(&id, "completed").await;
    place.close().await;
    let mut lines = collector.named("POST /v1/chat/completions");
    lines.sort_by_key(|span| span.get("tidegate.batch.line"));
    let names: Vec<_> = lines.iter().map(|span| span.get("tidegate.batch.line")).collect();
    assert_eq!(names, ["1", "2", "3"]);
    for line in &lines {
        assert_eq!(line.get("tidegate.batch.id"), id);
        assert_eq!((line.get("tidegate.class").as_str(), line.failed()), ("batch", false));
    }
    let mut traces: Vec<_> = lines.iter().map(|span| span.trace()).collect();
    traces.dedup();
    assert_eq!(traces.len(), 3);
    assert_eq!(collector.named("chat m").len(), 3);
    assert_eq!(collector.only("POST /v1/batches").get("tidegate.batch.id"), "");
}
