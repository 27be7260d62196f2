//! The keys of `[server]` that say who may use the admin port, and under which names.
//!
//! # Invariants
//!
//! - An admin port that other machines can reach asks for a token, or the configuration says in so many
//!   words that it does not: nobody shows an account's use by mistake.

use std::net::SocketAddr;

use super::section::Section;
use super::source::{Kind, Node};
use super::value::{FromNode, Secret};

/// Characters of a token at least: whoever sees a session's cookie could try out shorter ones at home.
const SHORTEST: usize = 16;

/// Who may use the admin port.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdminAccess {
    /// What has to be presented; `None` for nothing.
    pub token: Option<Secret>,
    /// Whether whoever reaches the port may use it, however far away they are.
    pub open: bool,
    /// Names under which the port may be asked for, beside `localhost` and addresses.
    pub hosts: Vec<String>,
}

/// Reads the keys, for a port that listens at `admin`.
pub(super) fn admin_access(
    section: &mut Section<'_>,
    admin: SocketAddr,
    environment: &[(String, String)],
) -> AdminAccess {
    let reference = section.get_or("admin_token", String::new());
    let open = section.get_or("admin_open", false);
    let hosts = section.get_or("admin_hosts", Names::default()).0;
    let asked = !reference.is_empty();
    let token = asked.then(|| Secret::resolve(&reference, environment)).and_then(|resolved| {
        let long = resolved.and_then(|token| {
            let long = token.expose().len() >= SHORTEST;
            let short = || format!("{reference} is too short: {SHORTEST} characters at least");
            if long { Ok(token) } else { Err(short()) }
        });
        long.map_err(|message| section.problem("admin_token", message)).ok()
    });
    if asked && open {
        section.problem("admin_open", "says that no token is asked for, but `admin_token` is set");
    } else if !admin.ip().is_loopback() && !asked && !open {
        let message = format!(
            "{admin} can be reached from other machines: set `admin_token` (\"env:NAME\" or \
             \"file:PATH\"), or `admin_open = true` if all who reach it may see what it shows"
        );
        section.problem("admin", message);
    }
    AdminAccess { token, open, hosts }
}

/// Names of hosts: a list, or in a variable text with commas.
#[derive(Default)]
struct Names(Vec<String>);

impl FromNode for Names {
    fn from_node(node: Node) -> Result<Self, String> {
        let names: Vec<String> = match node.kind {
            Kind::Array(nodes) => {
                nodes.into_iter().map(String::from_node).collect::<Result<_, _>>()?
            }
            Kind::Untyped(text) => {
                let names = text.split(',').map(|name| name.trim().to_owned());
                names.filter(|name| !name.is_empty()).collect()
            }
            kind => return Err(format!("a list of names is expected, got {}", kind.describe())),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        match names.iter().find(|name| name.is_empty() || !name.chars().all(plain)) {
            Some(name) => Err(format!("the name of a host is expected, no port, got {name:?}")),
            None => Ok(Self(names.iter().map(|name| name.to_ascii_lowercase()).collect())),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, DEFAULT_FILE, Overrides, Secret};

    const TOKEN: &str = "planted-token-of-some-length";

    fn parse(lines: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
        let text = DEFAULT_FILE.replace("[server]", &format!("[server]\n{lines}\n"));
        let text = text.replace("admin = \"127.0.0.1:9464\"\n", "");
        let variables = variables.iter().map(|(key, value)| ((*key).into(), (*value).into()));
        Config::parse(&text, variables.collect::<Vec<_>>(), &Overrides::default())
            .map_err(|problems| problems.to_string())
    }

    #[test]
    fn beyond_loopback_it_takes_a_token_or_the_word_that_it_does_not() {
        let beyond = "admin = \"0.0.0.0:9464\"";
        let with_token = format!("{beyond}\nadmin_token = \"env:TOKEN\"");
        let token = [("TOKEN", TOKEN)];
        for address in ["0.0.0.0:9464", "[::]:9464", "192.0.2.1:9464"] {
            let refused = parse(&format!("admin = \"{address}\""), &[]).expect_err(address);
            assert!(refused.contains("server.admin (line"), "{refused}");
            assert!(refused.contains("`admin_token`") && refused.contains("`admin_open = true`"));
        }
        for address in ["127.0.0.1:9464", "127.9.9.9:1", "[::1]:9464"] {
            let config = parse(&format!("admin = \"{address}\""), &[]).expect(address);
            assert_eq!(config.server.admin_access, super::AdminAccess::default());
        }
        let asked = parse(&with_token, &token).expect("a token");
        assert_eq!(asked.server.admin_access.token.as_ref().map(Secret::expose), Some(TOKEN));
        assert!(!format!("{asked:?}{}", asked.to_toml()).contains("planted"));
        let open = parse(&format!("{beyond}\nadmin_open = true"), &[]).expect("it is said");
        assert!(open.server.admin_access.open);
        let both = parse(&format!("{with_token}\nadmin_open = true"), &token).expect_err("both");
        assert!(both.contains("server.admin_open (line"), "{both}");
    }

    #[test]
    fn a_token_that_could_be_guessed_or_is_none_is_a_problem_and_not_shown() {
        for (lines, variables, part) in [
            ("admin_token = \"env:TOKEN\"", &[("TOKEN", "planted")][..], "too short"),
            ("admin_token = \"env:TOKEN\"", &[("TOKEN", "planted with spaces in it")], "no key"),
            ("admin_token = \"env:TOKEN\"", &[], "TOKEN is not set"),
            ("admin_token = \"file:/no/such\"", &[], "/no/such"),
            ("admin_token = \"planted-token-of-some-length\"", &[], "a reference is expected"),
        ] {
            let problems = parse(lines, variables).expect_err(lines);
            assert!(problems.contains("server.admin_token (line"), "{problems}");
            assert!(problems.contains(part) && !problems.contains("planted"), "{problems}");
        }
    }

    #[test]
    fn the_variable_that_clients_use_is_the_gateways_token_as_well() {
        let variable = ("TIDEGATE_ADMIN_TOKEN", TOKEN);
        let token = |lines: &str, variables: &[(&str, &str)]| {
            let config = parse(lines, variables).expect("valid");
            config.server.admin_access.token.map(|it| it.reference().to_owned())
        };
        assert_eq!(token("", &[variable]).as_deref(), Some("env:TIDEGATE_ADMIN_TOKEN"));
        let other = ("OTHER", "another-token-of-some-length");
        let said = token("admin_token = \"env:OTHER\"", &[variable, other]);
        assert_eq!(said.as_deref(), Some("env:OTHER"), "the file says otherwise");
        let theirs = ("TIDEGATE_ADMIN_CA", "/no/such");
        assert_eq!(token("", &[theirs]), None, "which authority clients trust is nothing to it");
    }

    #[test]
    fn names_come_from_the_file_or_a_variable() {
        let hosts = |lines: &str, variables: &[(&str, &str)]| {
            parse(lines, variables).map(|it| it.server.admin_access.hosts)
        };
        let two = Ok(vec!["a.example".to_owned(), "gateway".to_owned()]);
        assert_eq!(hosts("admin_hosts = [\"A.example\", \"gateway\"]", &[]), two);
        assert_eq!(hosts("", &[("TIDEGATE_SERVER_ADMIN_HOSTS", "a.example, gateway")]), two);
        assert_eq!(hosts("", &[("TIDEGATE_SERVER_ADMIN_HOSTS", "")]), Ok(Vec::new()));
        for wrong in ["\"a\"", "[\"a:9464\"]", "[\"http://a\"]", "[\"\"]", "[1]"] {
            let problems = hosts(&format!("admin_hosts = {wrong}"), &[]).expect_err(wrong);
            assert!(problems.contains("server.admin_hosts (line"), "{problems}");
        }
    }
}
