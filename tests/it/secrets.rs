//! Keys and prompts are planted wherever callers, upstreams and configurations have them, and looked
//! for wherever anybody but their owners can look: none is found, in no spelling.

mod config;
mod needles;
mod pages;
mod run;

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use self::needles::Needles;
use self::run::Run;
use crate::support::process::{run as finish, tidegate};

/// Every file below a directory, and the directories.
fn everything(dir: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut files, mut folders, mut next) = (Vec::new(), vec![dir.to_owned()], 0);
    while let Some(folder) = folders.get(next).cloned() {
        next += 1;
        for entry in fs::read_dir(&folder).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    (files, folders)
}

/// What one run shows to anybody but the owners of its secrets.
async fn is_discreet(format: &str) {
    let place = TempDir::new().expect("a directory");
    let (mut run, needles) = (Run::start(place.path(), format).await, Needles::all());
    run.callers().await;
    let pages = pages::all(&run).await;
    run.without_the_others().await;
    // As it is after a power cut: with the log of the database, which an end in order folds in.
    let (output, seen) = run.kill().await;

    let lines = |target: &str| output.lines().filter(|line| line.contains(target)).count();
    assert!(lines("tidegate::request") > 20, "every request is logged: {output}");
    assert!(lines("TRACE") > 20, "and everything that libraries say: {output}");
    assert!(!output.contains("log lines were dropped"), "{output}");
    needles.are_not_in("the log", output.as_bytes());

    for (name, page) in &pages {
        needles.are_not_in(name, page.as_bytes());
    }
    for message in seen.collected {
        needles.are_not_in("a trace", &message);
    }
    for value in seen.shared {
        needles.are_not_in("what replicas share", &value);
    }
    for (what, answer) in seen.others {
        Needles::of_others().are_not_in(&what, &answer);
    }

    let state = place.path().join("state");
    let (files, _) = everything(&state);
    assert!(files.iter().any(|it| it.ends_with("tidegate.db-wal")), "{files:?}");
    for file in files {
        let name = file.display().to_string();
        let kind = fs::metadata(&file).expect("it is there");
        if kind.file_type().is_socket() {
            // Who may have the next process take over; there is nothing in it to be read.
            assert_eq!(kind.permissions().mode() & 0o077, 0, "{name}");
        } else {
            needles.are_not_in(&name, &fs::read(&file).expect("it is ours"));
        }
    }
    // Prompts and answers of batches are kept for their owners, by design. Keys are not.
    let (files, folders) = everything(&place.path().join("batches"));
    let whole: Vec<u8> = files.iter().flat_map(|it| fs::read(it).expect("it is ours")).collect();
    assert!(needles::holds(&whole, needles::LINE), "the line that was to be worked off");
    Needles::keys().are_not_in("the batch directory", &whole);
    for (paths, allowed) in [(files, 0o600), (folders, 0o700)] {
        for path in paths {
            let mode = fs::metadata(&path).expect("it is there").permissions().mode() & 0o777;
            // The logs of a database have its mode.
            assert_eq!(mode & !allowed, 0, "{}: {mode:o}", path.display());
        }
    }

    // What is printed of the same configuration.
    let config = place.path().join("tidegate.toml");
    let mut check = tidegate(&["check", config.to_str().expect("text")]);
    run::environment(&mut check, 6379);
    let (code, stdout, stderr) = finish(&mut check);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("env:ACCOUNT_KEY"), "{stdout}");
    needles.are_not_in("`tidegate check`", format!("{stdout}{stderr}").as_bytes());
}

#[tokio::test]
async fn nothing_secret_is_shown_to_anybody_else() {
    is_discreet("text").await;
}

#[tokio::test]
async fn nothing_secret_is_in_logs_for_machines() {
    is_discreet("json").await;
}
