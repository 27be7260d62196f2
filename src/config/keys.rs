//! Callers' keys: those of the configuration, and those of a file of their own that the command line
//! writes.

mod limits;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::classes::{self, Classes};
use super::section::Section;
use super::sizing::OutputChoice;
use super::source::{self, Kind, Node, Problem, Table};
use super::value::sha256;
use super::{Config, Problems, env};
use crate::identity::{Access, Keys, ModelPattern, Previous, Terms, VirtualKey};
use crate::time::Timestamp;

/// A tenant's charge is kept in 2^-20 tokens over its weight: with weights up to here the smallest
/// request is still charged to a thousandth.
const MOST_WEIGHT: u32 = 1_000;

/// Some 300 bytes each: three megabytes of tenants, and a file that a reload reads within a breath.
const MOST_KEYS: usize = 10_000;

/// Keys that were replaced and are good for a while yet, of each tenant: whoever replaces one a fifth
/// time has lost track of who holds what.
const MOST_PREVIOUS: usize = 4;

/// The tenant that is whoever runs the program.
const OPERATOR: &str = "operator";

/// Where callers' keys are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Identity {
    /// The file that the command line writes; `None` for none.
    pub keys_file: Option<PathBuf>,
}

/// What is said of keys.
pub(super) struct Said {
    pub(super) identity: Identity,
    pub(super) keys: Vec<VirtualKey>,
    pub(super) output_choices: BTreeMap<Arc<str>, OutputChoice>,
}

/// What whoever edits the keys' file has to know of the configuration.
#[derive(Debug, Default)]
pub struct KeysContext {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// Names that are taken by `[[keys]]` of the configuration itself.
    pub names: BTreeSet<String>,
    classes: Option<Classes>,
}

impl Config {
    /// Who may call.
    pub fn access(&self) -> Access {
        match &self.upstream.api_key {
            None => Access::PassThrough,
            Some(_) if self.lets_everybody_in() => Access::Open,
            Some(_) => Access::Keys(Keys::new(self.keys.clone())),
        }
    }

    /// Whether callers need no key of the gateway's. A file of keys that has none lets nobody in.
    pub const fn lets_everybody_in(&self) -> bool {
        self.keys.is_empty() && self.identity.keys_file.is_none()
    }
}

impl KeysContext {
    /// What the file at `path` and the environment say; the built-in file if `None`.
    ///
    /// # Errors
    ///
    /// Every problem found on the way; those of other sections are not looked for.
    pub fn load(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Problems> {
        let environment: Vec<_> = environment.into_iter().collect();
        let (text, directory) = match path {
            None => (super::DEFAULT_FILE.to_owned(), Path::new("")),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| Problems::one(&path.display().to_string(), &error))?;
                (text, path.parent().unwrap_or_else(|| Path::new("")))
            }
        };
        let mut problems = Vec::new();
        let mut tree = source::parse(&text, &mut problems);
        env::overlay(&mut tree, &environment, &mut problems);
        let found = RefCell::new(problems);
        let mut root = Section::new("", tree, &found);
        let file = identity(root.section("identity"), directory).keys_file;
        let classes = Some(classes::classes(root.section("classes"), None));
        let name = |node: Node| match node.kind {
            Kind::Table(table) => match &table.get("name")?.kind {
                Kind::String(name) => Some(name.clone()),
                _ => None,
            },
            _ => None,
        };
        let names = root.list("keys").unwrap_or_default().into_iter().filter_map(name).collect();
        drop(root);
        match found.into_inner() {
            problems if problems.is_empty() => Ok(Self { file, names, classes }),
            problems => Err(Problems::from(problems)),
        }
    }

    /// The tenants of a keys' file with this text. Names of classes are taken as they are where the
    /// configuration is not known.
    ///
    /// # Errors
    ///
    /// Every problem found.
    pub fn check(&self, text: &str) -> Result<Vec<VirtualKey>, Problems> {
        let mut problems = Vec::new();
        let tree = source::parse(text, &mut problems);
        let found = RefCell::new(problems);
        let mut reader = Reader::new(self.classes.as_ref(), &found);
        reader.names = self.names.clone();
        reader.file(tree, "");
        let keys = reader.keys;
        match found.into_inner() {
            problems if problems.is_empty() => Ok(keys),
            problems => Err(Problems::from(problems)),
        }
    }
}

/// Reads everything about keys; relative paths begin at `directory`.
pub(super) fn keys(
    root: &mut Section<'_>,
    classes: &Classes,
    directory: &Path,
    files: &mut Vec<PathBuf>,
) -> Said {
    let identity = identity(root.section("identity"), directory);
    let mut reader = Reader::new(Some(classes), root.problems());
    reader.list("keys", root.list("keys").unwrap_or_default(), false);
    if let Some(path) = &identity.keys_file {
        files.push(path.clone());
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let mut problems = Vec::new();
                let tree = source::parse(&text, &mut problems);
                let shown = format!("{}: ", path.display());
                let named = |it: Problem| Problem { path: format!("{shown}{}", it.path), ..it };
                reader.problems.borrow_mut().extend(problems.into_iter().map(named));
                reader.file(tree, &shown);
            }
            Err(error) => {
                let message = format!(
                    "{}: {error}; `tidegate keys add NAME --file FILE` makes one",
                    path.display()
                );
                let path = "identity.keys_file".to_owned();
                reader.problems.borrow_mut().push(Problem { path, line: None, message });
            }
        }
    }
    let Reader { keys, output_choices, .. } = reader;
    Said { identity, keys, output_choices }
}

fn identity(mut section: Section<'_>, directory: &Path) -> Identity {
    let keys_file = section.get::<String>("keys_file").filter(|path| !path.is_empty());
    let keys_file = keys_file.map(|path| {
        let path = directory.join(path);
        // The effective configuration is to be of use wherever it is written to.
        std::path::absolute(&path).unwrap_or(path)
    });
    section.finish();
    Identity { keys_file }
}

/// Reads lists of keys, none of which may have what another has.
struct Reader<'a> {
    classes: Option<&'a Classes>,
    problems: &'a RefCell<Vec<Problem>>,
    names: BTreeSet<String>,
    digests: BTreeSet<[u8; 32]>,
    keys: Vec<VirtualKey>,
    output_choices: BTreeMap<Arc<str>, OutputChoice>,
}

impl<'a> Reader<'a> {
    fn new(classes: Option<&'a Classes>, problems: &'a RefCell<Vec<Problem>>) -> Self {
        let (names, digests) = (BTreeSet::new(), BTreeSet::new());
        let (keys, output_choices) = (Vec::new(), BTreeMap::new());
        Self { classes, problems, names, digests, keys, output_choices }
    }

    /// Reads a file of nothing but keys, called `shown` in problems.
    fn file(&mut self, tree: Table, shown: &str) {
        let own = RefCell::new(Vec::new());
        let mut root = Section::new("", tree, &own);
        let nodes = root.list("keys").unwrap_or_default();
        root.finish();
        let named = |it: Problem| Problem { path: format!("{shown}{}", it.path), ..it };
        self.problems.borrow_mut().extend(own.into_inner().into_iter().map(named));
        self.list(&format!("{shown}keys"), nodes, true);
    }

    fn list(&mut self, path: &str, nodes: Vec<Node>, in_keys_file: bool) {
        for (index, node) in nodes.into_iter().enumerate() {
            let section = Section::of(&format!("{path}[{index}]"), node, self.problems);
            if self.keys.len() >= MOST_KEYS {
                return section.problem("", format!("at most {MOST_KEYS} keys"));
            }
            if let Some(mut key) = self.key(section) {
                key.in_keys_file = in_keys_file;
                self.keys.push(key);
            }
        }
    }

    fn key(&mut self, mut section: Section<'_>) -> Option<VirtualKey> {
        let name = section.require::<String>("name");
        if let Some(name) = &name {
            self.take_name(&section, name);
        }
        let hash = section.require::<String>("hash");
        let digest = hash.and_then(|hash| self.digest(&section, &hash));
        let previous = self.previous(&mut section);
        let heartbeats = section.get_or("heartbeats", true);
        let weight = section.get_or("weight", std::num::NonZeroU32::MIN);
        if weight.get() > MOST_WEIGHT {
            section.problem("weight", format!("at most {MOST_WEIGHT}, got {weight}"));
        }
        let class = section.get::<String>("class").and_then(|name| self.class(&section, &name));
        let (expires, revoked) = (section.get::<Timestamp>("expires"), section.get("revoked"));
        let terms = name.as_ref().and_then(|name| terms(&mut section, name));
        let output = OutputChoice::read(&mut section);
        section.finish();
        let mut key = VirtualKey::new(&name?, digest?);
        if !output.is_empty() {
            self.output_choices.insert(Arc::clone(&key.name), output);
        }
        (key.previous, key.heartbeats, key.weight) = (previous, heartbeats, weight);
        (key.class, key.expires, key.terms) = (class, expires, terms);
        key.revoked = revoked.unwrap_or(false);
        Some(key)
    }

    fn take_name(&mut self, section: &Section<'_>, name: &str) {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            section.problem("name", "1 to 64 of letters, digits, '-', '_' and '.' expected");
        } else if name == OPERATOR {
            section.problem("name", "operator is whoever runs the gateway");
        } else if !self.names.insert(name.to_owned()) {
            section.problem("name", format!("{name} is there twice"));
        }
    }

    /// The digest that a `hash` names, if no other key has it.
    fn digest(&mut self, section: &Section<'_>, hash: &str) -> Option<[u8; 32]> {
        let digest = hash.strip_prefix("sha256:").and_then(sha256);
        match digest {
            // Not quoted: it may be the key itself.
            None => section.problem("hash", "\"sha256:\" and 64 hexadecimal digits are expected"),
            Some(digest) if !self.digests.insert(digest) => {
                section.problem("hash", "is another key's: nobody could tell the two apart");
            }
            Some(_) => {}
        }
        digest
    }

    fn previous(&mut self, section: &mut Section<'_>) -> Vec<Previous> {
        let nodes = section.list("previous").unwrap_or_default();
        if nodes.len() > MOST_PREVIOUS {
            section.problem("previous", format!("at most {MOST_PREVIOUS} keys"));
        }
        let path = section.child("previous");
        let mut previous = Vec::new();
        for (index, node) in nodes.into_iter().enumerate() {
            let mut own = Section::of(&format!("{path}[{index}]"), node, self.problems);
            let hash = own.require::<String>("hash");
            let digest = hash.and_then(|hash| self.digest(&own, &hash));
            let expires = own.require::<Timestamp>("expires");
            own.finish();
            previous
                .extend(digest.zip(expires).map(|(digest, expires)| Previous { digest, expires }));
        }
        previous
    }

    fn class(&self, section: &Section<'_>, name: &str) -> Option<usize> {
        let classes = self.classes?;
        let class = classes.index(name);
        if class.is_none() {
            let message = format!("one of {} is expected, got {name:?}", classes.listed());
            section.problem("class", message);
        }
        class
    }
}

/// What the tenant called `name` may use, if not everything.
fn terms(section: &mut Section<'_>, name: &str) -> Option<Arc<Terms>> {
    let mut models = Vec::new();
    let nodes = section.list("models");
    if nodes.as_ref().is_some_and(Vec::is_empty) {
        section.problem("models", "is empty: leave it out to allow all, or revoke the key");
    }
    for node in nodes.unwrap_or_default() {
        let pattern = match &node.kind {
            Kind::String(text) => ModelPattern::parse(text),
            _ => None,
        };
        if pattern.is_none() {
            let expected = "a model's name is expected, or its beginning and a star (\"llama*\")";
            section.problem("models", expected);
        }
        models.extend(pattern);
    }
    let limits = limits::read(section);
    let max_concurrent = section.get("max_concurrent");
    let terms = Terms { quota: VirtualKey::quota(name), models, limits, max_concurrent };
    let restricts = !terms.models.is_empty() || terms.are_counted();
    restricts.then(|| Arc::new(terms))
}

#[cfg(test)]
mod tests;
