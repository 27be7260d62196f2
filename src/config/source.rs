//! Where values come from: a TOML file, environment variables, flags. All become one tree of nodes
//! that know their origin, so that every problem can say where it is.

use std::collections::BTreeMap;
use std::fmt;

use toml::de::{DeTable, DeValue};

use super::Overrides;

/// One problem of a configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// Path of the key ("server.listen"), the name of an environment variable, or of the file.
    pub path: String,
    /// Line in the file, from 1; `None` if the value does not come from one.
    pub line: Option<usize>,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// Every problem of a configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn one(path: &str, message: &impl fmt::Display) -> Self {
        Self(vec![Problem { path: path.to_owned(), line: None, message: message.to_string() }])
    }

    /// The problems, in the order of the file.
    pub fn list(&self) -> &[Problem] {
        &self.0
    }
}

impl From<Vec<Problem>> for Problems {
    fn from(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        Self(problems)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{} (line {line}): {}", self.path, self.message),
            None => write!(f, "{}: {}", self.path, self.message),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.0 {
            writeln!(f, "{problem}")?;
        }
        let count = self.0.len();
        write!(f, "{count} problem{}", if count == 1 { "" } else { "s" })
    }
}

impl std::error::Error for Problems {}

/// A value with its origin.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) line: Option<usize>,
    /// The environment variable that set it, if one did.
    pub(super) variable: Option<String>,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    String(String),
    /// Text from the environment or a flag: takes the type that is asked for.
    Untyped(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    /// A date, or an instant, as it is written.
    Datetime(String),
    Other,
    Array(Vec<Node>),
    Table(Table),
}

pub(super) type Table = BTreeMap<String, Node>;

impl Node {
    pub(super) fn from_variable(name: &str, text: &str) -> Self {
        let kind = Kind::Untyped(text.to_owned());
        Self { line: None, variable: Some(name.to_owned()), kind }
    }
}

/// Parses a file as far as it can be, noting every syntax error.
pub(super) fn parse(text: &str, problems: &mut Vec<Problem>) -> Table {
    let lines = Lines(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let line = error.span().map(|span| lines.of(span.start));
        let message = error.message().to_owned();
        problems.push(Problem { path: "syntax".to_owned(), line, message });
    }
    lines.table(table.get_ref())
}

/// Sets `section.key` in the tree.
pub(super) fn set(tree: &mut Table, section: &str, key: &str, node: Node) {
    let empty = Node { line: None, variable: None, kind: Kind::Table(Table::new()) };
    let entry = tree.entry(section.to_owned()).or_insert(empty);
    if let Kind::Table(table) = &mut entry.kind {
        table.insert(key.to_owned(), node);
    }
}

/// Lets flags win over what is there.
pub(super) fn overlay_flags(tree: &mut Table, overrides: &Overrides) {
    let flags = [
        ("server", "listen", "--listen", &overrides.listen),
        ("server", "admin", "--admin", &overrides.admin),
        ("upstream", "base_url", "--upstream", &overrides.upstream),
    ];
    for (section, key, flag, value) in flags {
        if let Some(value) = value {
            set(tree, section, key, Node::from_variable(flag, value));
        }
    }
    if let Some(dir) = &overrides.state_dir {
        set(tree, "state", "dir", Node::from_variable("--state-dir", dir));
        set(tree, "state", "stateless", Node::from_variable("--state-dir", "false"));
    }
    if let Some(dir) = &overrides.batch_dir {
        set(tree, "batch", "dir", Node::from_variable("--batch-dir", dir));
    }
    if overrides.stateless {
        set(tree, "state", "stateless", Node::from_variable("--stateless", "true"));
    }
}

/// Turns offsets into line numbers.
struct Lines<'a>(&'a str);

impl Lines<'_> {
    fn of(&self, offset: usize) -> usize {
        let before = self.0.as_bytes().get(..offset).unwrap_or(self.0.as_bytes());
        memchr::memchr_iter(b'\n', before).count() + 1
    }

    fn table(&self, table: &DeTable<'_>) -> Table {
        let node = |value: &toml::Spanned<DeValue<'_>>, line| Node {
            line: Some(line),
            variable: None,
            kind: self.kind(value.get_ref()),
        };
        table
            .iter()
            .map(|(key, value)| (key.get_ref().to_string(), node(value, self.of(key.span().start))))
            .collect()
    }

    fn kind(&self, value: &DeValue<'_>) -> Kind {
        match value {
            DeValue::String(text) => Kind::String(text.to_string()),
            DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
                .map_or(Kind::Other, Kind::Integer),
            DeValue::Float(float) => float.as_str().parse().map_or(Kind::Other, Kind::Float),
            DeValue::Boolean(boolean) => Kind::Bool(*boolean),
            DeValue::Datetime(at) => Kind::Datetime(at.to_string()),
            DeValue::Table(table) => Kind::Table(self.table(table)),
            DeValue::Array(array) => Kind::Array(
                array
                    .iter()
                    .map(|value| Node {
                        line: Some(self.of(value.span().start)),
                        variable: None,
                        kind: self.kind(value.get_ref()),
                    })
                    .collect(),
            ),
        }
    }
}
