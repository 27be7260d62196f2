//! A configuration: valid or full of problems, and what is printed of a valid one reads back as itself.
//! Secrets are in neither.

use crate::config::{Config, Overrides};

/// Between the file and the environment's lines.
const ENVIRONMENT: &str = "\n---\n";
/// What the only secret says.
const SECRET: &str = "planted-secret-5a17";

pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // A file may be named, and reading some of a machine's never ends.
    if text.contains("file:") || text.contains("tokenizer") {
        return;
    }
    let (file, lines) = text.split_once(ENVIRONMENT).unwrap_or((text, ""));
    let secret = ("SECRET".to_owned(), SECRET.to_owned());
    let pairs = lines.lines().filter_map(|line| line.split_once('='));
    let mut environment: Vec<_> = pairs.map(|(key, value)| (key.into(), value.into())).collect();
    environment.push(secret.clone());
    match Config::parse(file, environment.clone(), &Overrides::default()) {
        Ok(config) => again(&config, environment),
        Err(problems) => {
            assert!(!problems.list().is_empty(), "a problem has a name");
            for problem in problems.list() {
                assert!(!problem.path.is_empty() && !problem.message.is_empty(), "{problem:?}");
                let lines = file.lines().count().max(1) + 1;
                assert!(problem.line.is_none_or(|line| (1..=lines).contains(&line)), "{problem}");
            }
            assert!(!format!("{problems}{problems:?}").contains(SECRET), "a secret is shown");
        }
    }
}

/// What was printed needs no environment but for its secrets.
fn again(config: &Config, mut environment: Vec<(String, String)>) {
    let printed = config.to_toml();
    assert!(!format!("{printed}{config:?}").contains(SECRET), "a secret is shown");
    // Those set sections, and have had their say.
    let ours = ["TIDEGATE_", "CEREBRAS_", "OTEL_"];
    let keeps = |name: &str| {
        printed.contains(&format!("env:{name}")) || !ours.iter().any(|it| name.starts_with(it))
    };
    environment.retain(|(name, _)| keeps(name) && !name.starts_with("TIDEGATE_"));
    let read = Config::parse(&printed, environment, &Overrides::default());
    let mut read = read.unwrap_or_else(|problems| panic!("{problems}\n{printed}"));
    assert_eq!(read.to_toml(), printed, "printed again");
    // The same place; its path is not printed.
    read.upstream.base_url = config.upstream.base_url.clone();
    assert_eq!(read, *config, "{printed}");
}
