//! How many allocations the gateway makes for a request that need not wait, and how much memory it keeps
//! for what callers can have many of (`memory`).
//!
//! A program of its own, since it counts whatever the whole process allocates: client and upstream
//! are loops over sockets with buffers of their own, which allocate nothing. With `DHAT` set in the
//! environment it also writes `dhat-heap.json` (and `dhat-unsampled.json`, `dhat-traced.json`): where each
//! of them comes from.

#![expect(clippy::print_stdout, reason = "the number is worth seeing when it passes, too")]

mod memory;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate::config::{Config, Overrides};
use tidegate::server::Server;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Whatever the process allocates is counted, so that one test at a time may run.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Requests before counting begins: connections are open, estimates learned, buffers grown.
const WARM_UP: u32 = 400;
const COUNTED: u32 = 1_000;

/// Allocations for one request: 42, and a little for what happens now and then. It was 58 when the
/// gateway neither learned from answers nor looked at their headers.
const MOST: f64 = 42.5;

/// The same where requests are traced, but not this one: the upstream is told so in a header, which is
/// one allocation, and one to have it in two places.
const MOST_UNSAMPLED: f64 = MOST + 2.0;

/// The same of one that is traced, what makes and sends its spans included: 114, and room for those of
/// the requests before that are sent meanwhile. Most of them are names of attributes, on the task that
/// sends.
const MOST_TRACED: f64 = 130.0;

/// An answer as the upstream gives it.
const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
    x-ratelimit-limit-requests-day: 1000000000\r\n\
    x-ratelimit-limit-tokens-minute: 1000000000\r\n\
    x-ratelimit-remaining-requests-day: 999999999\r\n\
    x-ratelimit-remaining-tokens-minute: 999999000\r\n\
    x-ratelimit-reset-requests-day: 33011.382867\r\n\
    x-ratelimit-reset-tokens-minute: 11.382867\r\n\
    content-length: ";
const COMPLETION: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"The harbour clocks had stopped."},"finish_reason":"stop"}],"usage":{"prompt_tokens":24,"completion_tokens":6,"total_tokens":30},"system_fingerprint":"f"}"#;

const CONFIG: &str = r#"
[server]
listen = "127.0.0.1:0"
admin = "127.0.0.1:0"
[models."*"]
output_reservation = { default = 100 }
limits = [
  { unit = "requests", limit = 1_000_000_000, per = "1d" },
  { unit = "tokens", limit = 1_000_000_000, per = "1m" },
]
"#;

/// Reads a message with a body of known length into `buffer`; false if the peer has gone.
fn read_message(socket: &mut TcpStream, buffer: &mut [u8]) -> bool {
    let mut filled = 0;
    loop {
        let read = socket.read(&mut buffer[filled..]).expect("readable");
        if read == 0 {
            return false;
        }
        filled += read;
        let text = std::str::from_utf8(&buffer[..filled]).expect("text");
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.expect("a length").parse().expect("a number");
        if body.len() == length {
            return true;
        }
    }
}

/// Answers every request with the same, until the process ends.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let addr = listener.local_addr().expect("bound");
    let answer = format!("{ANSWER}{}\r\n\r\n{COMPLETION}", COMPLETION.len());
    thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.expect("a connection");
            socket.set_nodelay(true).expect("a socket");
            let mut buffer = [0; 8_192];
            while read_message(&mut socket, &mut buffer) {
                socket.write_all(answer.as_bytes()).expect("writable");
            }
        }
    });
    addr
}

/// Takes whatever it is sent, until the process ends.
fn collector() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let addr = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.expect("a connection");
            let mut buffer = [0; 65_536];
            let (mut filled, mut rest) = (0, 0);
            loop {
                // A gateway that ends cuts the connection.
                let read = socket.read(&mut buffer[filled..]).unwrap_or(0);
                if read == 0 {
                    break;
                }
                filled += read;
                if rest == 0 {
                    let end = buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n");
                    let Some(end) = end else { continue };
                    let head = std::str::from_utf8(&buffer[..end]).expect("text");
                    let length =
                        head.lines().find_map(|line| line.strip_prefix("content-length: "));
                    rest = end + 4 + length.expect("a length").parse::<usize>().expect("a number");
                }
                rest -= filled;
                filled = 0;
                if rest == 0 {
                    socket
                        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                        .expect("writable");
                }
            }
        }
    });
    addr
}

#[test]
fn a_request_that_need_not_wait_allocates_little() {
    let _alone = ONE_AT_A_TIME.lock();
    let upstream = format!("[upstream]\nbase_url = \"http://{}\"\n", upstream());
    let each = measure(&upstream, "dhat-heap.json");
    assert!(each <= MOST, "{each:.2} allocations a request");
    let traces = format!("{upstream}[traces]\nendpoint = \"http://{}\"\n", collector());
    let unsampled = measure(&format!("{traces}sampler = \"always_off\"\n"), "dhat-unsampled.json");
    assert!(unsampled <= MOST_UNSAMPLED, "{unsampled:.2} allocations an unsampled request");
    let traced = measure(&traces, "dhat-traced.json");
    assert!((each..=MOST_TRACED).contains(&traced), "{traced:.2} allocations a traced request");
}

/// Allocations for one request at a gateway configured so.
fn measure(changes: &str, file: &str) -> f64 {
    let profiler = dhat::Profiler::builder().file_name(file);
    let profiler = if std::env::var_os("DHAT").is_some() { profiler } else { profiler.testing() };
    let text = format!("{CONFIG}\n{changes}");
    let config = Config::parse(&text, [], &Overrides::default()).expect("it is valid");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let stop = CancellationToken::new();
    let (server, api) = {
        let _inside = runtime.enter();
        let server = Server::bind(Arc::new(config)).expect("free ports");
        let api = server.api_addr().expect("bound");
        (runtime.spawn(server.run(stop.clone(), CancellationToken::new())), api)
    };
    let mut client = TcpStream::connect(api).expect("it listens");
    client.set_nodelay(true).expect("a socket");
    client.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
    let body = r#"{"model":"m","max_tokens":50,"messages":[{"role":"system","content":"You answer briefly."},{"role":"user","content":"What happened to the clocks of the harbour, and when did it happen?"}]}"#;
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         authorization: Bearer csk-planted\r\nuser-agent: alloc\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut buffer = [0; 8_192];
    let mut ask = |times: u32| {
        for _ in 0..times {
            client.write_all(request.as_bytes()).expect("writable");
            assert!(read_message(&mut client, &mut buffer));
            assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer));
        }
    };
    let profiler = {
        ask(WARM_UP);
        profiler.build()
    };
    let before = dhat::HeapStats::get();
    ask(COUNTED);
    let after = dhat::HeapStats::get();
    let each = (after.total_blocks - before.total_blocks) as f64 / f64::from(COUNTED);
    let bytes = (after.total_bytes - before.total_bytes) as f64 / f64::from(COUNTED);
    println!("{each:.2} allocations of {bytes:.0} bytes a request");
    drop(profiler);
    stop.cancel();
    drop(client);
    runtime.block_on(server).expect("it ends");
    each
}
