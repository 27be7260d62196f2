//! The classes of requests: who goes before whom, and how much nobody can take from a class.

use std::sync::Arc;

use super::section::Section;
use super::source::Table;
use super::value::Share;
use crate::admission::ClassRule;

/// More would make the queue's decision about the class more than a glance, and a label of metrics
/// more than a few values.
const MOST: usize = 8;

/// The classes that are there unless some are configured; see `config/full.toml` for the shares.
const DEFAULTS: [(&str, u32, u16, bool); 3] =
    [("interactive", 0, 500, false), ("standard", 1, 250, false), ("batch", 2, 50, true)];

/// The class of requests that name none, unless configured.
pub(super) const DEFAULT: &str = "standard";

/// Every class: best rank first, unless it took the place of another configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Classes {
    all: Vec<Class>,
    default: usize,
}

/// A class of requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Class {
    /// Its name in `x-tidegate-class`, metrics and status.
    pub name: Arc<str>,
    /// Its rank and its guaranteed share.
    pub rule: ClassRule,
}

impl Classes {
    /// Every class; a class is known by its index here. In the configuration that a gateway starts with
    /// the best rank comes first; one that takes its place keeps the order.
    pub fn all(&self) -> &[Class] {
        &self.all
    }

    /// The index of the class called `name`.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.all.iter().position(|class| &*class.name == name)
    }

    /// The index of the class of requests that name none.
    pub const fn default(&self) -> usize {
        self.default
    }

    /// The names, in order of the index.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|class| &*class.name)
    }

    /// Whether the classes stand in the order of their ranks.
    pub(super) fn is_by_rank(&self) -> bool {
        self.all.is_sorted_by_key(|class| (class.rule.rank, &class.name))
    }

    /// The names as a list for people.
    pub(super) fn listed(&self) -> String {
        self.names().collect::<Vec<_>>().join(", ")
    }

    /// Sets the class of requests that name none, if it is there.
    pub(super) fn set_default(&mut self, name: &str) -> bool {
        self.index(name).map(|index| self.default = index).is_some()
    }
}

/// Reads the `classes` table: all classes, or none for the defaults. Those that there are in `order`
/// come first, and in that order: requests that wait, and metrics, know them by their index.
pub(super) fn classes(mut section: Section<'_>, order: Option<&Classes>) -> Classes {
    let tables = section.entries();
    let mut all = if tables.is_empty() { defaults() } else { listed(&section, tables) };
    let place = |class: &Class| order.and_then(|it| it.index(&class.name)).unwrap_or(usize::MAX);
    all.sort_by_key(|class| (place(class), class.rule.rank, Arc::clone(&class.name)));
    let sum: u32 = all.iter().map(|class| u32::from(class.rule.share)).sum();
    if sum > 1_000 {
        section.problem("", "the shares come to more than 1: no more than all can be guaranteed");
    }
    if all.len() > MOST {
        section.problem("", format!("at most {MOST} classes"));
    }
    section.finish();
    Classes { all, default: 0 }
}

fn defaults() -> Vec<Class> {
    let class = |(name, rank, share, paced): (&str, u32, u16, bool)| Class {
        name: name.into(),
        rule: ClassRule { rank, share, paced },
    };
    DEFAULTS.map(class).into()
}

fn listed(section: &Section<'_>, tables: Table) -> Vec<Class> {
    let mut all = Vec::new();
    for (name, node) in tables {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
        let mut own = Section::of(&section.child(&name), node, section.problems());
        if name.is_empty() || name.len() > 32 || !name.chars().all(plain) {
            own.problem("", "a class is named by 1 to 32 lower-case letters, digits, '-' and '_'");
        }
        let rank = own.require("rank").unwrap_or_default();
        let Share(share) = own.get_or("share", Share(0));
        let paced = own.get_or("paced", false);
        own.finish();
        all.push(Class { name: name.into(), rule: ClassRule { rank, share, paced } });
    }
    all
}
