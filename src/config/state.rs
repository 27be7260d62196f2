//! What outlives the process, and where.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::section::Section;

/// What outlives the process.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// The directory; `None` for none, or for the one that `serve` chooses.
    pub dir: Option<PathBuf>,
    /// Whether nothing is kept, whatever the directory.
    pub stateless: bool,
    /// What a commit waits for.
    pub sync: Durability,
    /// How long usage is kept by the minute.
    pub keep_minutes: Duration,
    /// How long usage is kept by the hour.
    pub keep_hours: Duration,
    /// How long usage is kept by the day.
    pub keep_days: Duration,
}

/// What a commit waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Durability {
    /// The operating system has it: it outlives the process, but not always a loss of power.
    Normal,
    /// The disk has it.
    Full,
}

impl Durability {
    /// Its name in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Full => "full",
        }
    }
}

/// It is not known where state is to be kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "state.dir: neither XDG_STATE_HOME nor HOME says where state is to be kept; name a directory \
     with --state-dir, or keep none with --stateless"
)]
pub struct NoDirectory;

impl State {
    /// Where state is kept; `None` for nowhere.
    pub fn place(&self) -> Option<&Path> {
        if self.stateless { None } else { self.dir.as_deref() }
    }

    /// Chooses the directory of the user's, if none is configured and state is to be kept.
    ///
    /// # Errors
    ///
    /// If the environment does not say where that is.
    pub fn choose(&mut self, variable: impl Fn(&str) -> Option<String>) -> Result<(), NoDirectory> {
        if self.stateless || self.dir.is_some() {
            return Ok(());
        }
        // A relative path would be another one from each directory: the standard says to ignore it.
        let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|it| it.is_absolute());
        let home = || absolute("HOME").map(|home| home.join(".local/state"));
        let home = absolute("XDG_STATE_HOME").or_else(home).ok_or(NoDirectory)?;
        self.dir = Some(home.join("tidegate"));
        Ok(())
    }
}

/// Reads the section.
pub(super) fn state(mut section: Section<'_>) -> State {
    const HOUR: Duration = Duration::from_secs(3_600);
    const DAY: Duration = Duration::from_secs(24 * 3_600);
    let dir = section.get_or("dir", String::new());
    let sync = match section.get_or("sync", "normal".to_owned()).as_str() {
        "normal" => Durability::Normal,
        "full" => Durability::Full,
        other => {
            section.problem("sync", format!("\"normal\" or \"full\" is expected, got {other:?}"));
            Durability::Normal
        }
    };
    let mut keep = |key, default, least: Duration| {
        let span = section.get_or(key, default);
        if span < least {
            let least = humantime::format_duration(least);
            section.problem(key, format!("at least {least}: shorter is not told apart"));
        }
        span
    };
    let state = State {
        dir: (!dir.is_empty()).then(|| PathBuf::from(dir)),
        sync,
        keep_minutes: keep("keep_minutes", 2 * DAY, HOUR),
        keep_hours: keep("keep_hours", 90 * DAY, DAY),
        keep_days: keep("keep_days", 2 * 365 * DAY, DAY),
        stateless: section.get_or("stateless", false),
    };
    section.finish();
    state
}
