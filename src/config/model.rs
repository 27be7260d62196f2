//! Profiles: what a model's requests cost and how many of them the upstream takes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use super::section::Section;
use super::sizing::{Learning, OutputChoice};
use super::source::{Node, Problem, Table};
use super::tokenizers::Tokenizers;
use super::value::{Milli, Share};
use crate::limit::{Constraint, Learn, Mode, Spread, Unit};
use crate::usage::{EstimateRule, OutputPolicy, Tokenizer};

/// The name of the profile that models without one of their own follow.
pub(super) const FALLBACK: &str = "*";

/// How far the upstream's clock may be off in `fixed` windows, unless configured: NTP keeps hosts
/// within tens of milliseconds; a quarter of a second costs nothing on windows of a minute.
const SKEW: Duration = Duration::from_millis(250);

/// Profiles by model name.
#[derive(Clone, Debug, PartialEq)]
pub struct Models {
    pub(super) named: BTreeMap<String, Arc<Profile>>,
}

/// The limits and costs of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// The name in the configuration: a model's, or `*`.
    pub name: Arc<str>,
    /// The upstream's limits; never empty.
    pub limits: Vec<Constraint>,
    /// What a request costs at most.
    pub estimate: EstimateRule,
    /// Whether that is lowered to what answers show.
    pub calibrate: bool,
    /// What is added to what answers show, in hundredths of it.
    pub margin_percent: u64,
    /// What counts a prompt's tokens while it waits.
    pub tokenizer: Option<Tokenizer>,
    /// What is done about requests that ask for too much output.
    pub output: OutputPolicy,
    /// Requests at the upstream at once.
    pub max_concurrent: Option<NonZeroU32>,
    /// The least time between two requests.
    pub min_gap: Duration,
}

impl Models {
    /// The profile that `model` follows; `None` if it has none and there is no fallback.
    pub fn profile(&self, model: &str) -> Option<&Arc<Profile>> {
        self.named.get(model).or_else(|| self.named.get(FALLBACK))
    }

    /// Every profile, by name.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Profile>> {
        self.named.values()
    }
}

/// A profile as written: what is absent comes from the fallback.
#[derive(Clone, Default)]
struct Draft {
    limits: Option<Vec<Constraint>>,
    output_default: Option<u64>,
    output_cap: Option<u64>,
    bytes_per_token_milli: Option<NonZeroU64>,
    per_message: Option<u64>,
    per_request: Option<u64>,
    per_part: Option<u64>,
    learning: Learning,
    output_choice: OutputChoice,
    max_concurrent: Option<NonZeroU32>,
    min_gap: Option<Duration>,
}

/// Reads the `models` table.
pub(super) fn models(mut section: Section<'_>, tokenizers: &Tokenizers<'_>) -> Models {
    let mut tables: Table = section.entries();
    let problems = section.problems();
    let fallback = tables.remove(FALLBACK).map(|node| {
        let path = section.child(FALLBACK);
        (Draft::read(Section::of(&path, node, problems), tokenizers), path)
    });
    let base = fallback.as_ref().map_or_else(Draft::default, |(draft, _)| draft.clone());
    let mut named = BTreeMap::new();
    for (name, node) in tables {
        let (path, line) = (section.child(&name), node.line);
        let draft = Draft::read(Section::of(&path, node, problems), tokenizers).over(&base);
        if let Some(profile) = draft.finish(&name, &path, line, problems) {
            named.insert(name, Arc::new(profile));
        }
    }
    if let Some((draft, path)) = fallback
        && let Some(profile) = draft.finish(FALLBACK, &path, None, problems)
    {
        named.insert(FALLBACK.to_owned(), Arc::new(profile));
    }
    if named.is_empty() && problems.borrow().is_empty() {
        section.problem(FALLBACK, "is missing: without limits there is nothing to keep to");
    }
    section.finish();
    Models { named }
}

impl Draft {
    fn read(mut section: Section<'_>, tokenizers: &Tokenizers<'_>) -> Self {
        let mut output = section.section("output_reservation");
        let (output_default, output_cap) = (output.get("default"), output.get("cap"));
        output.finish();
        let mut prompt = section.section("prompt_estimate");
        let bytes_per_token_milli =
            prompt.get::<Milli>("bytes_per_token").map(|Milli(value)| value);
        let (per_message, per_request) = (prompt.get("per_message"), prompt.get("per_request"));
        let per_part = prompt.get("per_part");
        let learning = Learning::read(&mut prompt, tokenizers);
        prompt.finish();
        let limits = section.list("limits").map(|nodes| {
            if nodes.is_empty() {
                section.problem("limits", "is empty: without limits there is nothing to keep to");
            }
            limits(&section.child("limits"), nodes, section.problems())
        });
        let draft = Self {
            limits,
            output_default,
            output_cap,
            bytes_per_token_milli,
            per_message,
            per_request,
            per_part,
            learning,
            output_choice: OutputChoice::read(&mut section),
            max_concurrent: section.get("max_concurrent"),
            min_gap: section.get("min_gap"),
        };
        section.finish();
        draft
    }

    fn over(self, base: &Self) -> Self {
        Self {
            limits: self.limits.or_else(|| base.limits.clone()),
            output_default: self.output_default.or(base.output_default),
            output_cap: self.output_cap.or(base.output_cap),
            bytes_per_token_milli: self.bytes_per_token_milli.or(base.bytes_per_token_milli),
            per_message: self.per_message.or(base.per_message),
            per_request: self.per_request.or(base.per_request),
            per_part: self.per_part.or(base.per_part),
            learning: self.learning.over(&base.learning),
            output_choice: self.output_choice.over(base.output_choice),
            max_concurrent: self.max_concurrent.or(base.max_concurrent),
            min_gap: self.min_gap.or(base.min_gap),
        }
    }

    fn finish(
        self,
        name: &str,
        path: &str,
        line: Option<usize>,
        problems: &RefCell<Vec<Problem>>,
    ) -> Option<Profile> {
        let report = |key: &str, message: String| {
            let path = format!("{path}.{key}");
            problems.borrow_mut().push(Problem { path, line, message });
        };
        if self.limits.is_none() {
            let message = "is missing: without limits there is nothing to keep to";
            report("limits", message.to_owned());
        }
        let limits = self.limits.unwrap_or_default();
        let Some(output_default) = self.output_default else {
            let message = "is missing: the tokens to reserve when a request names no limit";
            report("output_reservation.default", message.to_owned());
            return None;
        };
        if let Some(cap) = self.output_cap.filter(|cap| *cap < output_default) {
            let message = format!("must be at least `default` ({output_default}), got {cap}");
            report("output_reservation.cap", message);
        }
        for quota in limits.iter().filter(|it| it.unit() != Unit::Requests) {
            if quota.limit() < output_default {
                let message = format!(
                    "{output_default} is above the limit of {quota} ({}): every request that \
                     names no limit of its own would be refused",
                    quota.limit()
                );
                report("output_reservation.default", message);
            }
        }
        let assumed = EstimateRule::assumed(output_default);
        let estimate = EstimateRule {
            prompt_bytes_per_token_milli: self
                .bytes_per_token_milli
                .unwrap_or(assumed.prompt_bytes_per_token_milli),
            per_message: self.per_message.unwrap_or(assumed.per_message),
            per_request: self.per_request.unwrap_or(assumed.per_request),
            per_image: self.per_part.unwrap_or(assumed.per_image),
            per_other_part: self.per_part.unwrap_or(assumed.per_other_part),
            output_cap: self.output_cap,
            ..assumed
        };
        let (max_concurrent, min_gap) = (self.max_concurrent, self.min_gap.unwrap_or_default());
        let (calibrate, margin_percent, tokenizer) = self.learning.finish();
        Some(Profile {
            name: name.into(),
            limits,
            estimate,
            calibrate,
            margin_percent,
            tokenizer,
            output: self.output_choice.policy(),
            max_concurrent,
            min_gap,
        })
    }
}

/// Reads a list of limits.
pub(super) fn limits(
    path: &str,
    nodes: Vec<Node>,
    problems: &RefCell<Vec<Problem>>,
) -> Vec<Constraint> {
    let mut limits: Vec<Constraint> = Vec::new();
    for (index, node) in nodes.into_iter().enumerate() {
        let mut section = Section::of(&format!("{path}[{index}]"), node, problems);
        if let Some(quota) = limit(&mut section) {
            if limits.iter().any(|it| it.unit() == quota.unit() && it.name() == quota.name()) {
                section.problem("per", format!("{quota} is limited twice"));
            }
            limits.push(quota);
        }
        section.finish();
    }
    limits
}

fn limit(section: &mut Section<'_>) -> Option<Constraint> {
    let unit = section.require::<String>("unit");
    let limit = section.require::<u64>("limit");
    let per = section.require::<Duration>("per");
    let name = section.get::<String>("name");
    let skew = section.get::<Duration>("skew");
    let mode = section.get_or("mode", "bucket".to_owned());
    let unit = match unit.as_deref() {
        Some("requests") => Some(Unit::Requests),
        Some("tokens") => Some(Unit::Tokens),
        Some("uncached_tokens") => Some(Unit::UncachedTokens),
        Some(other) => {
            let expected = "\"requests\", \"tokens\" or \"uncached_tokens\" is expected";
            section.problem("unit", format!("{expected}, got {other:?}"));
            None
        }
        None => None,
    };
    let mode = match (mode.as_str(), skew) {
        ("fixed", skew) => Some(Mode::Fixed { skew: skew.unwrap_or(SKEW) }),
        ("bucket" | "sliding" | "auto", Some(_)) => {
            section.problem("skew", "only `mode = \"fixed\"` goes by the upstream's clock");
            None
        }
        ("bucket", None) => Some(Mode::Bucket),
        ("sliding", None) => Some(Mode::Sliding),
        ("auto", None) => Some(Mode::Auto),
        (other, _) => {
            let expected = "\"bucket\", \"fixed\", \"sliding\" or \"auto\" is expected";
            section.problem("mode", format!("{expected}, got {other:?}"));
            None
        }
    };
    let learn = match section.get_or("learn", "both".to_owned()).as_str() {
        "both" => Some(Learn::Both),
        "down" => Some(Learn::Down),
        "never" => Some(Learn::Never),
        other => {
            let expected = "\"both\", \"down\" or \"never\" is expected";
            section.problem("learn", format!("{expected}, got {other:?}"));
            None
        }
    };
    let [even, reserve] = ["spread", "reserve"].map(|key| section.get_or(key, Share(0)).0);
    let (unit, limit, per, mode) = (unit?, limit?, per?, mode?);
    let (learn, spread) = (learn?, Spread { even, reserve });
    let name = name.unwrap_or_else(|| window_name(per));
    let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.is_empty() || !name.chars().all(label) {
        section.problem("name", format!("lower-case letters, digits and _ only, got {name:?}"));
        return None;
    }
    match Constraint::new(unit, limit, per, &name, mode) {
        Ok(quota) => Some(quota.learning(learn).spread_by(spread)),
        Err(error) => {
            section.problem("limit", error.to_string());
            None
        }
    }
}

/// What a window is called unless it is named.
#[must_use]
pub fn window_name(per: Duration) -> String {
    match per.as_secs() {
        1 if per.subsec_nanos() == 0 => "second".to_owned(),
        60 => "minute".to_owned(),
        3_600 => "hour".to_owned(),
        86_400 => "day".to_owned(),
        _ => humantime::format_duration(per).to_string().replace(' ', "_"),
    }
}
