//! The variables by which OpenTelemetry is set up everywhere, as far as they are about traces.

use super::problem;
use crate::config::source::{Kind, Node, Problem, Table, set};

const SECTION: &str = "traces";

/// What of the standard's variables is the value of a key.
const KEYS: [(&str, &str); 4] = [
    ("service_name", "OTEL_SERVICE_NAME"),
    ("resource", "OTEL_RESOURCE_ATTRIBUTES"),
    ("sampler", "OTEL_TRACES_SAMPLER"),
    ("sample_ratio", "OTEL_TRACES_SAMPLER_ARG"),
];
// Those for traces come before those for all signals.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
/// The address of a collector, to which each signal adds a path.
const BASE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const HEADERS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
const TIMEOUT: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
const PROTOCOL: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
const DISABLED: &str = "OTEL_SDK_DISABLED";
/// Ours, which is read after this.
const OURS: &str = "TIDEGATE_TRACES_ENDPOINT";

/// Lets the standard's variables win over what is in the tree. An empty one is one that is not set, and
/// without a collector none is looked at: they may be meant for others.
pub(super) fn overlay(
    tree: &mut Table,
    environment: &[(String, String)],
    problems: &mut Vec<Problem>,
) {
    let find = |names: &[&str]| {
        names.iter().find_map(|name| {
            let found = environment.iter().find(|(it, value)| it == name && !value.is_empty());
            found.map(|(name, value)| (name.as_str(), value.as_str()))
        })
    };
    let mut put =
        |key, name, value: &str| set(tree, SECTION, key, Node::from_variable(name, value));
    let exporter = find(&[EXPORTER]);
    let disabled = find(&[DISABLED]).filter(|(_, it)| it.eq_ignore_ascii_case("true"));
    if let Some((name, _)) = disabled.or_else(|| exporter.filter(|(_, it)| *it == "none")) {
        put("endpoint", name, "");
        return;
    }
    if let Some((name, endpoint)) = find(&[ENDPOINT]) {
        put("endpoint", name, endpoint);
    } else if let Some((name, base)) = find(&[BASE]) {
        put("endpoint", name, &format!("{}/v1/traces", base.trim_end_matches('/')));
    }
    if find(&[OURS]).is_none() && !is_on(tree) {
        return;
    }
    let mut put =
        |key, name, value: &str| set(tree, SECTION, key, Node::from_variable(name, value));
    for (key, name) in KEYS {
        if let Some((name, value)) = find(&[name]) {
            put(key, name, value);
        }
    }
    if let Some((name, _)) = find(&HEADERS) {
        put("headers", name, &format!("env:{name}"));
    }
    let mut wrong = |name: &str, expected: &str, value: &str| {
        problems.push(problem(name, format!("{expected}, got {value:?}")));
    };
    if let Some((name, value)) = find(&TIMEOUT) {
        match value.parse::<u64>() {
            Ok(millis) => put("timeout", name, &format!("{millis}ms")),
            Err(_) => wrong(name, "whole milliseconds are expected", value),
        }
    }
    if let Some((name, value)) = exporter.filter(|(_, it)| *it != "otlp") {
        wrong(name, "\"otlp\" or \"none\" is expected", value);
    }
    if let Some((name, value)) = find(&PROTOCOL).filter(|(_, it)| *it != "http/protobuf") {
        wrong(name, "only http/protobuf is spoken", value);
    }
}

/// Whether there is an endpoint.
fn is_on(tree: &Table) -> bool {
    let Some(Node { kind: Kind::Table(section), .. }) = tree.get(SECTION) else { return false };
    matches!(
        section.get("endpoint").map(|node| &node.kind),
        Some(Kind::String(text) | Kind::Untyped(text)) if !text.is_empty()
    )
}
