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
    let made = collector.only("POST /v1/batches");
    for line in &lines {
        let linked: Vec<_> = line.0.links.iter().map(|link| &link.span_id).collect();
        assert_eq!(linked, [&made.0.span_id], "to the request that made the batch");
        assert_eq!(line.0.links[0].trace_id, made.0.trace_id);
        assert!(line.parent().is_empty());
    }
}
