//! Reads a table key by key: what is missing, of the wrong kind or unknown becomes a problem, and
//! reading goes on.

use std::cell::RefCell;

use super::source::{Kind, Node, Problem, Table};
use super::value::FromNode;

/// A table being read. Keys that were not asked for are reported when it is finished.
pub(super) struct Section<'a> {
    path: String,
    line: Option<usize>,
    table: Table,
    /// The keys asked for, and where they came from: a line, or a variable.
    known: Vec<(&'static str, Origin)>,
    problems: &'a RefCell<Vec<Problem>>,
}

/// Where a value came from.
#[derive(Default)]
struct Origin {
    line: Option<usize>,
    variable: Option<String>,
}

impl<'a> Section<'a> {
    pub(super) fn new(path: &str, table: Table, problems: &'a RefCell<Vec<Problem>>) -> Self {
        Self { path: path.to_owned(), line: None, table, known: Vec::new(), problems }
    }

    /// The table that `node` must be; an empty one if it is not.
    pub(super) fn of(path: &str, node: Node, problems: &'a RefCell<Vec<Problem>>) -> Self {
        let line = node.line;
        let table = match node.kind {
            Kind::Table(table) => table,
            kind => {
                let message = format!("a table is expected, got {}", kind.describe());
                problems.borrow_mut().push(Problem { path: path.to_owned(), line, message });
                Table::new()
            }
        };
        Self { line, ..Self::new(path, table, problems) }
    }

    /// The value of `key`, if it is there and right.
    pub(super) fn get<T: FromNode>(&mut self, key: &'static str) -> Option<T> {
        let node = self.node(key)?;
        let (path, line) = (self.path_of(key, &node), node.line);
        match T::from_node(node) {
            Ok(value) => Some(value),
            Err(message) => {
                self.report(path, line, message);
                None
            }
        }
    }

    /// The value of `key`, or `default` if it is not there or wrong.
    pub(super) fn get_or<T: FromNode>(&mut self, key: &'static str, default: T) -> T {
        self.get(key).unwrap_or(default)
    }

    /// The value of `key`, which must be there.
    pub(super) fn require<T: FromNode>(&mut self, key: &'static str) -> Option<T> {
        if !self.table.contains_key(key) {
            self.known.push((key, Origin::default()));
            self.problem(key, "is missing");
            return None;
        }
        self.get(key)
    }

    /// Whether `key` is there, right or wrong; to be asked before it is read.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The table under `key`; empty if it is not there.
    pub(super) fn section(&mut self, key: &'static str) -> Self {
        let path = self.child(key);
        match self.node(key) {
            Some(node) => Section::of(&path, node, self.problems),
            None => Section::new(&path, Table::new(), self.problems),
        }
    }

    /// The raw value of `key`.
    pub(super) fn node(&mut self, key: &'static str) -> Option<Node> {
        let node = self.table.remove(key);
        let origin = node.as_ref().map(|node| {
            let Node { line, variable, .. } = node;
            Origin { line: *line, variable: variable.clone() }
        });
        self.known.push((key, origin.unwrap_or_default()));
        node
    }

    /// The nodes of the list under `key`; `None` if it is not there.
    pub(super) fn list(&mut self, key: &'static str) -> Option<Vec<Node>> {
        let node = self.node(key)?;
        match node.kind {
            Kind::Array(nodes) => Some(nodes),
            kind => {
                let message = format!("a list is expected, got {}", kind.describe());
                self.report(self.child(key), node.line, message);
                None
            }
        }
    }

    /// Every key and value that is left, as names chosen by the user.
    pub(super) fn entries(&mut self) -> Table {
        std::mem::take(&mut self.table)
    }

    /// Notes a problem with `key`.
    pub(super) fn problem(&self, key: &str, message: impl Into<String>) {
        let own = self.known.iter().find(|(known, _)| *known == key).map(|(_, origin)| origin);
        let (path, message) = (self.child(key), message.into());
        match own.and_then(|origin| origin.variable.as_ref()) {
            Some(name) => self.report(format!("{name} ({path})"), None, message),
            None => self.report(path, own.and_then(|it| it.line).or(self.line), message),
        }
    }

    /// The path of `key`; the section's own for an empty one.
    pub(super) fn child(&self, key: &str) -> String {
        if key.is_empty() {
            return self.path.clone();
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let key = if key.chars().all(plain) { key.to_owned() } else { format!("{key:?}") };
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }

    /// Reports the keys nobody asked for.
    pub(super) fn finish(self) {
        for (key, node) in &self.table {
            let known: Vec<_> = self.known.iter().map(|(key, _)| *key).collect();
            let message = format!("unknown key; known here: {}", known.join(", "));
            self.report(self.path_of(key, node), node.line, message);
        }
    }

    pub(super) fn problems(&self) -> &'a RefCell<Vec<Problem>> {
        self.problems
    }

    fn path_of(&self, key: &str, node: &Node) -> String {
        let path = match (key, self.path.as_str()) {
            // A file may have a key that is empty, which is not the section itself.
            ("", "") => "\"\"".to_owned(),
            ("", path) => format!("{path}.\"\""),
            _ => self.child(key),
        };
        node.variable.as_ref().map_or_else(|| path.clone(), |name| format!("{name} ({path})"))
    }

    fn report(&self, path: String, line: Option<usize>, message: String) {
        self.problems.borrow_mut().push(Problem { path, line, message });
    }
}
