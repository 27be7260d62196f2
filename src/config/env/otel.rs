//! The variables by which OpenTelemetry is set up everywhere, as far as they are about traces.

use super::problem;
use crate::config::source::{Kind, Node, Problem, Table, set};

const SECTION: &str = "traces";

/// What of the standard's variables is the value of a key, the special ones of traces first.
const KEYS: [(&str, &[&str]); 5] = [
    ("service_name", &["OTEL_SERVICE_NAME"]),
    ("resource", &["OTEL_RESOURCE_ATTRIBUTES"]),
    ("sampler", &["OTEL_TRACES_SAMPLER"]),
    ("sample_ratio", &["OTEL_TRACES_SAMPLER_ARG"]),
    ("endpoint", &["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]),
];
const HEADERS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
const TIMEOUT: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
const PROTOCOL: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
/// The address of a collector, to which each signal adds a path.
const BASE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// Lets the standard's variables win over what is in the tree. An empty one is one that is not set.
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
    if let Some((name, base)) = find(&[BASE]) {
        put("endpoint", name, &format!("{}/v1/traces", base.trim_end_matches('/')));
    }
    for (key, names) in KEYS {
        if let Some((name, value)) = find(names) {
            put(key, name, value);
        }
    }
    if let Some((name, _)) = find(&HEADERS) {
        put("headers", name, &format!("env:{name}"));
    }
    if let Some((name, value)) = find(&TIMEOUT) {
        match value.parse::<u64>() {
            Ok(millis) => put("timeout", name, &format!("{millis}ms")),
            Err(_) => {
                let message = format!("whole milliseconds are expected, got {value:?}");
                problems.push(problem(name, message));
            }
        }
    }
    let exporter = find(&["OTEL_TRACES_EXPORTER"]);
    if let Some((name, value)) = exporter.filter(|(_, it)| !matches!(*it, "otlp" | "none")) {
        problems.push(problem(name, format!("\"otlp\" or \"none\" is expected, got {value:?}")));
    }
    let disabled = find(&["OTEL_SDK_DISABLED"]).filter(|(_, it)| it.eq_ignore_ascii_case("true"));
    let none = exporter.filter(|(_, it)| *it == "none");
    if let Some((name, _)) = disabled.or(none) {
        put("endpoint", name, "");
    } else if let Some((name, value)) = find(&PROTOCOL).filter(|(_, it)| *it != "http/protobuf")
        && is_on(tree)
    {
        problems.push(problem(name, format!("only http/protobuf is spoken, got {value:?}")));
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
