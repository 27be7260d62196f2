//! The tokenizers that models name, each file read once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::usage::Tokenizer;

/// The most bytes of a file: those of the largest vocabularies in use take 35 MB.
const MOST_BYTES: u64 = 128 << 20;

/// Finds tokenizers by what the configuration calls them.
pub(super) struct Tokenizers<'a> {
    /// Where relative paths begin: the configuration file's directory.
    directory: &'a Path,
    /// What came of the files that were read. Models take what they leave out from the fallback,
    /// but each may name the same file itself.
    read: RefCell<BTreeMap<PathBuf, Result<Tokenizer, String>>>,
}

impl<'a> Tokenizers<'a> {
    pub(super) fn new(directory: &'a Path) -> Self {
        Self { directory, read: RefCell::default() }
    }

    /// The files that were read.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.read.borrow().keys().cloned().collect()
    }

    /// The tokenizer called `name`, `None` for `"none"`, or what is wrong with it.
    pub(super) fn find(&self, name: &str) -> Result<Option<Tokenizer>, String> {
        match (name, name.strip_prefix("file:")) {
            ("none", _) => Ok(None),
            ("o200k", _) => Ok(Some(Tokenizer::O200k)),
            (_, Some(path)) if !path.is_empty() => {
                let path = self.directory.join(path);
                // The effective configuration is to be of use wherever it is written to.
                let path = std::path::absolute(&path).unwrap_or(path);
                let mut read = self.read.borrow_mut();
                read.entry(path).or_insert_with_key(|path| load(path)).clone().map(Some)
            }
            _ => {
                let expected =
                    "\"o200k\", \"file:PATH\" of a tokenizer.json or \"none\" is expected";
                Err(format!("{expected}, got {name:?}"))
            }
        }
    }
}

fn load(path: &Path) -> Result<Tokenizer, String> {
    let shown = path.display();
    let bytes = bytes(path).map_err(|error| format!("{shown}: {error}"))?;
    Tokenizer::from_json(&format!("file:{shown}"), &bytes).map_err(|e| format!("{shown}: {e}"))
}

fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let found = path.metadata()?;
    // Opening a pipe would wait for its other end.
    if !found.is_file() {
        return Err(io::Error::other("is no file"));
    }
    if found.len() > MOST_BYTES {
        return Err(io::Error::other(format!("is larger than {} MiB", MOST_BYTES >> 20)));
    }
    let mut bytes = Vec::new();
    // It may be growing.
    File::open(path)?.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use super::*;
    use crate::config::{Config, Overrides, Problems};

    const TIDES: &str = include_str!("../../tests/tokenizers/tides.json");

    /// A configuration in `directory`, with one model for each of these.
    fn load(directory: &Path, tokenizers: &[&str]) -> Result<Config, Problems> {
        let mut text = "upstream.base_url = \"http://h\"\n[models.\"*\"]\n\
            output_reservation = { default = 1 }\n\
            limits = [{ unit = \"tokens\", limit = 9, per = \"1m\" }]\n"
            .to_owned();
        for (number, name) in tokenizers.iter().enumerate() {
            text += &format!("[models.m{number}]\nprompt_estimate = {{ tokenizer = {name:?} }}\n");
        }
        let path = directory.join("tidegate.toml");
        fs::write(&path, text).unwrap();
        Config::load(Some(&path), [], &Overrides::default())
    }

    #[test]
    fn a_file_is_found_beside_the_configuration_and_read_once() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("models")).unwrap();
        let path = directory.path().join("models/tides.json");
        fs::write(&path, TIDES).unwrap();
        let absolute = format!("file:{}", path.display());
        let config =
            load(directory.path(), &["file:models/tides.json", &absolute, "none", "o200k"])
                .unwrap();
        let tokenizer = |model| config.models.profile(model).unwrap().tokenizer.clone();
        let (Some(Tokenizer::File(first)), Some(Tokenizer::File(second))) =
            (tokenizer("m0"), tokenizer("m1"))
        else {
            panic!("both are files");
        };
        assert!(Arc::ptr_eq(&first, &second), "read once");
        assert_eq!((tokenizer("m2"), tokenizer("m3")), (None, Some(Tokenizer::O200k)));
        assert_eq!(tokenizer("m0").unwrap().count("the tide"), 4);
        // What is printed holds wherever it is written to.
        let printed = config.to_toml();
        assert!(printed.contains(&absolute), "{printed}");
        let again = Config::parse(&printed, [], &Overrides::default()).unwrap();
        assert_eq!(again.models, config.models);
    }

    #[test]
    fn every_file_that_cannot_be_used_is_a_problem_of_its_key() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        file("half.json", &TIDES[..TIDES.len() / 2]);
        file("unigram.json", r#"{"model": {"type": "Unigram", "vocab": []}}"#);
        let huge = File::create(directory.path().join("huge.json")).unwrap();
        huge.set_len(MOST_BYTES + 1).unwrap();
        fs::create_dir(directory.path().join("folder")).unwrap();
        let names = [
            "file:missing.json",
            "file:half.json",
            "file:unigram.json",
            "file:huge.json",
            "file:folder",
            "file:",
            "cl100k",
        ];
        let shown = load(directory.path(), &names).unwrap_err().to_string();
        let root = directory.path().display();
        for (line, expected) in [
            (6, format!("{root}/missing.json: No such file")),
            (8, format!("{root}/half.json: it is not as in a tokenizer.json (line ")),
            (10, format!("{root}/unigram.json: model \"Unigram\" is not supported")),
            (12, format!("{root}/huge.json: is larger than 128 MiB")),
            (14, format!("{root}/folder: is no file")),
            (16, "\"o200k\", \"file:PATH\" of a tokenizer.json or \"none\" is expected".to_owned()),
            (18, "or \"none\" is expected, got \"cl100k\"".to_owned()),
        ] {
            let model = (line - 6) / 2;
            let found = shown.lines().find(|it| it.starts_with(&format!("models.m{model}.")));
            let found = found.unwrap_or_else(|| panic!("no m{model} in\n{shown}"));
            let path = format!("models.m{model}.prompt_estimate.tokenizer (line {line}): ");
            assert!(found.starts_with(&path) && found.contains(&expected), "{found}");
        }
        assert!(shown.ends_with("7 problems"), "{shown}");
    }
}
