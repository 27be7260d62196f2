//! Where the files are, and what was begun there before.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Failure;

/// What says which input the directory belongs to.
const MARK: &str = "input.sha256";

/// The files of a run.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) input: PathBuf,
    pub(super) output: PathBuf,
    pub(super) errors: PathBuf,
    /// What is kept until the output is complete.
    pub(super) work: PathBuf,
    /// Whether a run began there before.
    pub(super) begun: bool,
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

impl Place {
    /// Looks at the files, and makes the directory for what is kept meanwhile.
    pub(super) fn of(input: &Path, output: &Path, errors: Option<&Path>) -> Result<Self, Failure> {
        let usual = || {
            let stem =
                output.extension().filter(|it| *it == "jsonl").map(|_| output.with_extension(""));
            with_suffix(&stem.unwrap_or_else(|| output.to_owned()), ".errors.jsonl")
        };
        let errors = errors.map_or_else(usual, Path::to_owned);
        let work = with_suffix(output, ".tidegate");
        let at_input = |error: io::Error| Failure::Usage(format!("{}: {error}", input.display()));
        let digest = digest(input).map_err(at_input)?;
        let place = Self {
            input: input.to_owned(),
            output: output.to_owned(),
            errors,
            begun: work.is_dir(),
            work,
        };
        place.begin(&digest)?;
        Ok(place)
    }

    fn begin(&self, digest: &str) -> Result<(), Failure> {
        let work = self.work.display();
        if self.begun {
            let mark = fs::read_to_string(self.work.join(MARK)).unwrap_or_default();
            if mark.trim() == digest {
                return Ok(());
            }
            return Err(Failure::Usage(format!(
                "{work} was begun with another input than {}: go on with that one, or delete the \
                 directory to begin anew",
                self.input.display()
            )));
        }
        for path in [&self.output, &self.errors] {
            if path.exists() {
                let path = path.display();
                return Err(Failure::Usage(format!("{path} is there already: name another file")));
            }
        }
        let made = || {
            // Whole or not at all: the mark is in it when it gets its name.
            let new = with_suffix(&self.work, ".new");
            if new.is_dir() {
                fs::remove_dir_all(&new)?;
            }
            private(&new)?;
            let mut mark = File::create(new.join(MARK))?;
            writeln!(mark, "{digest}")?;
            mark.sync_all()?;
            fs::rename(&new, &self.work)
        };
        made().map_err(|error| Failure::Usage(format!("{work}: {error}")))
    }

    /// Puts a result in its place; it may be there already.
    pub(super) fn deliver(&self, from: &Path, to: &Path) -> Result<(), Failure> {
        match fs::rename(from, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && to.exists() => Ok(()),
            Err(error) => Err(Failure::Failed(format!("{}: {error}", to.display()))),
            Ok(()) => Ok(()),
        }
    }

    /// Forgets what was kept meanwhile.
    pub(super) fn clear(&self) -> Result<(), Failure> {
        fs::remove_dir_all(&self.work)
            .map_err(|error| Failure::Failed(format!("{}: {error}", self.work.display())))
    }
}

fn private(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().mode(0o700).create(dir)
}

/// The SHA-256 of a file, in hexadecimal.
fn digest(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let (mut digest, mut buffer) = (Sha256::new(), vec![0; 256 << 10]);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        digest.update(&buffer[..read]);
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_known_again_by_its_input() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (input, output) = (path("in.jsonl"), path("out.jsonl"));
        let problem = |place: Result<Place, Failure>| match place {
            Err(Failure::Usage(text)) => text,
            other => panic!("{other:?}"),
        };
        assert!(problem(Place::of(&input, &output, None)).contains("in.jsonl"));
        fs::write(&input, "one").unwrap();
        let place = Place::of(&input, &output, None).unwrap();
        assert!(!place.begun && place.work.is_dir());
        assert_eq!(place.errors, path("out.errors.jsonl"));
        assert!(Place::of(&input, &output, None).unwrap().begun);
        fs::write(&input, "two").unwrap();
        assert!(problem(Place::of(&input, &output, None)).contains("another input"));
        place.clear().unwrap();
        fs::write(&output, "an answer").unwrap();
        assert!(problem(Place::of(&input, &output, None)).contains("already"));
        let place = Place::of(&input, &path("plain"), None).unwrap();
        assert_eq!(place.errors, path("plain.errors.jsonl"));
        fs::write(place.work.join("x"), "x").unwrap();
        place.deliver(&place.work.join("x"), &place.output).unwrap();
        place.deliver(&place.work.join("x"), &place.output).unwrap();
        assert!(place.deliver(&place.work.join("y"), &place.errors).is_err());
    }
}
