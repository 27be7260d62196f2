//! The section `[breaker]`: when the upstream counts as away, and what becomes of requests meanwhile.

use std::time::Duration;

use super::section::Section;
use crate::admission::circuit::Rule;

/// A balancer that has lost one backend of three fails five in a row once in 243.
const FAILURES: u32 = 5;
/// What is further apart is no outage.
const WINDOW: Duration = Duration::from_secs(30);
/// Most restarts are over by then, and one request a second is no burden to whatever starts.
const OPEN: Duration = Duration::from_secs(1);
const MAX_OPEN: Duration = Duration::from_secs(30);
/// A failover is over by then; callers would rather know of what takes longer.
const WAIT: Duration = Duration::from_secs(60);

/// Their instants are kept, for each pool.
const MOST_FAILURES: u32 = 1_000;

/// Reads the section.
pub(super) fn breaker(mut section: Section<'_>) -> Rule {
    let rule = Rule {
        failures: section.get_or("failures", FAILURES),
        window: section.get_or("window", WINDOW),
        open: section.get_or("open", OPEN),
        max_open: section.get_or("max_open", MAX_OPEN),
        probes: section.get_or("probes", 1),
        wait: section.get_or("wait", WAIT),
    };
    if rule.failures > MOST_FAILURES {
        section.problem("failures", format!("at most {MOST_FAILURES}, got {}", rule.failures));
    }
    for (key, span) in [("window", rule.window), ("open", rule.open)] {
        if span.is_zero() {
            section.problem(key, "must be above zero");
        }
    }
    if rule.max_open < rule.open {
        section.problem("max_open", "must not be below `open`");
    }
    if rule.probes == 0 {
        section.problem("probes", "at least 1, got 0");
    }
    section.finish();
    rule
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, DEFAULT_FILE, Overrides};

    fn problems(section: &str) -> String {
        let text = format!("{DEFAULT_FILE}\n[breaker]\n{section}");
        let problems = Config::parse(&text, [], &Overrides::default()).unwrap_err();
        let lines = problems.list().iter().map(|it| format!("{}: {}\n", it.path, it.message));
        lines.collect()
    }

    #[test]
    fn every_problem_is_told_by_its_path() {
        let text = problems(
            "failures = 1001\nwindow = \"0s\"\nopen = \"0s\"\nprobes = 0\nmaximum = 1\nwait = 5",
        );
        for path in ["failures: at most 1000", "window: must be", "open: must be", "probes: at"] {
            assert!(text.contains(&format!("breaker.{path}")), "{path}: {text}");
        }
        for path in ["breaker.maximum: unknown key", "breaker.wait: a duration"] {
            assert!(text.contains(path), "{path}: {text}");
        }
        let text = problems("open = \"2s\"\nmax_open = \"1s\"");
        assert!(text.contains("breaker.max_open: must not be below `open`"), "{text}");
    }
}
