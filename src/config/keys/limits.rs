//! A tenant's own limits: written as those of models, with the gateway for an upstream.

use crate::config::model;
use crate::config::section::Section;
use crate::config::source::{Kind, Node};
use crate::limit::{Constraint, Learn, Mode};

/// Reads the `limits` of a key.
pub(super) fn read(section: &mut Section<'_>) -> Vec<Constraint> {
    let nodes = section.list("limits").unwrap_or_default();
    for node in &nodes {
        if learns(node) {
            let message = "`learn` has no meaning here: no upstream knows of a tenant's limits";
            section.problem("limits", message);
        }
    }
    let limits = model::limits(&section.child("limits"), nodes, section.problems());
    if limits.iter().any(|quota| quota.mode() == Mode::Auto) {
        let message = "`mode = \"auto\"` finds out how an upstream refills: say how this one does, \
                       \"bucket\", \"fixed\" or \"sliding\"";
        section.problem("limits", message);
    }
    limits.into_iter().map(|quota| quota.learning(Learn::Never)).collect()
}

/// Whether a limit is to be learned from somebody.
fn learns(node: &Node) -> bool {
    let Kind::Table(table) = &node.kind else { return false };
    let learn = table.get("learn").map(|node| &node.kind);
    learn.is_some_and(|kind| !matches!(kind, Kind::String(text) if text == "never"))
}
