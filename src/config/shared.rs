//! The section `[shared]`: the Redis or Valkey through which several replicas share one quota.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use super::section::Section;
use super::value::{Secret, decoded};

/// Long enough for a Redis in the same region, short enough that nobody notices when it hangs.
const TIMEOUT: Duration = Duration::from_millis(50);
/// Replicas notice a new server within a heartbeat (1 s), or at once by their next call.
const GRACE: Duration = Duration::from_secs(1);
/// As in the example of the documentation: a guess that errs towards more replicas than there are
/// wastes quota while the server is away, one that errs towards fewer overdraws it.
const REPLICAS: NonZeroU32 = NonZeroU32::new(3).expect("not zero");
const NAMESPACE: &str = "tidegate";
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// The server that replicas share, and how long they put up with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Shared {
    /// Where it is and how to log in.
    pub servers: Servers,
    /// The longest that any call may take.
    pub timeout: Duration,
    /// How long after a loss of state missing replicas are waited for.
    pub grace: Duration,
    /// What all keys begin with.
    pub namespace: String,
    /// Whether requests may go without having asked the server while there is plenty.
    pub float: bool,
    /// Replicas to reckon with at least.
    pub replicas: NonZeroU32,
}

/// How the hosts stand to each other.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Topology {
    /// One server.
    Single,
    /// Sentinels that know which server is the master of this name.
    Sentinel(String),
    /// Nodes of a cluster.
    Cluster,
}

/// Where the server is and how to log in.
#[derive(Clone, PartialEq)]
pub struct Servers {
    /// How the hosts stand to each other.
    pub topology: Topology,
    /// Names or addresses with their ports; at least one.
    pub hosts: Vec<(String, u16)>,
    /// Whether connections are encrypted.
    pub tls: bool,
    /// The database's number; 0 in a cluster.
    pub database: i64,
    /// The user of the server's access control list.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// Certificates that are trusted instead of the usual ones, as PEM.
    pub ca: Option<Vec<u8>>,
    /// The address as it is shown: without user and password.
    shown: String,
    ca_file: String,
}

impl Servers {
    /// The address without user and password.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// What the section refers to: secrets, and certificates as `file:PATH`.
    pub(super) fn references(&self) -> Vec<String> {
        let ca_file = Some(&self.ca_file).filter(|it| !it.is_empty());
        let password = self.password.as_ref().map(|it| it.reference().to_owned());
        let all = [Some(self.shown.clone()), password, ca_file.map(|it| format!("file:{it}"))];
        all.into_iter().flatten().collect()
    }

    /// Where the trusted certificates were read from; empty for the usual ones.
    pub fn ca_file(&self) -> &str {
        &self.ca_file
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Servers({})", self.shown)
    }
}

/// Reads the section; `None` without a `url`.
pub(super) fn shared(mut section: Section<'_>, environment: &[(String, String)]) -> Option<Shared> {
    let url = section.get_or("url", String::new());
    let user = section.get_or("user", String::new());
    let password = section.get_or("password", String::new());
    let ca_file = section.get_or("ca_file", String::new());
    let timeout = section.get_or("timeout", TIMEOUT);
    let grace = section.get_or("grace", GRACE);
    let namespace = section.get_or("namespace", NAMESPACE.to_owned());
    let float = section.get_or("float", true);
    let replicas = section.get_or("replicas", REPLICAS);
    if timeout.is_zero() || timeout > Duration::from_secs(5) {
        section.problem("timeout", "above zero and at most 5s: requests wait for it");
    }
    if grace > Duration::from_secs(60) {
        section.problem("grace", "at most 60s: nothing is admitted meanwhile");
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if namespace.is_empty() || namespace.len() > 64 || !namespace.chars().all(plain) {
        section.problem("namespace", "1 to 64 of letters, digits, '-', '_', '.' and ':' expected");
    }
    if url.is_empty() {
        for (key, set) in [("user", &user), ("password", &password), ("ca_file", &ca_file)] {
            if !set.is_empty() {
                section.problem(key, "is of no use without `url`");
            }
        }
        section.finish();
        return None;
    }
    let servers = servers(&section, &url, environment);
    let servers = servers.map(|mut servers| {
        if !user.is_empty() {
            servers.user = Some(user);
        }
        if !password.is_empty() {
            match Secret::resolve(&password, environment) {
                Ok(secret) => servers.password = Some(secret),
                Err(message) => section.problem("password", message),
            }
        }
        if !ca_file.is_empty() {
            match std::fs::read(&ca_file) {
                Ok(_) if !servers.tls => section.problem("ca_file", "`url` asks for no encryption"),
                Ok(pem) => servers.ca = Some(pem),
                Err(error) => section.problem("ca_file", format!("{ca_file}: {error}")),
            }
            servers.ca_file = ca_file;
        }
        if servers.user.is_some() && servers.password.is_none() {
            section.problem("password", "is missing: `user` needs one");
        }
        servers
    });
    section.finish();
    Some(Shared { servers: servers?, timeout, grace, namespace, float, replicas })
}

/// Reads `url`, itself or what it refers to.
fn servers(section: &Section<'_>, url: &str, environment: &[(String, String)]) -> Option<Servers> {
    let is_reference = url.starts_with("env:") || url.starts_with("file:");
    let read = if is_reference {
        Secret::resolve(url, environment).and_then(|secret| {
            let mut servers = parse(secret.expose(), url)?;
            url.clone_into(&mut servers.shown);
            Ok(servers)
        })
    } else {
        parse(url, url).and_then(|servers| match servers.password {
            None => Ok(servers),
            // Not quoted: it holds the password.
            Some(_) => Err("a password has no place here: use `password`, or refer to the whole \
                            URL by \"env:NAME\" or \"file:PATH\""
                .to_owned()),
        })
    };
    read.map_err(|message| section.problem("url", message)).ok()
}

/// Takes a URL apart. What is wrong with it is said without quoting it.
fn parse(url: &str, reference: &str) -> Result<Servers, String> {
    let expected = "\"redis://HOST[:PORT][/DATABASE]\", \"redis-sentinel://HOST,HOST/SERVICE\" or \
                    \"redis-cluster://HOST,HOST\" is expected, with rediss for TLS";
    let wrong = || expected.to_owned();
    let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
    let (base, kind) = scheme.split_once('-').unwrap_or((scheme, ""));
    let tls = match base {
        "redis" | "valkey" => false,
        "rediss" | "valkeys" => true,
        _ => return Err(wrong()),
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, hosts) = match authority.rsplit_once('@') {
        Some((login, hosts)) => (Some(login), hosts),
        None => (None, authority),
    };
    let shown = format!("{scheme}://{hosts}{}{path}", if path.is_empty() { "" } else { "/" });
    let (topology, database) = match kind {
        "" => (Topology::Single, if path.is_empty() { "0" } else { path }),
        "sentinel" if path.is_empty() => {
            return Err("the service's name is missing: redis-sentinel://HOST,HOST/SERVICE".into());
        }
        "sentinel" => {
            let (service, database) = path.split_once('/').unwrap_or((path, "0"));
            (Topology::Sentinel(service.to_owned()), database)
        }
        "cluster" => (Topology::Cluster, if path.is_empty() { "0" } else { path }),
        _ => return Err(wrong()),
    };
    let database = database.parse().ok().filter(|number| (0..=65_535).contains(number));
    let database = database.ok_or("the database is a number, such as redis://HOST:6379/1")?;
    let port = if kind == "sentinel" { SENTINEL_PORT } else { PORT };
    let hosts: Option<Vec<_>> = hosts.split(',').map(|it| host(it, port)).collect();
    let hosts = hosts.ok_or_else(wrong)?;
    if topology == Topology::Single && hosts.len() > 1 {
        return Err("several hosts need redis-sentinel:// or redis-cluster://".into());
    }
    let (user, password) = match login.map(|it| it.split_once(':').unwrap_or(("", it))) {
        None => (None, None),
        Some((user, password)) => {
            let decode = |text: &str| decoded(text).ok_or_else(wrong);
            let user = Some(decode(user)?).filter(|user| !user.is_empty());
            (user, Some(Secret::within(decode(password)?, reference)))
        }
    };
    let ca_file = String::new();
    Ok(Servers { topology, hosts, tls, database, user, password, ca: None, shown, ca_file })
}

/// `HOST`, `HOST:PORT`, `[ADDRESS]` or `[ADDRESS]:PORT`.
fn host(text: &str, default: u16) -> Option<(String, u16)> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (name, port) = rest.split_once(']')?;
            (name, port.strip_prefix(':').or(if port.is_empty() { Some("") } else { None })?)
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    let port = if port.is_empty() { Some(default) } else { port.parse().ok() }?;
    (!name.is_empty() && name.chars().all(plain)).then(|| (name.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let hosts =
            |url: &str| parse(url, "").map(|it| (it.topology, it.hosts, it.tls, it.database));
        let one = |name: &str, port| vec![(name.to_owned(), port)];
        assert_eq!(hosts("redis://cache"), Ok((Topology::Single, one("cache", 6379), false, 0)));
        assert_eq!(
            hosts("rediss://[::1]:7000/3"),
            Ok((Topology::Single, one("::1", 7000), true, 3))
        );
        let service = Topology::Sentinel("main".into());
        let two = vec![("a".to_owned(), 26379), ("b".to_owned(), 5)];
        assert_eq!(hosts("redis-sentinel://a,b:5/main"), Ok((service, two, false, 0)));
        let nodes = vec![("a".to_owned(), 6379), ("b".to_owned(), 6380)];
        assert_eq!(hosts("valkeys-cluster://a,b:6380"), Ok((Topology::Cluster, nodes, true, 0)));
    }

    /// Whichever way the login comes in, `check` shows a file that means the same and holds no secret.
    #[test]
    fn a_section_reads_back_as_itself_without_its_secrets() {
        let secrets = [("URL", "rediss://me:planted@cache:1/2"), ("WORD", "planted")];
        let secrets = secrets.map(|(name, value)| (name.to_owned(), value.to_owned()));
        for lines in [
            "url = \"env:URL\"\ntimeout = \"20ms\"",
            "url = \"rediss://cache:1/2\"\nuser = \"me\"\npassword = \"env:WORD\"",
            "url = \"redis-sentinel://a,b:7/main\"\nnamespace = \"other\"\ngrace = \"3s\"",
        ] {
            let text = format!("{}[shared]\n{lines}\n", crate::config::DEFAULT_FILE);
            let parse = |text: &str| {
                let overrides = crate::config::Overrides::default();
                crate::config::Config::parse(text, secrets.clone(), &overrides).expect(text)
            };
            let config = parse(&text);
            let shown = config.to_toml();
            assert!(!shown.contains("planted") && !format!("{config:?}").contains("planted"));
            assert_eq!(parse(&shown), config, "{shown}");
        }
    }

    #[test]
    fn a_login_is_read_and_never_shown() {
        let servers = parse("redis://me:p%40ss@cache:1", "env:URL").expect("an address");
        assert_eq!(servers.user.as_deref(), Some("me"));
        assert_eq!(servers.password.as_ref().map(Secret::expose), Some("p@ss"));
        let shown = format!("{servers:?} {}", servers.shown());
        assert!(!shown.contains("p@ss") && !shown.contains("p%40ss"), "{shown}");
    }

    #[test]
    fn what_is_no_address_is_refused_without_quoting_it() {
        for url in [
            "cache:6379",
            "http://cache",
            "redis://",
            "redis://a,b",
            "redis://secret@a:b",
            "redis-sentinel://secret@a",
            "redis-ring://a",
            "redis://a/x",
            "redis://secret%zz@a",
        ] {
            let message = parse(url, "").expect_err(url);
            assert!(!message.contains("secret"), "{message}");
        }
    }
}
