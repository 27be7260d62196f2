//! Who may use the admin port.

mod reload;

use http::header::AUTHORIZATION;
use reqwest::{Client, RequestBuilder, Response};
use rustix::process::Signal;

use crate::support::process::{self, Process, file, path, tidegate};
use crate::support::upstream::{Upstream, completion};
use crate::support::wire::Wire;
use crate::support::{Gateway, PATIENCE, config_text, header, send};

const TOKEN: &str = "planted-admin-token";
const LOCKED: &str = "server.admin_token = \"env:ADMIN_TOKEN\"";
const PATHS: [&str; 9] = [
    "/",
    "/metrics",
    "/status",
    "/events",
    "/history",
    "/config",
    "/usage",
    "/page/main.js",
    "/nowhere",
];

/// A gateway that asks for the token; its own client has it.
fn locked(upstream: &str, changes: &str) -> Gateway {
    let text = config_text(upstream, &format!("{LOCKED}\n{changes}"));
    let mut gateway = Gateway::start_in(&text, [("ADMIN_TOKEN".to_owned(), TOKEN.to_owned())]);
    let bearer = format!("Bearer {TOKEN}").parse().expect("a value");
    let headers = [(AUTHORIZATION, bearer)].into_iter().collect();
    let client = Client::builder().no_proxy().timeout(PATIENCE).default_headers(headers);
    gateway.client = client.build().expect("a client");
    gateway
}

/// A browser's client: it has no token, and goes nowhere by itself.
fn browser() -> Client {
    let none = reqwest::redirect::Policy::none();
    let client = Client::builder().no_proxy().timeout(PATIENCE).redirect(none);
    client.build().expect("a client")
}

fn login(gateway: &Gateway, form: &'static str) -> RequestBuilder {
    let request = browser().post(format!("http://{}/login", gateway.admin));
    request.header("content-type", "application/x-www-form-urlencoded").body(form)
}

/// What a browser keeps of an answer, to send it again.
fn cookie(answer: &Response) -> String {
    let set = header(answer, "set-cookie").expect("a cookie");
    set.split(';').next().expect("a pair").to_owned()
}

#[tokio::test]
async fn everything_but_the_probes_needs_the_token() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = locked(&upstream.url(), "");
    let stranger = browser();
    let url = |path: &str| format!("http://{}{path}", gateway.admin);
    for path in ["/livez", "/readyz"] {
        assert_eq!(send(stranger.get(url(path))).await.status(), 200, "{path}");
    }
    for path in PATHS {
        let nearly = &TOKEN[..TOKEN.len() - 1];
        let longer = format!("{TOKEN}x");
        for wrong in [None, Some(nearly), Some(&longer), Some("")] {
            let request = stranger.get(url(path));
            let answer = match wrong {
                None => send(request).await,
                Some(token) => send(request.bearer_auth(token)).await,
            };
            assert_eq!(answer.status(), 401, "{path} {wrong:?}");
            assert_eq!(header(&answer, "www-authenticate").as_deref(), Some("Bearer"));
            assert_eq!(header(&answer, "x-content-type-options").as_deref(), Some("nosniff"));
            assert!(!answer.text().await.expect("text").contains("planted"), "{path}");
        }
        let basic = send(stranger.get(url(path)).basic_auth("x", Some(TOKEN))).await;
        assert_eq!(basic.status(), 401, "{path}: it is no password");
        let answer = send(gateway.client.get(url(path))).await;
        let expected = if path == "/nowhere" { 404 } else { 200 };
        assert_eq!(answer.status(), expected, "{path}");
    }
    let lower = stranger.get(url("/status")).header("authorization", format!("bearer {TOKEN}"));
    assert_eq!(send(lower).await.status(), 200, "the scheme's case says nothing");
    let refused = gateway.metric("tidegate_admin_refused_total{reason=\"token\"}").await;
    assert!((refused - 45.0).abs() < 0.1, "{refused}");
    let config = gateway.page("/config").await.1;
    assert!(config.contains("env:ADMIN_TOKEN") && !config.contains(TOKEN));
    gateway.close().await;
}

#[tokio::test]
async fn a_person_signs_in_once_and_the_page_works() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = locked(&upstream.url(), "");
    let person = browser();
    let get = |path: &str| {
        let accepted = "text/html,application/xhtml+xml,*/*;q=0.8";
        person.get(format!("http://{}{path}", gateway.admin)).header("accept", accepted)
    };
    let asked = send(get("/")).await;
    assert_eq!(asked.status(), 401);
    let policy = header(&asked, "content-security-policy").expect("a policy");
    assert!(policy.contains("default-src 'none'") && policy.contains("form-action 'self'"));
    assert!(!policy.contains("script-src") && !policy.contains("unsafe"), "{policy}");
    // Else a browser would send `Origin: null` with the form.
    assert_eq!(header(&asked, "referrer-policy").as_deref(), Some("same-origin"));
    let text = asked.text().await.expect("text");
    assert!(text.contains("action=\"/login\"") && text.contains("type=\"password\""), "{text}");
    for part in ["/page/style.css", "/page/icon.svg"] {
        assert!(text.contains(part), "{text}");
        assert_eq!(send(get(part)).await.status(), 200, "the form's own {part}");
    }
    for form in ["token=wrong-token-of-some-length", "token="] {
        let wrong = send(login(&gateway, form)).await;
        assert_eq!((wrong.status().as_u16(), header(&wrong, "set-cookie")), (401, None), "{form}");
        assert!(wrong.text().await.expect("text").contains("That is not the token"));
    }
    for (form, status) in [("", 422), ("password=planted-admin-token", 422)] {
        assert_eq!(send(login(&gateway, form)).await.status(), status, "{form:?}");
    }
    let welcome = send(login(&gateway, "token=planted-admin-token%0D%0A")).await;
    assert_eq!(welcome.status(), 303);
    assert_eq!(header(&welcome, "location").as_deref(), Some("/"));
    let set = header(&welcome, "set-cookie").expect("a cookie");
    assert!(set.contains("HttpOnly") && set.contains("SameSite=Strict"), "{set}");
    assert!(!set.contains(TOKEN), "{set}");
    let session = cookie(&welcome);
    for path in ["/", "/page/main.js", "/status", "/history", "/events", "/metrics"] {
        let answer = send(get(path).header("cookie", &session)).await;
        assert_eq!(answer.status(), 200, "{path}");
    }
    let mut events = send(get("/events").header("cookie", &session)).await;
    let event = events.chunk().await.expect("open").expect("an event");
    assert!(event.starts_with(b"event: status\n"), "{event:?}");
    let signed_in = send(get("/login").header("cookie", &session)).await.text().await;
    assert!(signed_in.expect("text").contains("action=\"/logout\""));
    let out = person.post(format!("http://{}/logout", gateway.admin)).header("cookie", &session);
    let bye = send(out).await;
    assert_eq!((bye.status().as_u16(), cookie(&bye)), (303, "tidegate_session=".to_owned()));
    assert_eq!(send(get("/").header("cookie", cookie(&bye))).await.status(), 401);
    assert_eq!(send(get("/").header("cookie", format!("{session}0"))).await.status(), 401);
    gateway.close().await;
}

#[tokio::test]
async fn a_form_that_is_too_large_is_not_taken_in() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = locked(&upstream.url(), "");
    let large = Box::leak(format!("token={}", "x".repeat(16 << 10)).into_boxed_str());
    assert_eq!(send(login(&gateway, large)).await.status(), 413);
    gateway.close().await;
}

/// The status of a request for `path` with these header lines.
async fn asked(gateway: &Gateway, line: &str, headers: &str) -> u16 {
    let request = format!("{line} HTTP/1.1\r\n{headers}content-length: 0\r\n\r\n");
    Wire::open(gateway.admin, request).await.answer().await.status
}

#[tokio::test]
async fn a_name_that_somebody_points_here_is_not_answered_to() {
    let upstream = Upstream::answering(completion()).await;
    let open = Gateway::start(&upstream.url(), "server.admin_hosts = [\"status.example\"]");
    let token = format!("authorization: Bearer {TOKEN}\r\n");
    let locked = locked(&upstream.url(), "");
    for path in ["/", "/status", "/metrics", "/usage", "/nowhere"] {
        let line = format!("GET {path}");
        for host in ["rebound.example", "rebound.example:9464", "localhost.rebound.example"] {
            let host = format!("host: {host}\r\n");
            assert_eq!(asked(&open, &line, &host).await, 421, "{path} {host}");
            let with_token = format!("{host}{token}");
            assert_eq!(asked(&locked, &line, &with_token).await, 421, "{path}: nor on loopback");
        }
    }
    for host in ["127.0.0.1:9464", "localhost", "[::1]:9464", "status.example", "10.0.0.7"] {
        let host = format!("host: {host}\r\n");
        assert_eq!(asked(&open, "GET /status", &host).await, 200, "{host}");
    }
    let absolute = "GET http://rebound.example/status";
    assert_eq!(asked(&open, absolute, "host: localhost\r\n").await, 421);
    let twice = "host: localhost\r\nhost: localhost\r\n";
    assert!([400, 421].contains(&asked(&open, "GET /status", twice).await));
    for probe in ["GET /livez", "GET /readyz"] {
        assert_eq!(asked(&open, probe, "host: any.example\r\n").await, 200, "{probe}");
    }
    assert!(open.metric("tidegate_admin_refused_total{reason=\"host\"}").await > 15.5);
    open.close().await;
    locked.close().await;
}

#[tokio::test]
async fn no_other_site_has_a_browser_sign_in() {
    let upstream = Upstream::answering(completion()).await;
    let gateway = locked(&upstream.url(), "");
    for (name, value) in [
        ("origin", "http://other.example"),
        ("origin", "null"),
        ("origin", "http://127.0.0.1:1"),
        ("sec-fetch-site", "cross-site"),
    ] {
        for page in ["/login", "/logout"] {
            let request = browser().post(format!("http://{}{page}", gateway.admin));
            let answer = send(request.header(name, value).body("token=planted-admin-token")).await;
            assert_eq!(answer.status(), 403, "{page} {name}: {value}");
            assert_eq!(header(&answer, "set-cookie"), None);
        }
    }
    let own = format!("http://{}", gateway.admin);
    let answer = login(&gateway, "token=planted-admin-token").header("origin", own);
    assert_eq!(send(answer).await.status(), 303);
    assert!(gateway.metric("tidegate_admin_refused_total{reason=\"origin\"}").await > 7.5);
    gateway.close().await;
}

#[tokio::test]
async fn beyond_loopback_it_does_not_start_without_and_its_own_tools_have_the_token() {
    let upstream = Upstream::answering(completion()).await;
    let config = file(&config_text(&upstream.url(), "server.admin = \"0.0.0.0:0\""));
    let serve = ["serve", "--stateless", "--config", path(&config)];
    let (code, out, error) = process::run(&mut tidegate(&serve));
    assert_eq!((code, out.as_str()), (Some(2), ""), "{error}");
    assert!(error.contains("server.admin (line") && error.contains("admin_token"), "{error}");
    let mut open = tidegate(&serve);
    let open = Process::start(open.env("TIDEGATE_SERVER_ADMIN_OPEN", "true"));
    assert!(open.page("/status").await.is_some_and(|it| it.starts_with('{')), "it was said");
    let locked = Process::start(tidegate(&serve).env("TIDEGATE_ADMIN_TOKEN", TOKEN));
    assert!(locked.page("/status").await.is_some_and(|it| it.contains("a token is needed")));
    let url = format!("http://{}", locked.admin);
    let status = format!("{url}/status");
    let secret = file(&format!("{TOKEN}\n"));
    let reference = format!("file:{}", path(&secret));
    for (args, token, code, part) in [
        (vec!["top", "--once", &url], None, 1, "asks for a token"),
        (vec!["top", "--once", &url], Some("wrong-token-of-some-length"), 1, "wrong token"),
        (vec!["top", "--once", &url], Some(TOKEN), 0, "Tidegate"),
        (vec!["top", "--once", &url, "--token", &reference], None, 0, "Tidegate"),
        (vec!["top", "--once", &url, "--token", "planted"], None, 2, "a reference is expected"),
        (vec!["healthcheck", &status], None, 1, "asks for a token"),
        (vec!["healthcheck", &status], Some(TOKEN), 0, "\"version\""),
        (vec!["healthcheck", &format!("{url}/readyz")], None, 0, "ready"),
    ] {
        let mut command = tidegate(&args);
        if let Some(token) = token {
            command.env("TIDEGATE_ADMIN_TOKEN", token);
        }
        let run = tokio::task::spawn_blocking(move || process::run(&mut command));
        let (seen, out, error) = run.await.expect("no panic");
        let text = out + &error;
        assert!(seen == Some(code) && text.contains(part), "{args:?}: {seen:?} {text}");
        assert!(!text.contains("planted"), "{args:?}: {text}");
    }
    locked.signal(Signal::TERM);
    let (code, log) = locked.end().await;
    assert!(code == Some(0) && !log.contains("planted"), "{log}");
}
