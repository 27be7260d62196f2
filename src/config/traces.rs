//! The section `[traces]`: where spans are sent to, and of which requests.

use std::num::NonZeroU32;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::section::Section;
use super::source::Node;
use super::value::{FromNode, Secret, decimal, decoded, shown};

/// What the service is called unless it is said.
const SERVICE: &str = "tidegate";
/// The standard's own, for one call.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Requests whose spans wait: a second at 2,000 requests a second, in about 4 MiB.
const MAX_QUEUED: NonZeroU32 = NonZeroU32::new(2_048).expect("not zero");
/// What a collector listens to, where only its host is named.
const PATH: &str = "/v1/traces";

/// The collector and what it is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Traces {
    /// Its URL.
    pub endpoint: Uri,
    /// Headers that it is sent, sensitive ones all of them.
    pub headers: HeaderMap,
    /// Where those come from: `env:NAME` or `file:PATH`; empty for none.
    headers_from: String,
    /// `service.name`.
    pub service_name: String,
    /// What else is said of this process: names and values.
    pub resource: Vec<(String, String)>,
    /// `gen_ai.provider.name`; empty for the upstream's host.
    pub provider: String,
    /// Whose traces are sent.
    pub sampler: Sampler,
    /// The share of traces that is sent where `sampler` goes by one, in millionths.
    pub sample_ratio: u32,
    /// The longest that one call may take.
    pub timeout: Duration,
    /// Requests whose spans may wait to be sent.
    pub max_queued: NonZeroU32,
}

/// Whose traces are sent, by the names of the standard.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sampler {
    /// Whether a caller that has decided decides for the gateway as well.
    pub parent_based: bool,
    /// What is done with the others.
    pub root: Root,
}

/// What is done with a request whose caller has not decided.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Root {
    /// It is traced.
    On,
    /// It is not.
    Off,
    /// A share of them is.
    Ratio,
}

impl Sampler {
    const ALL: [(&'static str, Self); 6] = [
        ("always_on", Self { parent_based: false, root: Root::On }),
        ("always_off", Self { parent_based: false, root: Root::Off }),
        ("traceidratio", Self { parent_based: false, root: Root::Ratio }),
        ("parentbased_always_on", Self { parent_based: true, root: Root::On }),
        ("parentbased_always_off", Self { parent_based: true, root: Root::Off }),
        ("parentbased_traceidratio", Self { parent_based: true, root: Root::Ratio }),
    ];
    const DEFAULT: Self = Self { parent_based: true, root: Root::Ratio };

    /// Its name in the configuration.
    pub fn as_str(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, it)| *it == self).map_or("", |(name, _)| name)
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(it, _)| *it == name).map(|(_, sampler)| sampler)
    }
}

/// A share of the whole, from 0 to 1, in millionths: of ten thousand requests a second one is a lot.
struct Millionths(u32);

impl FromNode for Millionths {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bounded to one before the cast"
    )]
    fn from_node(node: Node) -> Result<Self, String> {
        let share = decimal(&node.kind).filter(|value| (0.0..=1.0).contains(value));
        share.map(|value| Self((value * 1_000_000.0).round() as u32)).ok_or_else(|| {
            let expected = "a share between 0 and 1 is expected, such as 0.01";
            format!("{expected}, got {}", shown(&node.kind))
        })
    }
}

impl Traces {
    /// Where the headers come from: `env:NAME` or `file:PATH`; empty for none.
    pub fn headers_from(&self) -> &str {
        &self.headers_from
    }

    /// `resource` as it is written in a file.
    pub(super) fn resource_text(&self) -> String {
        let pairs = self.resource.iter().map(|(name, value)| format!("{name}={}", encoded(value)));
        pairs.collect::<Vec<_>>().join(",")
    }
}

/// Reads the section; `None` without an `endpoint`.
pub(super) fn traces(mut section: Section<'_>, environment: &[(String, String)]) -> Option<Traces> {
    let endpoint = section.get_or("endpoint", String::new());
    let headers_from = section.get_or("headers", String::new());
    let service_name = section.get_or("service_name", String::new());
    let resource = section.get_or("resource", String::new());
    let provider = section.get_or("provider", String::new());
    let sampler = section.get_or("sampler", Sampler::DEFAULT.as_str().to_owned());
    let sample_ratio = section.get_or("sample_ratio", Millionths(1_000_000)).0;
    let timeout = section.get_or("timeout", TIMEOUT);
    let max_queued = section.get_or("max_queued", MAX_QUEUED);
    let sampler = Sampler::named(&sampler).unwrap_or_else(|| {
        let names = Sampler::ALL.map(|(name, _)| name).join(", ");
        section.problem("sampler", format!("one of {names} is expected, got {sampler:?}"));
        Sampler::DEFAULT
    });
    if timeout.is_zero() {
        section.problem("timeout", "must be above zero");
    }
    if max_queued.get() > 1 << 20 {
        section.problem("max_queued", format!("at most 1048576, got {max_queued}"));
    }
    if provider.len() > 64 || !provider.bytes().all(|byte| byte.is_ascii_graphic()) {
        section.problem("provider", "at most 64 of visible ASCII without spaces expected");
    }
    let mut resource = pairs(&resource).unwrap_or_else(|| {
        let expected = "\"NAME=VALUE,NAME=VALUE\" is expected, with % and two digits for ',', '%'";
        section.problem("resource", format!("{expected}, got {resource:?}"));
        Vec::new()
    });
    // The key of its own counts before the attribute, as the standard has it.
    let named = resource.iter().position(|(name, _)| name == "service.name");
    let named = named.map(|index| resource.remove(index).1);
    let named = Some(service_name).filter(|it| !it.is_empty()).or(named);
    let service_name = named.unwrap_or_else(|| SERVICE.to_owned());
    if endpoint.is_empty() {
        section.finish();
        return None;
    }
    let endpoint = url(&endpoint).map_err(|message| section.problem("endpoint", message)).ok();
    let headers = headers(&headers_from, environment);
    let headers = headers.map_err(|message| section.problem("headers", message)).ok();
    section.finish();
    Some(Traces {
        endpoint: endpoint?,
        headers: headers?,
        headers_from,
        service_name,
        resource,
        provider,
        sampler,
        sample_ratio,
        timeout,
        max_queued,
    })
}

/// The collector's address.
fn url(text: &str) -> Result<Uri, String> {
    let expected = "\"http://HOST[:PORT][/PATH]\" or \"https://…\" is expected";
    let uri: Uri = text.parse().map_err(|_| expected.to_owned())?;
    let mut parts = uri.into_parts();
    let scheme = parts.scheme.as_ref().is_some_and(|it| matches!(it.as_str(), "http" | "https"));
    let host = parts.authority.as_ref().is_some_and(|it| !it.host().is_empty());
    if !scheme || !host {
        // Not quoted: it may hold a password.
        return Err(expected.to_owned());
    }
    if parts.authority.as_ref().is_some_and(|it| it.as_str().contains('@')) {
        return Err("credentials have no place in a URL: use `headers`".to_owned());
    }
    if parts.path_and_query.as_ref().is_none_or(|it| it.as_str() == "/") {
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static(PATH));
    }
    Uri::from_parts(parts).map_err(|_| expected.to_owned())
}

/// The headers that a reference stands for: `NAME=VALUE,NAME=VALUE`.
fn headers(reference: &str, environment: &[(String, String)]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    if reference.is_empty() {
        return Ok(headers);
    }
    let secret = Secret::resolve_text(reference, environment)?;
    // What is wrong is not quoted: it is secret.
    let wrong = || format!("{reference} holds no headers: \"NAME=VALUE,NAME=VALUE\" is expected");
    for (name, value) in pairs(secret.expose()).ok_or_else(wrong)? {
        let name: HeaderName = name.parse().map_err(|_| wrong())?;
        let mut value = HeaderValue::try_from(value).map_err(|_| wrong())?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

/// `NAME=VALUE,NAME=VALUE`, with values in which `%2C` stands for a comma and the like.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let (name, value) = (name.trim(), decoded(value.trim())?);
            let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
            plain.then(|| (name.to_owned(), value))
        })
        .collect()
}

/// The inverse of what [`pairs`] does to a value.
fn encoded(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b',' | b'%') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, DEFAULT_FILE, Overrides, Problems};

    fn read(lines: &str, environment: &[(&str, &str)]) -> Result<Option<Traces>, Problems> {
        let text = format!("{DEFAULT_FILE}\n[traces]\n{lines}\n");
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Config::parse(&text, environment, &Overrides::default()).map(|config| config.traces)
    }

    #[test]
    fn nothing_is_sent_unless_it_is_said_where() {
        assert_eq!(read("", &[]).unwrap(), None);
        assert_eq!(read("service_name = \"x\"", &[("OTEL_SERVICE_NAME", "y")]).unwrap(), None);
        let traces = read("endpoint = \"http://c:4318\"", &[]).unwrap().unwrap();
        assert_eq!(traces.endpoint, "http://c:4318/v1/traces");
        assert_eq!((traces.service_name.as_str(), traces.sample_ratio), ("tidegate", 1_000_000));
        assert_eq!(traces.sampler.as_str(), "parentbased_traceidratio");
        let traces = read("endpoint = \"https://c/own?x=y\"", &[]).unwrap().unwrap();
        assert_eq!(traces.endpoint, "https://c/own?x=y");
    }

    #[test]
    fn the_standard_variables_are_heard() {
        let all = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://base:4318/prefix/"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20planted, x-team = a"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=theirs,deployment.environment.name=a%2Cb"),
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_LOG_LEVEL", "debug"),
            ("OTEL_SERVICE_NAME", ""),
        ];
        let traces = read("", &all).unwrap().unwrap();
        assert_eq!(traces.endpoint, "http://base:4318/prefix/v1/traces");
        assert_eq!(traces.headers["authorization"], "Bearer planted");
        assert_eq!(traces.headers["x-team"], "a");
        assert_eq!(traces.timeout, Duration::from_millis(2_500));
        assert_eq!(traces.service_name, "theirs");
        let said = [("deployment.environment.name".to_owned(), "a,b".to_owned())];
        assert_eq!(traces.resource, said);
        assert_eq!((traces.sampler.as_str(), traces.sample_ratio), ("traceidratio", 250_000));
        assert!(!format!("{traces:?}").contains("planted"), "{traces:?}");

        let own = [
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://own:1/x"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-team=b"),
            ("OTEL_SERVICE_NAME", "mine"),
        ];
        let traces = read("", &[&all[..], &own].concat()).unwrap().unwrap();
        assert_eq!(traces.endpoint, "http://own:1/x", "what is said of traces comes first");
        assert_eq!(traces.headers["x-team"], "b");
        assert_eq!(traces.service_name, "mine");
        let ours = ("TIDEGATE_TRACES_ENDPOINT", "http://ours:1");
        let traces = read("endpoint = \"http://file:1\"", &[own[0], ours]).unwrap().unwrap();
        assert_eq!(traces.endpoint, "http://ours:1/v1/traces");
        for off in [("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_TRACES_EXPORTER", "none")] {
            assert_eq!(read("endpoint = \"http://file:1\"", &[own[0], off]).unwrap(), None);
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_its_secrets() {
        let lines = "endpoint = \"http://me:planted@c\"\nheaders = \"x-key=planted\"\n\
                     resource = \"a\"\nsampler = \"often\"\nsample_ratio = 2\ntimeout = \"0s\"\n\
                     max_queued = 0\nprovider = \"a b\"\nsamplr = 1";
        let shown = read(lines, &[]).unwrap_err().to_string();
        for expected in [
            "traces.endpoint (line ",
            "credentials have no place in a URL",
            "traces.headers (line ",
            "a reference is expected",
            "traces.resource (line ",
            "traces.sampler (line ",
            "one of always_on, always_off, traceidratio, parentbased_always_on",
            "traces.sample_ratio (line ",
            "traces.timeout (line ",
            "traces.max_queued (line ",
            "traces.provider (line ",
            "traces.samplr (line ",
        ] {
            assert!(shown.contains(expected), "no {expected:?} in\n{shown}");
        }
        assert!(!shown.contains("planted"), "{shown}");
        let on = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317");
        for (name, value, expected) in [
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "planted",
                "OTEL_EXPORTER_OTLP_HEADERS (traces.headers)",
            ),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "milliseconds are expected"),
            ("OTEL_TRACES_SAMPLER", "xray", "OTEL_TRACES_SAMPLER (traces.sampler): one of"),
            ("OTEL_TRACES_SAMPLER_ARG", "half", "OTEL_TRACES_SAMPLER_ARG (traces.sample_ratio)"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "only http/protobuf is spoken"),
            ("OTEL_TRACES_EXPORTER", "zipkin", "\"otlp\" or \"none\" is expected"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "c:4318", "traces.endpoint"),
        ] {
            let shown = read("", &[on, (name, value)]).unwrap_err().to_string();
            assert!(shown.contains(expected), "no {expected:?} in\n{shown}");
            assert!(!shown.contains("planted"), "{shown}");
        }
    }

    #[test]
    fn the_full_file_shows_the_defaults() {
        let on = [("TIDEGATE_TRACES_ENDPOINT", "http://c:1")];
        let environment = on.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let full = include_str!("../../config/full.toml");
        let full = Config::parse(full, environment, &Overrides::default()).unwrap();
        assert_eq!(full.traces, read("", &on).unwrap());
    }

    #[test]
    fn a_section_reads_back_as_itself_without_its_secrets() {
        let environment = [("HEADERS", "x-key=planted")];
        let lines = "endpoint = \"http://c:1\"\nheaders = \"env:HEADERS\"\nprovider = \"x\"\n\
                     resource = \"a=b%2Cc,d=%C3%A9\"\nsampler = \"always_off\"\nsample_ratio = 0.5\n\
                     service_name = \"s\"\ntimeout = \"3s\"\nmax_queued = 5";
        let text = format!("{DEFAULT_FILE}\n[traces]\n{lines}\n");
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let parse = |text: &str| {
            Config::parse(text, environment.clone(), &Overrides::default()).expect(text)
        };
        let config = parse(&text);
        let shown = config.to_toml();
        assert!(!shown.contains("planted"), "{shown}");
        assert_eq!(parse(&shown), config, "{shown}");
    }
}
