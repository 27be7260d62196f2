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
mod tests;
