//! The yardstick: a pass-through proxy of the same libraries as the gateway, and nothing else.
//!
//! It pools upstream connections, sets `TCP_NODELAY` on both sides and streams both bodies
//! without looking at them. It is meant to be as good as such a proxy gets without tricks.

use std::net::SocketAddr;

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
use tokio::net::TcpListener;

use crate::Result;
use crate::role::{self, Orders};

#[derive(Clone)]
struct Proxy {
    client: Client<HttpConnector, Body>,
    upstream: Authority,
}

/// Proxies everything to `upstream` until told to stop.
pub(crate) async fn serve(upstream: SocketAddr, orders: Orders) -> Result {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client =
        Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
    let proxy = Proxy { client, upstream: upstream.to_string().parse()? };

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    role::say(&listener.local_addr()?.to_string())?;
    let listener = listener.tap_io(|stream| {
        // A connection that is already gone fails here; serving it will tell.
        let _ = stream.set_nodelay(true);
    });
    let server = axum::serve(listener, Router::new().fallback(forward).with_state(proxy));
    tokio::select! {
        result = server => Ok(result?),
        () = role::ended(orders) => Ok(()),
    }
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
