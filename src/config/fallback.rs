//! `[[fallback]]`: where requests may go that their own account and model cannot serve.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use toml::{Table, Value};

use super::Upstream;
use super::model::Models;
use super::section::Section;
use super::source::{Kind, Node, Problem};
use super::value::Secret;

/// A request is never sent to two at once, so each of them may be waited for in turn: more than a few
/// are of no use to anybody.
const MOST: usize = 16;
/// What a person who looks on puts up with.
const AFTER: Duration = Duration::from_secs(10);

/// Another account or model, for requests that would be refused or wait for long.
#[derive(Clone, Debug, PartialEq)]
pub struct Fallback {
    /// What callers are told that it is.
    pub name: Arc<str>,
    /// The model whose requests it is for; `None` for every model's.
    pub wanted: Option<String>,
    /// The model that is asked instead; `None` for the same.
    pub model: Option<Arc<str>>,
    /// The account, where it is another one.
    pub account: Option<OtherAccount>,
    /// What it is used for.
    pub on: Causes,
    /// How long a request waits before it is used.
    pub after: Duration,
}

/// Another account of the gateway's.
#[derive(Clone, Debug, PartialEq)]
pub struct OtherAccount {
    /// Where it is: scheme, host and port, without a path.
    pub base_url: http::Uri,
    /// Its key.
    pub api_key: Secret,
}

/// Why a request cannot be served where it was meant to be.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Cause {
    /// It waits for quota, or is refused for want of it.
    Quota,
    /// The upstream has too much to do.
    Overload,
    /// The upstream fails.
    Failure,
}

/// Some of the causes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Causes([bool; 3]);

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 3] = [Self::Quota, Self::Overload, Self::Failure];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::Overload => "overload",
            Self::Failure => "failure",
        }
    }
}

impl Causes {
    /// Whether `cause` is one of them.
    pub const fn has(self, cause: Cause) -> bool {
        self.0[cause as usize]
    }
}

impl Fallback {
    /// Whether it is for requests to `model`: it is no fallback for what it asks for itself.
    pub fn is_for(&self, model: &str) -> bool {
        let wanted = self.wanted.as_deref().is_none_or(|wanted| wanted == model);
        let other = self.account.is_some() || self.model.as_deref().is_some_and(|it| it != model);
        wanted && other
    }
}

/// Where an address points to, however it is written.
pub fn place(url: &http::Uri) -> String {
    let scheme = url.scheme_str().unwrap_or("https");
    let port = url.port_u16().unwrap_or(if scheme == "http" { 80 } else { 443 });
    format!("{scheme}://{}:{port}", url.host().unwrap_or_default().to_ascii_lowercase())
}

/// Reads the list.
pub(super) fn fallbacks(
    nodes: Vec<Node>,
    upstream: Option<&Upstream>,
    models: &Models,
    environment: &[(String, String)],
    problems: &RefCell<Vec<Problem>>,
) -> Vec<Fallback> {
    let mut names = BTreeSet::new();
    let mut all = Vec::new();
    for (index, node) in nodes.into_iter().enumerate() {
        let mut section = Section::of(&format!("fallback[{index}]"), node, problems);
        if index >= MOST {
            section.problem("", format!("one too many: at most {MOST}"));
        }
        all.extend(fallback(&mut section, &mut names, upstream, models, environment));
        section.finish();
    }
    all
}

fn fallback(
    section: &mut Section<'_>,
    names: &mut BTreeSet<String>,
    upstream: Option<&Upstream>,
    models: &Models,
    environment: &[(String, String)],
) -> Option<Fallback> {
    let name = section.require::<String>("name");
    if let Some(name) = &name {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            section.problem("name", "1 to 64 of letters, digits, '-', '_' and '.' expected");
        } else if !names.insert(name.clone()) {
            section.problem("name", format!("{name} is there twice"));
        }
    }
    let (has_key, has_url) = (section.has("api_key"), section.has("base_url"));
    let wanted = section.require::<String>("for");
    if let Some(wanted) = wanted.as_deref().filter(|it| *it != "*" && models.profile(it).is_none())
    {
        section.problem("for", format!("[models] has no profile for {wanted:?}"));
    }
    let model = section.get::<String>("model");
    if let Some(model) = &model
        && (model.is_empty() || model.len() > 256 || models.profile(model).is_none())
    {
        section.problem("model", format!("[models] has no profile for {model:?}"));
    }
    let base_url = section.get::<http::Uri>("base_url");
    let api_key = section.get::<String>("api_key").and_then(|reference| {
        let secret = Secret::resolve(&reference, environment);
        secret.map_err(|message| section.problem("api_key", message)).ok()
    });
    let on = causes(section);
    let after = section.get_or("after", AFTER);
    let changes_model = model.is_some() && model != wanted;
    let account = upstream.zip(api_key).map(|(upstream, api_key)| {
        let base_url = base_url.unwrap_or_else(|| upstream.base_url.clone());
        OtherAccount { base_url, api_key }
    });
    if has_key {
        check_account(section, upstream, account.as_ref());
    } else if has_url {
        let message = "needs an `api_key` of its own: the account's key goes nowhere else";
        section.problem("base_url", message);
    } else if !changes_model {
        section.problem("", "is no other account (`api_key`) and no other model (`model`)");
    }
    let (name, wanted) = (name?, wanted?);
    Some(Fallback {
        name: name.into(),
        wanted: (wanted != "*").then_some(wanted),
        model: model.map(Into::into),
        account,
        on,
        after,
    })
}

/// That it is another account, and a fallback's to spend.
fn check_account(
    section: &Section<'_>,
    upstream: Option<&Upstream>,
    account: Option<&OtherAccount>,
) {
    let Some(upstream) = upstream else { return };
    let Some(own) = &upstream.api_key else {
        let message = "needs `upstream.api_key`: without it callers pay for themselves, and \
                       anybody could spend this account";
        section.problem("api_key", message);
        return;
    };
    // Two ledgers of one quota would each give all of it away.
    let is_own = |it: &&OtherAccount| {
        place(&it.base_url) == place(&upstream.base_url) && it.api_key.expose() == own.expose()
    };
    if account.filter(is_own).is_some() {
        let message = "is that of `upstream.api_key`: leave it out for the same account";
        section.problem("api_key", message);
    }
}

fn causes(section: &mut Section<'_>) -> Causes {
    let Some(nodes) = section.list("on") else { return Causes([true; 3]) };
    let mut causes = Causes::default();
    for node in nodes {
        let text = match &node.kind {
            Kind::String(text) => text.as_str(),
            _ => "",
        };
        match Cause::ALL.into_iter().find(|cause| cause.as_str() == text) {
            Some(cause) => causes.0[cause as usize] = true,
            None => {
                let shown = super::value::shown(&node.kind);
                let expected = "\"quota\", \"overload\" and \"failure\" are expected";
                section.problem("on", format!("{expected}, got {shown}"));
            }
        }
    }
    if causes == Causes::default() {
        section.problem("on", "names nothing that it is used for");
    }
    causes
}

/// The list as it is written, keys as references.
pub(super) fn to_toml(all: &[Fallback]) -> Value {
    let text = |text: &str| Value::String(text.to_owned());
    let entry = |it: &Fallback| {
        let mut entry = Table::new();
        entry.insert("name".to_owned(), text(&it.name));
        entry.insert("for".to_owned(), text(it.wanted.as_deref().unwrap_or("*")));
        if let Some(model) = &it.model {
            entry.insert("model".to_owned(), text(model));
        }
        if let Some(OtherAccount { base_url, api_key }) = &it.account {
            let authority = base_url.authority().map_or("", |it| it.as_str());
            let scheme = base_url.scheme_str().unwrap_or("https");
            entry.insert("base_url".to_owned(), text(&format!("{scheme}://{authority}")));
            entry.insert("api_key".to_owned(), text(api_key.reference()));
        }
        let on = Cause::ALL.into_iter().filter(|cause| it.on.has(*cause));
        entry.insert("on".to_owned(), Value::Array(on.map(|it| text(it.as_str())).collect()));
        let after = humantime::format_duration(it.after).to_string();
        entry.insert("after".to_owned(), Value::String(after));
        Value::Table(entry)
    };
    Value::Array(all.iter().map(entry).collect())
}

#[cfg(test)]
mod tests;
