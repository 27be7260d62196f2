//! `tidegate keys list`: the tenants of the file, for people and for programs; never a key.

use std::fmt::Write;

use serde::Serialize;

use super::Failure;
use super::entry::instant;
use super::file::{read, tenants};
use crate::cli::say;
use crate::config::KeysContext;
use crate::identity::{BadKey, VirtualKey};
use crate::time::Timestamp;

/// A tenant as it is listed.
#[derive(Debug, Serialize)]
struct Line {
    name: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<String>,
    weight: u32,
    limits: Vec<String>,
    models: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_concurrent: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    /// Until when keys that were replaced are good.
    previous_until: Vec<String>,
}

impl Line {
    fn of(key: &VirtualKey, class: Option<String>, now: Timestamp) -> Self {
        let terms = key.terms.as_ref();
        let limits = terms.into_iter().flat_map(|it| &it.limits).map(|quota| {
            let mode = quota.mode().as_str();
            let (limit, per) = (quota.limit(), humantime::format_duration(quota.window()));
            format!("{limit} {}/{per}:{mode}", quota.unit().as_str())
        });
        let previous = key.previous.iter().filter(|it| it.expires > now);
        Self {
            name: key.name.to_string(),
            state: match key.check(now) {
                Ok(()) => "active",
                Err(BadKey::Revoked) => "revoked",
                Err(BadKey::Expired | BadKey::Unknown) => "expired",
            },
            class,
            weight: key.weight.get(),
            limits: limits.collect(),
            models: terms.into_iter().flat_map(|it| &it.models).map(ToString::to_string).collect(),
            max_concurrent: terms.and_then(|it| it.max_concurrent).map(std::num::NonZeroU32::get),
            expires: key.expires.map(instant),
            previous_until: previous.map(|it| instant(it.expires)).collect(),
        }
    }

    fn cells(&self) -> [String; 7] {
        let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        let mut limits = self.limits.join(", ");
        if let Some(most) = self.max_concurrent {
            let comma = if limits.is_empty() { "" } else { ", " };
            let _ = write!(limits, "{comma}{most} at once");
        }
        [
            self.name.clone(),
            self.state.to_owned(),
            or_dash(self.class.clone().unwrap_or_default()),
            self.weight.to_string(),
            or_dash(limits),
            or_dash(self.models.join(", ")),
            or_dash(self.expires.clone().unwrap_or_default()),
        ]
    }
}

pub(super) fn carry_out(context: &KeysContext, json: bool, now: Timestamp) -> Result<(), Failure> {
    let (document, keys) = read(context)?;
    let classes = tenants(&document)
        .map(|table| table.get("class").and_then(|class| class.as_str()).map(str::to_owned));
    let lines: Vec<_> =
        keys.iter().zip(classes).map(|(key, class)| Line::of(key, class, now)).collect();
    if json {
        let text = serde_json::to_string_pretty(&lines);
        say(text.map_err(|error| Failure::Failed(error.to_string()))?);
    } else {
        say(table(&lines));
    }
    Ok(())
}

/// Columns as wide as what stands in them.
fn table(lines: &[Line]) -> String {
    let heads = ["NAME", "STATE", "CLASS", "WEIGHT", "LIMITS", "MODELS", "EXPIRES"];
    let rows: Vec<_> =
        std::iter::once(heads.map(str::to_owned)).chain(lines.iter().map(Line::cells)).collect();
    let widths: Vec<_> = (0..heads.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.trim_end().to_owned()
}
