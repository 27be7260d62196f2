//! The environment's say: `TIDEGATE_<SECTION>_<KEY>` for any scalar of a section, the variables by
//! which scripts around the Cerebras API have long set their limits, and those of OpenTelemetry.

mod otel;

use std::time::Duration;

use super::source::{Kind, Node, Problem, Table, set};

/// The sections whose keys can be set by `TIDEGATE_<SECTION>_<KEY>`.
const SECTIONS: [&str; 12] = [
    "server",
    "upstream",
    "admission",
    "identity",
    "retry",
    "breaker",
    "log",
    "metrics",
    "state",
    "batch",
    "shared",
    "traces",
];

/// Tokens per window, by variable.
const BUDGETS: [(&str, &str, &str); 3] = [
    ("CEREBRAS_MINUTES_BUDGET", "minute", "1m"),
    ("CEREBRAS_HOURS_BUDGET", "hour", "1h"),
    ("CEREBRAS_DAYS_BUDGET", "day", "1d"),
];

/// Lets the environment win over what is in the tree.
pub(super) fn overlay(
    tree: &mut Table,
    environment: &[(String, String)],
    problems: &mut Vec<Problem>,
) {
    // Before our own, which say it better where both are there.
    otel::overlay(tree, environment, problems);
    for (name, value) in environment {
        if name == "CEREBRAS_API_KEY" {
            unless_said(tree, "upstream", "api_key", name);
        } else if name == "TIDEGATE_ADMIN_TOKEN" {
            // By the name under which those who ask the admin port have it.
            unless_said(tree, "server", "admin_token", name);
        } else if name == "TIDEGATE_ADMIN_CA" {
            // For those who ask the admin port: it may be in the gateway's own container.
        } else if name.starts_with("CEREBRAS_") {
            cerebras(tree, name, value, problems);
        } else if let Some(rest) = name.strip_prefix("TIDEGATE_") {
            let key = rest.to_ascii_lowercase();
            let target = SECTIONS.iter().find_map(|section| {
                Some((*section, key.strip_prefix(section)?.strip_prefix('_')?))
            });
            match target {
                Some((section, key)) => set(tree, section, key, Node::from_variable(name, value)),
                None => problems.push(problem(
                    name,
                    format!(
                        "unknown variable: TIDEGATE_<SECTION>_<KEY> is expected, with a section of \
                         {}",
                        SECTIONS.join(", ").to_uppercase()
                    ),
                )),
            }
        }
    }
}

/// The secret in the variable `name` is that of `section.key`, unless that names another.
fn unless_said(tree: &mut Table, section: &str, key: &str, name: &str) {
    let said = matches!(
        tree.get(section),
        Some(Node { kind: Kind::Table(table), .. }) if table.contains_key(key)
    );
    if !said {
        set(tree, section, key, Node::from_variable(name, &format!("env:{name}")));
    }
}

/// `CEREBRAS_*`: what is not known is not ours, the SDK has variables of its own.
fn cerebras(tree: &mut Table, name: &str, value: &str, problems: &mut Vec<Problem>) {
    match name {
        "CEREBRAS_MAX_CONCURRENT" => {
            each_profile(tree, |profile| {
                profile.insert("max_concurrent".to_owned(), Node::from_variable(name, value));
            });
        }
        "CEREBRAS_RATE_LIMIT_DELAY" => {
            let delay = value.trim().parse::<f64>().ok();
            match delay.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
                Some(delay) => each_profile(tree, |profile| {
                    let delay = humantime::format_duration(delay).to_string();
                    profile.insert("min_gap".to_owned(), Node::from_variable(name, &delay));
                }),
                None => problems.push(problem(
                    name,
                    format!("seconds are expected, such as 0.5, got {value:?}"),
                )),
            }
        }
        _ => {
            let Some((_, window, per)) = BUDGETS.iter().find(|(key, ..)| *key == name) else {
                return;
            };
            match value.trim().replace('_', "").parse::<i64>() {
                Ok(tokens) => each_profile(tree, |profile| {
                    budget(profile, name, window, per, tokens);
                }),
                Err(_) => problems.push(problem(
                    name,
                    format!("a whole number of tokens is expected, got {value:?}"),
                )),
            }
        }
    }
}

/// Changes every profile of the tree; one that inherits a list of limits keeps inheriting it.
fn each_profile(tree: &mut Table, mut change: impl FnMut(&mut Table)) {
    let Some(Node { kind: Kind::Table(models), .. }) = tree.get_mut("models") else { return };
    for node in models.values_mut() {
        if let Kind::Table(profile) = &mut node.kind {
            change(profile);
        }
    }
}

/// Sets the token limit of one window, adding it where there is none.
fn budget(profile: &mut Table, name: &str, window: &str, per: &str, tokens: i64) {
    let node = |kind| Node { line: None, variable: Some(name.to_owned()), kind };
    let text = |text: &str| node(Kind::String(text.to_owned()));
    let Some(Node { kind: Kind::Array(limits), .. }) = profile.get_mut("limits") else { return };
    for limit in limits.iter_mut() {
        let Kind::Table(limit) = &mut limit.kind else { continue };
        let is = |key: &str, expected: &str| matches!(limit.get(key), Some(Node { kind: Kind::String(it), .. }) if it == expected);
        let same_window =
            is("name", window) || (!limit.contains_key("name") && per_is(limit.get("per"), per));
        if is("unit", "tokens") && same_window {
            limit.insert("limit".to_owned(), node(Kind::Integer(tokens)));
            // A budget is the caller's own: the upstream's larger limit does not replace it.
            limit.insert("learn".to_owned(), text("down"));
            return;
        }
    }
    let added = [
        ("unit", text("tokens")),
        ("limit", node(Kind::Integer(tokens))),
        ("per", text(per)),
        ("learn", text("down")),
    ];
    let added = added.into_iter().map(|(key, node)| (key.to_owned(), node)).collect();
    limits.push(node(Kind::Table(added)));
}

fn per_is(node: Option<&Node>, per: &str) -> bool {
    let Some(Node { kind: Kind::String(text), .. }) = node else { return false };
    let [text, per] = [text, per].map(|text| humantime::parse_duration(text).ok());
    text.is_some() && text == per
}

fn problem(name: &str, message: String) -> Problem {
    Problem { path: name.to_owned(), line: None, message }
}
