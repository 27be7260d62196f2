use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::*;

/// A listener on a free port whose connections are not told apart from any other's, loopback or not.
async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let addr = listener.local_addr().expect("bound");
    (listener, addr)
}

#[tokio::test]
async fn one_address_gets_no_more_than_its_part_and_is_closed_at_once_above_it() {
    let metrics = Arc::new(Metrics::new(&[], &[], 1).expect("unique names"));
    let mut connections = Connections::new(10, 2, Some(Arc::clone(&metrics)));
    connections.peers = connections.peers.counting_loopback();
    let (listener, addr) = listener().await;
    let (stop, hour) = (CancellationToken::new(), Duration::from_secs(3_600));
    let http = Http {
        header_timeout: hour,
        write_timeout: hour,
        last_call: Duration::ZERO,
        fresh: Arc::default(),
        leaving: stop.clone(),
        stop: stop.clone(),
        handed: CancellationToken::new(),
        abort: stop.clone(),
    };
    let app = Router::new().route("/", get(|| async { "here" }));
    let accepting = tokio::spawn(connections.clone().accept(listener, app, http));
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut socket = TcpStream::connect(addr).await.expect("it listens");
        socket.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await.expect("open");
        let mut head = [0; 15];
        socket.read_exact(&mut head).await.expect("an answer");
        assert_eq!(&head, b"HTTP/1.1 200 OK");
        open.push(socket);
    }
    for refused in 1..=3 {
        let mut socket = TcpStream::connect(addr).await.expect("it listens");
        let mut nothing = Vec::new();
        // Ended or reset: both say that there is no place.
        assert_eq!(socket.read_to_end(&mut nothing).await.unwrap_or(0), 0);
        assert_eq!(metrics.server.connections_refused.get(), refused);
    }
    open.clear();
    // The one place that is counted has to be seen to be free.
    loop {
        let mut socket = TcpStream::connect(addr).await.expect("it listens");
        // It may be closed before this is written.
        let _ = socket.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
        let mut head = [0; 15];
        if socket.read_exact(&mut head).await.is_ok() {
            break;
        }
        tokio::task::yield_now().await;
    }
    stop.cancel();
    accepting.await.expect("no panic");
}
