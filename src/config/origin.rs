//! Where a configuration came from, so that it can be read again.

use std::fmt;
use std::path::{Path, PathBuf};

use super::source::Problems;
use super::{Config, Overrides};

/// A file, the environment and the flags of a process: read again, only the file can say something else.
#[derive(Clone)]
pub struct Origin {
    path: Option<PathBuf>,
    environment: Vec<(String, String)>,
    overrides: Overrides,
    keeps_state: bool,
}

impl Origin {
    /// The file at `path` (the built-in one if `None`), this environment and these flags.
    pub fn new(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        overrides: Overrides,
    ) -> Self {
        let environment = environment.into_iter().collect();
        Self { path: path.map(Path::to_owned), environment, overrides, keeps_state: false }
    }

    /// The same; state is kept in the user's directory, unless something says where.
    #[must_use]
    pub const fn keeping_state(mut self) -> Self {
        self.keeps_state = true;
        self
    }

    /// Reads it.
    ///
    /// # Errors
    ///
    /// Every problem found, with its path in the configuration.
    pub fn read(&self) -> Result<Config, Problems> {
        self.read_after(None)
    }

    /// Reads it to take the place of what is `running`, whose classes keep their indexes.
    ///
    /// # Errors
    ///
    /// Every problem found, with its path in the configuration.
    pub fn read_again(&self, running: &Config) -> Result<Config, Problems> {
        self.read_after(Some(running))
    }

    fn read_after(&self, running: Option<&Config>) -> Result<Config, Problems> {
        let (path, environment) = (self.path.as_deref(), self.environment.iter().cloned());
        let mut config = Config::load_after(running, path, environment, &self.overrides)?;
        if self.keeps_state {
            let variable = |name: &str| {
                let found = self.environment.iter().find(|(other, _)| other == name);
                found.map(|(_, value)| value.clone())
            };
            let chosen = config.state.choose(variable);
            chosen.map_err(|problem| Problems::one("state.dir", &problem))?;
        }
        Ok(config)
    }
}

impl fmt::Debug for Origin {
    /// Without the environment: there are keys in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, overrides, keeps_state, .. } = self;
        f.debug_struct("Origin")
            .field("path", path)
            .field("overrides", overrides)
            .field("keeps_state", keeps_state)
            .finish_non_exhaustive()
    }
}
