//! Under which name, and from whose page, a request was sent.

use std::net::{IpAddr, Ipv6Addr};

use http::uri::Authority;
use http::{HeaderMap, HeaderName, Uri, header};

/// What a browser says of where a request comes from.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether a request asks for this port by an address, as `localhost`, or by one of `names`.
///
/// A page can point a name of its own to any address, loopback too, and then counts as from there; an
/// address it cannot. Whoever sends no name at all is no browser.
pub(super) fn is_own(uri: &Uri, headers: &HeaderMap, names: &[String]) -> bool {
    let known = |authority: Option<Authority>| authority.is_some_and(|it| is_known(&it, names));
    let hosts = headers.get_all(header::HOST);
    let one = hosts.iter().count() <= 1;
    let fine = hosts.iter().all(|it| known(Authority::try_from(it.as_bytes()).ok()));
    one && fine && uri.authority().is_none_or(|it| known(Some(it.clone())))
}

/// Whether a request that changes something comes from a page of this port, or from no page.
pub(super) fn is_from_own_page(uri: &Uri, headers: &HeaderMap, names: &[String]) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else {
        // Without it, browsers that are not old say so in other words.
        return headers.get(FETCH_SITE).is_none_or(|it| it == "same-origin" || it == "none");
    };
    let origin = origin.to_str().unwrap_or_default();
    let page = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    let Some(page) = page.and_then(|it| it.parse::<Authority>().ok()) else { return false };
    let named = headers.get(header::HOST).and_then(|it| it.to_str().ok());
    let asked = uri.authority().map(Authority::as_str).or(named);
    let same = asked.is_some_and(|it| it.eq_ignore_ascii_case(page.as_str()));
    // A proxy in front may ask by another name than the page did.
    same || names.iter().any(|name| name.eq_ignore_ascii_case(page.host()))
}

fn is_known(authority: &Authority, names: &[String]) -> bool {
    let host = authority.host();
    // Nothing but a port may come after the host, and nothing before it: `[::1].example` is no address.
    let port = authority.as_str().strip_prefix(host);
    let port = port.is_some_and(|it| it.is_empty() || it.starts_with(':'));
    if !port {
        return false;
    }
    let inner = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    if inner.is_some_and(|it| it.parse::<Ipv6Addr>().is_ok()) || host.parse::<IpAddr>().is_ok() {
        return true;
    }
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    // Browsers and resolvers keep everything below `localhost` on the machine.
    host == "localhost" || host.ends_with(".localhost") || names.contains(&host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            (name.parse::<HeaderName>().expect("a name"), value.parse().expect("a value"))
        });
        pairs.collect()
    }

    fn names() -> Vec<String> {
        vec!["gateway".to_owned(), "status.example".to_owned()]
    }

    #[test]
    fn a_port_goes_by_addresses_localhost_and_the_names_that_it_was_given() {
        let own =
            |host: &str| is_own(&Uri::from_static("/"), &headers(&[("host", host)]), &names());
        for host in [
            "127.0.0.1:9464",
            "127.0.0.1",
            "10.1.2.3:9464",
            "[::1]:9464",
            "[::1]",
            "localhost:9464",
            "LocalHost",
            "localhost.",
            "tidegate.localhost:80",
            "gateway:9464",
            "STATUS.example",
        ] {
            assert!(own(host), "{host}");
        }
        for host in [
            "rebound.example",
            "rebound.example:9464",
            "localhost.rebound.example",
            "notlocalhost",
            "127.0.0.1.rebound.example",
            "gateway.rebound.example",
            "me@127.0.0.1",
            "127.0.0.1@rebound.example",
            "[::1].rebound.example",
            "2130706433.rebound.example",
            "",
            ":9464",
        ] {
            assert!(!own(host), "{host}");
        }
    }

    #[test]
    fn every_name_of_a_request_counts_and_none_is_none() {
        let (path, none) = (Uri::from_static("/"), HeaderMap::new());
        assert!(is_own(&path, &none, &[]), "HTTP/1.0, or a test");
        let absolute = Uri::from_static("http://rebound.example/");
        assert!(!is_own(&absolute, &none, &[]));
        assert!(!is_own(&absolute, &headers(&[("host", "localhost")]), &[]));
        let mut two = headers(&[("host", "localhost")]);
        two.append(header::HOST, "127.0.0.1".parse().expect("a value"));
        assert!(!is_own(&path, &two, &[]), "two of them are one too many");
    }

    #[test]
    fn only_a_page_of_this_port_changes_anything() {
        let path = Uri::from_static("/login");
        let own = |pairs: &[(&str, &str)]| is_from_own_page(&path, &headers(pairs), &names());
        for pairs in [
            &[][..],
            &[("host", "localhost:9464")],
            &[("host", "localhost:9464"), ("origin", "http://localhost:9464")],
            &[("host", "127.0.0.1"), ("origin", "http://127.0.0.1")],
            &[("host", "127.0.0.1:9464"), ("origin", "https://status.example")],
            &[("host", "localhost"), ("sec-fetch-site", "same-origin")],
            &[("host", "localhost"), ("sec-fetch-site", "none")],
        ] {
            assert!(own(pairs), "{pairs:?}");
        }
        for pairs in [
            &[("host", "localhost:9464"), ("origin", "null")][..],
            &[("host", "null"), ("origin", "null")],
            &[("host", "localhost:9464"), ("origin", "http://localhost:3000")],
            &[("host", "localhost:9464"), ("origin", "http://other.example")],
            &[("host", "localhost:9464"), ("origin", "file://localhost:9464")],
            &[("host", "localhost"), ("sec-fetch-site", "cross-site")],
            &[("host", "localhost"), ("sec-fetch-site", "same-site")],
        ] {
            assert!(!own(pairs), "{pairs:?}");
        }
    }
}
