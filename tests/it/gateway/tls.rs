//! TLS on the API port: real handshakes, by clients that check and by ones that do not play along.

mod certificates;
mod reload;
mod tools;

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Full};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustix::process::Signal;
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use self::certificates::{Authority, Files, client};
use crate::support::process::{Process, file, path, tidegate};
use crate::support::upstream::{STREAM_HEAD, Upstream, chunk, completion};
use crate::support::wire::{Wire, chat};
use crate::support::{Gateway, PATIENCE, config_text, hello, with};

const FAILED: &str = "tidegate_tls_handshakes_total{outcome=\"failed\"}";
const COMPLETED: &str = "tidegate_tls_handshakes_total{outcome=\"completed\"}";
const RELOADED: &str = "tidegate_tls_reloads_total{outcome=\"completed\"}";

/// A connection on which hands were shaken, as far as this side can tell.
async fn shaken(gateway: &Gateway, config: &ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(gateway.api).await.expect("it listens");
    let connector = TlsConnector::from(Arc::new(config.clone()));
    let name = "localhost".try_into().expect("a name");
    timeout(PATIENCE, connector.connect(name, socket)).await.expect("an end")
}

/// Status and text of a chat request over TLS, or why there is none.
async fn ask(gateway: &Gateway, config: &ClientConfig) -> Result<(u16, Version), String> {
    let https = HttpsConnectorBuilder::new().with_tls_config(config.clone()).https_only();
    let client: Client<_, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).build(https.enable_all_versions().build());
    let url = format!("https://localhost:{}/v1/chat/completions", gateway.api.port());
    let request = Request::post(url).header("content-type", "application/json");
    let request = request.body(hello().to_string().into()).expect("a request");
    let answer = timeout(PATIENCE, client.request(request)).await.expect("an end");
    let answer = answer.map_err(|error| format!("{error:?}"))?;
    let (status, version) = (answer.status().as_u16(), answer.version());
    answer.into_body().collect().await.map_err(|error| error.to_string())?;
    Ok((status, version))
}

/// Reads until the peer ends the connection, however it does.
async fn rest(mut socket: TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    let end = timeout(PATIENCE, socket.read_to_end(&mut read)).await.expect("it is closed");
    // Cut or ended: both are an end.
    drop(end);
    read
}

#[tokio::test]
async fn calls_are_answered_in_the_protocol_that_both_sides_prefer() {
    let upstream = Upstream::answering(completion()).await;
    let (authority, files) = Files::fresh("localhost");
    let gateway = Gateway::start(&upstream.url(), &files.config(""));
    let trusting = client(&[&authority], None);
    assert_eq!(ask(&gateway, &trusting).await, Ok((200, Version::HTTP_2)));
    for (version, shown) in [(&rustls::version::TLS12, 2), (&rustls::version::TLS13, 3)] {
        let mut old = certificates::client_of(&[version], &[&authority], None);
        old.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut stream = shaken(&gateway, &old).await.expect("TLS");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]), "1.{shown}");
        stream.write_all(&chat("", hello().to_string())).await.expect("open");
        let mut head = [0; 15];
        stream.read_exact(&mut head).await.expect("an answer");
        assert_eq!(&head, b"HTTP/1.1 200 OK", "1.{shown}");
    }
    // No protocol in common, no connection.
    let mut strange = trusting.clone();
    strange.alpn_protocols = vec![b"smtp".to_vec()];
    assert!(shaken(&gateway, &strange).await.is_err());
    gateway.wait_metric(FAILED, 1.0).await;
    gateway.wait_metric(COMPLETED, 3.0).await;
    assert!(gateway.metric("tidegate_tls_certificate_expiry_timestamp_seconds").await > 1.8e9);
    assert_eq!(gateway.page("/livez").await.0, 200, "the admin port is as it was");
    gateway.close().await;
}

#[tokio::test]
async fn a_caller_that_checks_is_not_fooled() {
    let upstream = Upstream::answering(completion()).await;
    let (authority, files) = Files::fresh("localhost");
    for (name, ends, trusted, why) in [
        ("elsewhere.example", 2099, &authority, "NotValidForName"),
        ("localhost", 2020, &authority, "Expired"),
        ("localhost", 2099, &Authority::new(), "UnknownIssuer"),
    ] {
        files.write(&authority.issue(name, ends));
        let gateway = Gateway::start(&upstream.url(), &files.config(""));
        let error = ask(&gateway, &client(&[trusted], None)).await.expect_err(why);
        assert!(error.contains(why), "{error}");
        gateway.wait_metric(FAILED, 1.0).await;
        gateway.close().await;
    }
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn with_an_authority_for_clients_only_their_holders_are_let_in() {
    let upstream = Upstream::answering(completion()).await;
    let (authority, files) = Files::fresh("localhost");
    let (staff, strangers) = (Authority::new(), Authority::new());
    let gateway = Gateway::start(&upstream.url(), &files.config(&files.client_ca(&staff)));
    let (mine, theirs) = (staff.issue("me", 2099), strangers.issue("them", 2099));
    let old = staff.issue("me", 2020);
    for refused in [None, Some(&theirs), Some(&old)] {
        assert!(ask(&gateway, &client(&[&authority], refused)).await.is_err());
    }
    gateway.wait_metric(FAILED, 3.0).await;
    assert!(upstream.seen().is_empty());
    let answer = ask(&gateway, &client(&[&authority], Some(&mine))).await;
    assert_eq!(answer, Ok((200, Version::HTTP_2)));
    gateway.close().await;
}

#[tokio::test]
async fn what_is_not_tls_is_told_so_and_tls_where_there_is_none_fails() {
    let upstream = Upstream::answering(completion()).await;
    let (authority, files) = Files::fresh("localhost");
    let gateway = Gateway::start(&upstream.url(), &files.config(""));
    let answer = Wire::open(gateway.api, chat("", hello().to_string())).await.answer().await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("this port speaks TLS"), "{}", answer.text());
    let mut wire = Wire::open(gateway.api, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    wire.socket.shutdown().await.expect("open");
    assert!(wire.end().await.starts_with(b"HTTP/1.1 400 "));
    assert!(Wire::open(gateway.api, [0_u8; 64]).await.end().await.is_empty());
    gateway.wait_metric("tidegate_tls_handshakes_total{outcome=\"plain\"}", 3.0).await;
    // Version 1.1, as the last clients spoke it that knew no better.
    let hello = b"\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x02";
    let hello = [&hello[..], &[7; 32], b"\x00\x00\x02\x00\x2f\x01\x00"].concat();
    let mut socket = TcpStream::connect(gateway.api).await.expect("it listens");
    socket.write_all(&hello).await.expect("open");
    let alert = rest(socket).await;
    assert_eq!(alert.first(), Some(&0x15), "an alert: {alert:?}");
    gateway.wait_metric(FAILED, 1.0).await;
    assert_eq!(ask(&gateway, &client(&[&authority], None)).await, Ok((200, Version::HTTP_2)));
    gateway.close().await;
    let plain = Gateway::start(&upstream.url(), "");
    assert!(shaken(&plain, &client(&[&authority], None)).await.is_err());
    plain.wait_metric("tidegate_connections ", 0.0).await;
    plain.close().await;
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_or_fails_takes_nothing_from_others() {
    const FLOOD: usize = 200;
    let upstream = Upstream::answering(completion()).await;
    let (authority, files) = Files::fresh("localhost");
    let changes = files.config("server.header_timeout = \"400ms\"");
    let gateway = Gateway::start(&upstream.url(), &changes);
    // A record of 512 bytes is announced, and a few of them come.
    for begun in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let mut socket = TcpStream::connect(gateway.api).await.expect("it listens");
        socket.write_all(begun).await.expect("open");
        rest(socket).await;
    }
    gateway.wait_metric("tidegate_tls_handshakes_total{outcome=\"timed_out\"}", 3.0).await;
    let flood = (0..FLOOD).map(|_| async {
        let mut socket = TcpStream::connect(gateway.api).await.expect("it listens");
        socket.write_all(b"\x16\x03\x01\x00\x05\xff\xff\xff\xff\xff").await.expect("open");
        rest(socket).await
    });
    let trusting = client(&[&authority], None);
    let calls = async {
        for _ in 0..5 {
            assert_eq!(ask(&gateway, &trusting).await, Ok((200, Version::HTTP_2)));
        }
    };
    tokio::join!(futures_util::future::join_all(flood), calls);
    gateway.wait_metric(FAILED, 200.0).await;
    gateway.wait_metric("tidegate_connections ", 0.0).await;
    gateway.close().await;
}

/// Whether a new connection is served with a certificate of this authority.
async fn serves(gateway: &Gateway, authority: &Authority) -> bool {
    shaken(gateway, &client(&[authority], None)).await.is_ok()
}

#[tokio::test]
async fn certificates_are_replaced_under_running_streams_whole_or_not_at_all() {
    let (go, going) = tokio::sync::watch::channel(false);
    let upstream = Upstream::start(move |_, mut socket| {
        let mut going = going.clone();
        async move {
            socket.write_all(STREAM_HEAD.as_bytes()).await.ok()?;
            socket.write_all(&chunk("data: {\"first\":1}\n\n")).await.ok()?;
            going.wait_for(|it| *it).await.ok()?;
            socket.write_all(&chunk("data: [DONE]\n\n")).await.ok()?;
            socket.write_all(b"0\r\n\r\n").await.ok().map(|()| socket)
        }
    })
    .await;
    let (before, files) = Files::fresh("localhost");
    let gateway = Gateway::start(&upstream.url(), &files.config(""));
    let mut config = client(&[&before], None);
    config.alpn_protocols.clear();
    let mut stream = shaken(&gateway, &config).await.expect("TLS");
    let body = with(hello(), "stream", true).to_string();
    stream.write_all(&chat("connection: close\r\n", body)).await.expect("open");
    let mut text = Vec::new();
    while !text.windows(5).any(|it| it == b"first") {
        assert!(stream.read_buf(&mut text).await.expect("open") > 0);
    }
    let after = Authority::new();
    let next = after.issue("localhost", 2098);
    std::fs::write(files.cert(), &next.cert).expect("room");
    let failed = "tidegate_tls_reloads_total{outcome=\"failed\"}";
    gateway.wait_metric(failed, 1.0).await;
    assert!(serves(&gateway, &before).await, "half of a change is none");
    std::fs::write(files.key(), &next.key).expect("room");
    gateway.wait_metric(RELOADED, 1.0).await;
    assert!(serves(&gateway, &after).await && !serves(&gateway, &before).await);
    let expiry = gateway.metric("tidegate_tls_certificate_expiry_timestamp_seconds").await;
    assert!((expiry - 4_039_372_800.0).abs() < 1.0, "{expiry}");
    go.send_replace(true);
    // The end of the connection need not be said in order by HTTP/1.1 with chunks.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut text)).await.expect("an end");
    assert!(text.ends_with(b"data: [DONE]\n\n\r\n0\r\n\r\n"), "{}", String::from_utf8_lossy(&text));
    gateway.close().await;
}

#[tokio::test]
async fn the_signal_has_certificates_read_again_and_the_line_says_https() {
    let upstream = Upstream::answering(completion()).await;
    let (authority, files) = Files::fresh("localhost");
    let config = file(&config_text(&upstream.url(), &files.config("")));
    let process =
        Process::start(&mut tidegate(&["serve", "--stateless", "--config", path(&config)]));
    assert!(process.ready.starts_with("tidegate ready: https://127.0.0.1:"), "{}", process.ready);
    assert!(process.ready.contains("status: http://"), "{}", process.ready);
    process.wait_page("/metrics", &format!("{RELOADED} 0\n")).await;
    process.signal(Signal::HUP);
    process.wait_page("/metrics", &format!("{RELOADED} 1\n")).await;
    let socket = TcpStream::connect(process.api).await.expect("it listens");
    let connector = TlsConnector::from(Arc::new(client(&[&authority], None)));
    connector.connect("localhost".try_into().expect("a name"), socket).await.expect("TLS");
    process.signal(Signal::TERM);
    let (code, log) = process.end().await;
    assert!(code == Some(0) && !log.contains("PRIVATE"), "{log}");
}

#[tokio::test]
async fn a_handshake_under_way_does_not_hold_up_the_end() {
    let upstream = Upstream::answering(completion()).await;
    let (_, files) = Files::fresh("localhost");
    let gateway = Gateway::start(&upstream.url(), &files.config("server.header_timeout = \"1h\""));
    let mut socket = TcpStream::connect(gateway.api).await.expect("it listens");
    socket.write_all(b"\x16\x03\x01").await.expect("open");
    gateway.wait_metric("tidegate_connections ", 1.0).await;
    gateway.close().await;
    rest(socket).await;
}

#[tokio::test]
async fn the_admin_port_is_encrypted_if_that_is_asked_for() {
    let upstream = Upstream::answering(completion()).await;
    let (authority, files) = Files::fresh("localhost");
    let changes = format!("{}\n{}", files.client_ca(&Authority::new()), "server.tls.admin = true");
    let changes = format!("{}\nserver.admin_token = \"env:ADMIN_TOKEN\"", files.config(&changes));
    let token = "planted-admin-token";
    let text = config_text(&upstream.url(), &changes);
    let gateway = Gateway::start_in(&text, [("ADMIN_TOKEN".to_owned(), token.to_owned())]);
    let socket = TcpStream::connect(gateway.admin).await.expect("it listens");
    let mut config = client(&[&authority], None);
    config.alpn_protocols.clear();
    let connector = TlsConnector::from(Arc::new(config));
    let name = "localhost".try_into().expect("a name");
    let mut stream = connector.connect(name, socket).await.expect("TLS, and no certificate");
    let form = format!("token={token}");
    let request = format!(
        "POST /login HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{form}",
        form.len()
    );
    stream.write_all(request.as_bytes()).await.expect("open");
    let mut text = String::new();
    let _ = timeout(PATIENCE, stream.read_to_string(&mut text)).await.expect("an end");
    assert!(text.starts_with("HTTP/1.1 303 ") && text.contains("; Secure"), "{text}");
    let plain = Wire::open(gateway.admin, "GET /readyz HTTP/1.1\r\nhost: g\r\n\r\n").await;
    assert_eq!({ plain }.answer().await.status, 400);
    gateway.stop.cancel();
    gateway.ended().await;
}

#[test]
fn a_server_with_bad_files_does_not_start() {
    let (_, files) = Files::fresh("localhost");
    std::fs::write(files.key(), Authority::new().issue("localhost", 2099).key).expect("room");
    let text = config_text("http://127.0.0.1:9", &files.config(""));
    let config =
        tidegate::config::Config::parse(&text, [], &tidegate::config::Overrides::default());
    let problems = config.expect_err("the key is another's").to_string();
    assert!(problems.contains("server.tls.key") && problems.contains("is not the key of"));
}
