//! The architecture as a test.

use std::fs;
use std::path::{Path, PathBuf};

/// Lowest first: a module may import itself and what stands before it, its neighbours excepted.
const LAYERS: &[&[&str]] = &[
    &["time", "cores"],
    &["limit"],
    &["usage", "identity"],
    &["admission"],
    &["metrics"],
    &["config"],
    &["store"],
    &["telemetry"],
    &["store"],
    &["proxy"],
    &["batch"],
    &["admin"],
    &["server"],
    &["simulator"],
    &["plan", "load", "top"],
    &["cli"],
];

/// The simulator is the gateway's oracle: it shares no more with it than the clock.
const ORACLE: (&str, &str) = ("simulator", "time");

/// Lines that still read in one sitting.
const LONGEST_FILE: usize = 400;

/// Every source file with its path from the package's root, in order.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut folders, mut files) = (vec![root.join("src")], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                let text = fs::read_to_string(&path).expect("text");
                let path = path.strip_prefix(root).expect("below the root").to_owned();
                files.push((path, text));
            }
        }
    }
    files.sort();
    assert!(files.len() > 50, "the whole tree is read");
    files
}

/// The top-level module that a file belongs to.
fn module(path: &Path) -> String {
    let name = path.iter().nth(1).expect("a name below src").to_string_lossy();
    name.trim_end_matches(".rs").to_owned()
}

/// The top-level modules that a line of code names.
fn imports(line: &str) -> Vec<String> {
    let code = line.split("//").next().unwrap_or_default();
    let after = code.split("crate::").skip(1);
    let names = after.flat_map(|rest| match rest.strip_prefix('{') {
        Some(list) => list.split(',').collect::<Vec<_>>(),
        None => vec![rest],
    });
    let word = |text: &str| {
        let word = text.trim_start().split(|c: char| !c.is_alphanumeric() && c != '_').next();
        word.unwrap_or_default().to_owned()
    };
    names.map(word).filter(|name| !name.is_empty()).collect()
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

#[test]
fn modules_import_only_downwards() {
    let mut problems = Vec::new();
    for (path, text) in sources() {
        let own = module(&path);
        if matches!(own.as_str(), "lib" | "main") {
            continue;
        }
        let Some(height) = layer(&own) else {
            problems.push(format!("{}: {own} has no layer", path.display()));
            continue;
        };
        for (line, number) in text.lines().zip(1..) {
            for other in imports(line).into_iter().filter(|other| *other != own) {
                let below = layer(&other).is_some_and(|other| other < height);
                if !below || (own == ORACLE.0 && other != ORACLE.1) {
                    problems.push(format!("{}:{number}: {own} imports {other}", path.display()));
                }
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn only_one_module_reads_a_clock() {
    let mut problems = Vec::new();
    for (path, text) in sources() {
        if path == Path::new("src/time.rs") {
            continue;
        }
        for (line, number) in text.lines().zip(1..) {
            let code = line.split("//").next().unwrap_or_default();
            let std_time = code.contains("std::time") && code.contains("Instant");
            if std_time || code.contains("SystemTime") {
                problems.push(format!("{}:{number}: {}", path.display(), line.trim()));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let mut problems = Vec::new();
    for (path, text) in sources() {
        let lines = text.lines().count();
        let tests = path.file_name().is_some_and(|name| name == "tests.rs");
        if lines > LONGEST_FILE && !tests {
            problems.push(format!("{}:{lines}: longer than {LONGEST_FILE} lines", path.display()));
        }
        if !tests && !text.starts_with("//!") {
            problems.push(format!("{}:1: begins without saying what it is for", path.display()));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn imports_are_found_wherever_they_stand() {
    for (line, expected) in [
        ("use crate::limit::Cost;", &["limit"][..]),
        ("use crate::{config, usage::Usage};", &["config", "usage"]),
        ("    at: Option<crate::time::Timestamp>, // crate::proxy", &["time"]),
        ("//! [`crate::proxy`]", &[]),
        ("pub(crate) fn f()", &[]),
    ] {
        assert_eq!(imports(line), expected, "{line}");
    }
}
