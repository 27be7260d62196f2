//! The yardstick: a pass-through proxy of the same libraries as the gateway, and nothing else.
//!
//! It pools upstream connections, sets `TCP_NODELAY` on both sides and streams both bodies
//! without looking at them. It is meant to be as good as such a proxy gets without tricks.
//!
//! It comes in two flavours: on Tokio's work-stealing runtime, and with a runtime of its own, a
//! listener of its own (`SO_REUSEPORT`) and a client of its own on each core, which share nothing.

use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::serve::ListenerExt;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{StatusCode, Uri, header};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Builder;

use crate::Result;
use crate::options::{BareOptions, Flavour};
use crate::role::{self, Orders};

#[derive(Clone)]
struct Proxy {
    client: Client<HttpConnector, Body>,
    upstream: Authority,
}

/// Connections that may wait to be accepted: as many as Tokio's own listener lets.
const BACKLOG: u32 = 1_024;

/// Proxies everything to the upstream until told to stop.
pub(crate) fn run(options: &BareOptions) -> Result {
    match options.runtime {
        Flavour::WorkStealing => role::run(|orders| shared(options.upstream, orders)),
        Flavour::PerCore => per_core(options.upstream),
    }
}

async fn shared(upstream: SocketAddr, orders: Orders) -> Result {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    role::say(&listener.local_addr()?.to_string())?;
    tokio::select! {
        result = serve(listener, upstream) => result,
        () = role::ended(orders) => Ok(()),
    }
}

/// One thread for each that Tokio would start, and by the same variable (`TOKIO_WORKER_THREADS`).
fn per_core(upstream: SocketAddr) -> Result {
    let threads = match std::env::var("TOKIO_WORKER_THREADS") {
        Ok(threads) => threads.parse()?,
        Err(_) => std::thread::available_parallelism()?.get(),
    };
    let mut address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    for _ in 0..threads {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(async {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseport(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)
        })?;
        // The first one finds the port, and the others listen there as well.
        address = listener.local_addr()?;
        std::thread::spawn(move || runtime.block_on(serve(listener, upstream)));
    }
    role::say(&address.to_string())?;
    let mut orders = role::orders();
    while orders.blocking_recv().is_some() {}
    Ok(())
}

async fn serve(listener: TcpListener, upstream: SocketAddr) -> Result {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client =
        Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
    let proxy = Proxy { client, upstream: upstream.to_string().parse()? };

    let listener = listener.tap_io(|stream| {
        // A connection that is already gone fails here; serving it will tell.
        let _ = stream.set_nodelay(true);
    });
    Ok(axum::serve(listener, Router::new().fallback(forward).with_state(proxy)).await?)
}

async fn forward(
    State(proxy): State<Proxy>,
    mut request: Request,
) -> std::result::Result<Response, StatusCode> {
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(proxy.upstream)
        .path_and_query(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
        .build()
        .map_err(|_| StatusCode::BAD_REQUEST)?;
    request.headers_mut().remove(header::HOST);
    let response = proxy.client.request(request).await.map_err(|_| StatusCode::BAD_GATEWAY)?;
    Ok(response.map(Body::new))
}
