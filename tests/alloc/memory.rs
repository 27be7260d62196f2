//! How much memory what callers can have many of takes: connections, waiting requests, pools, tenants.
//!
//! The numbers stand in docs/OPERATIONS.md, where a formula adds them up to the most that a gateway can
//! take. They are those of the heap in a build without optimisation, where futures are larger: an upper bound
//! of any other's.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tidegate::config::{Config, Overrides};
use tidegate::server::{Ended, Server};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{CONFIG, ONE_AT_A_TIME, read_message, upstream};

/// Of each kind: enough for what a table takes when it grows to show in the mean.
const MANY: usize = 256;
/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a waiting request's body beside its text.
const BODY: usize = 1_024;

/// A gateway and connections to it.
struct World {
    runtime: Runtime,
    stop: CancellationToken,
    server: JoinHandle<Ended>,
    api: SocketAddr,
    admin: SocketAddr,
    open: Vec<TcpStream>,
    _profiler: dhat::Profiler,
}

impl World {
    fn start(changes: &str) -> Self {
        let profiler = dhat::Profiler::builder().testing().build();
        let text = format!("{CONFIG}\n{changes}");
        let environment = [("ACCOUNT_KEY".to_owned(), "csk-planted".to_owned())];
        let config = Config::parse(&text, environment, &Overrides::default()).expect("valid");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let stop = CancellationToken::new();
        let inside = runtime.enter();
        let server = Server::bind(Arc::new(config)).expect("free ports");
        let (api, admin) = (server.api_addr().expect("bound"), server.admin_addr().expect("bound"));
        let server = runtime.spawn(server.run(stop.clone(), stop.clone()));
        drop(inside);
        Self { runtime, stop, server, api, admin, open: Vec::new(), _profiler: profiler }
    }

    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.api).expect("it listens");
        socket.set_nodelay(true).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
        socket
    }

    /// The value of a metric.
    fn metric(&self, name: &str) -> usize {
        let mut socket = TcpStream::connect(self.admin).expect("it listens");
        let ask = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        socket.write_all(ask.as_bytes()).expect("writable");
        let mut text = String::new();
        socket.read_to_string(&mut text).expect("text");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.expect("the metric").parse().expect("a number")
    }

    fn wait(&self, name: &str, value: usize) {
        let began = tokio::time::Instant::now();
        while self.metric(name) != value {
            assert!(began.elapsed() < PATIENCE, "{name} is {}, not {value}", self.metric(name));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Bytes for each of [`MANY`] of what `make` makes, above what is there before; `name` is the metric
    /// that counts them.
    fn each(&mut self, name: &str, mut make: impl FnMut(&mut Self, usize)) -> usize {
        let (before, bytes) = (self.metric(name), dhat::HeapStats::get().curr_bytes);
        for number in 0..MANY {
            make(self, number);
        }
        self.wait(name, before + MANY);
        dhat::HeapStats::get().curr_bytes.saturating_sub(bytes) / MANY
    }

    fn end(self) {
        drop(self.open);
        self.stop.cancel();
        self.runtime.block_on(self.server).expect("it ends");
    }
}

/// A chat request of a model, as HTTP/1.1.
fn request(model: &str, headers: &str) -> Vec<u8> {
    let body = body(model);
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         {headers}content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

fn body(model: &str) -> String {
    let text = "x".repeat(BODY);
    format!(
        r#"{{"model":"{model}","max_tokens":50,"messages":[{{"role":"user","content":"{text}"}}]}}"#
    )
}

fn answered(socket: &mut TcpStream, request: &[u8]) {
    socket.write_all(request).expect("writable");
    let mut buffer = [0; 8_192];
    assert!(read_message(socket, &mut buffer));
    assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer));
}

const WARMING: &[u8] = b"GET /v1/tcp_warming HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A chat request on a stream of HTTP/2, its fields in full.
fn stream(number: u32, model: &str) -> Vec<u8> {
    let mut fields = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/v1/chat/completions"),
        (":authority", "localhost"),
        ("content-type", "application/json"),
    ] {
        fields.push(0);
        for text in [name, value] {
            fields.push(u8::try_from(text.len()).expect("short"));
            fields.extend(text.as_bytes());
        }
    }
    [frame(1, 4, number, &fields), frame(0, 1, number, body(model).as_bytes())].concat()
}

fn connections(upstream: &str) -> [(&'static str, usize, usize); 3] {
    let mut world = World::start(upstream);
    world.each("tidegate_connections", |world, _| world.open.push(world.connect()));
    let silent = world.each("tidegate_connections", |world, _| world.open.push(world.connect()));
    let used = world.each("tidegate_connections", |world, _| {
        let mut socket = world.connect();
        socket.write_all(WARMING).expect("writable");
        let mut head = [0; 15];
        socket.read_exact(&mut head).expect("an answer");
        assert_eq!(&head, b"HTTP/1.1 200 OK");
        world.open.push(socket);
    });
    world.end();
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let files = tempfile::tempdir().expect("a directory");
    let [chain, key] = ["cert.pem", "key.pem"].map(|name| files.path().join(name));
    std::fs::write(&chain, cert.pem()).expect("room");
    std::fs::write(&key, signing_key.serialize_pem()).expect("room");
    let tls = format!("{upstream}[server.tls]\ncert = {chain:?}\nkey = {key:?}\n");
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("they are known")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    let config = Arc::new(config);
    let mut world = World::start(&tls);
    let mut encrypted = |world: &mut World, _: usize| {
        let name = ServerName::try_from("localhost").expect("a name");
        let mut client = ClientConnection::new(Arc::clone(&config), name).expect("a client");
        let mut socket = world.connect();
        let mut tls = rustls::Stream::new(&mut client, &mut socket);
        tls.write_all(WARMING).expect("writable");
        let mut head = [0; 15];
        tls.read_exact(&mut head).expect("an answer");
        assert_eq!(&head, b"HTTP/1.1 200 OK");
        // What this side keeps of the session goes; the gateway does not learn of it.
        drop(client);
        world.open.push(socket);
    };
    world.each("tidegate_connections", &mut encrypted);
    let encrypted = world.each("tidegate_connections", encrypted);
    world.end();
    [
        ("a connection that has said nothing", silent, 8_000),
        ("an idle connection, HTTP/1.1", used, 40_000),
        ("an idle connection, HTTP/1.1 over TLS", encrypted, 55_000),
    ]
}

fn waiting() -> [(&'static str, usize, usize); 2] {
    // One at a time, and the first is never answered: its upstream takes it and says nothing.
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let addr = silent.local_addr().expect("bound");
    let changes =
        format!("[upstream]\nbase_url = \"http://{addr}\"\n[models.m]\nmax_concurrent = 1\n");
    let mut world = World::start(&changes);
    let queued = "tidegate_queue_depth";
    let ask = |world: &mut World, _: usize| {
        let mut socket = world.connect();
        socket.write_all(&request("m", "")).expect("writable");
        world.open.push(socket);
    };
    ask(&mut world, 0);
    world.wait("tidegate_requests_in_flight", 1);
    world.each(queued, ask);
    let alone = world.each(queued, ask);
    let many = world.each(queued, |world, number| {
        // Fifty on each connection: their bodies fit into the window that it has at first.
        let first = number % 50 == 0;
        if first {
            let mut socket = world.connect();
            socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("writable");
            socket.write_all(&frame(4, 0, 0, &[])).expect("writable");
            world.open.push(socket);
        }
        let number = u32::try_from(number % 50 * 2 + 1).expect("few");
        let socket = world.open.last_mut().expect("a connection");
        socket.write_all(&stream(number, "m")).expect("writable");
    });
    world.end();
    [
        ("a waiting request, HTTP/1.1, with its connection", alone, 45_000),
        ("a waiting request, HTTP/2", many, 12_000),
    ]
}

fn kept(upstream: &str) -> [(&'static str, usize, usize); 2] {
    let mut world = World::start(upstream);
    let mut socket = world.connect();
    for number in 0..MANY {
        answered(&mut socket, &request(&format!("warm-{number}"), ""));
    }
    let pool = world.each("tidegate_pools", |_, number| {
        answered(&mut socket, &request(&format!("model-{number}"), ""));
    });
    world.end();
    let header = "[admission]\ntenant_header = \"x-team\"\n";
    let account = upstream.replace("[upstream]\n", "[upstream]\napi_key = \"env:ACCOUNT_KEY\"\n");
    let mut world = World::start(&format!("{account}{header}"));
    let mut socket = world.connect();
    let name = "tidegate_requests_total{outcome=\"completed\"}";
    let mut ask = |_: &mut World, number: usize| {
        answered(&mut socket, &request("m", &format!("x-team: team-{number}\r\n")));
    };
    world.each(name, &mut ask);
    let tenant = world.each(name, |world, number| ask(world, MANY + number));
    world.end();
    [("a pool with two limits, used once", pool, 25_000), ("a tenant, used once", tenant, 12_000)]
}

#[test]
fn what_callers_can_have_many_of_takes_little_each() {
    let _alone = ONE_AT_A_TIME.lock();
    let upstream = format!("[upstream]\nbase_url = \"http://{}\"\n", upstream());
    let all = connections(&upstream).into_iter().chain(waiting()).chain(kept(&upstream));
    let all: Vec<_> = all.collect();
    for (what, each, _) in &all {
        println!("{each} bytes: {what}");
    }
    for (what, each, most) in all {
        assert!((1..=most).contains(&each), "{what} takes {each} bytes, and may take {most}");
    }
}
