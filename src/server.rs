//! Listeners, connections and the end of the process.
//!
//! # Invariants
//!
//! - Every task is tracked: when [`Server::run`] returns, none is left.
//! - The drain is bounded: a half-sent request and an endless answer both end at its deadline.

mod connection;
mod peers;
mod reload;
mod room;
mod shared;
mod state;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::connection::{App, Http, serve};
use self::peers::Peers;
pub use self::reload::{Reloaded, Reloader};
use self::room::{Place, Room};
use self::shared::Replicas;
use self::tls::{Doorway, Encryption};
use crate::admin;
use crate::batch::{self, Batches};
use crate::config::{Config, Origin};
use crate::metrics::Metrics;
use crate::proxy::{self, Current, Gateway};
use crate::store::local::Running;
use crate::store::shared::Shared;
use crate::telemetry::traces::Traces;
use crate::time::Epoch;

/// Connections that the kernel holds until they are accepted; more than the usual limit of 4,096
/// is cut to it.
const BACKLOG: u32 = 4_096;

/// Connections to the admin port at once: a few scrapers and a few people.
const ADMIN_CONNECTIONS: usize = 256;

/// A gateway with its sockets bound, ready to serve.
#[derive(Debug)]
pub struct Server {
    current: Current,
    /// The API and the admin port; none for a gateway that nobody calls.
    listeners: Option<(TcpListener, TcpListener)>,
    tasks: TaskTracker,
    /// What keeps the state, if it is kept.
    store: Option<Running>,
    /// What goes between the pools and other replicas, if they share their quota.
    shared: Option<Arc<Replicas>>,
    /// Files and batches, if they are kept.
    batches: Option<Arc<Batches>>,
    /// What sends spans, if requests are traced.
    traces: Option<Arc<Traces>>,
    /// The certificates, if connections are encrypted.
    encryption: Option<Arc<Encryption>>,
}

/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// How a run ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ended {
    /// Everything that was running finished.
    Drained,
    /// The deadline passed, or a second request to stop came.
    Aborted,
}

impl Server {
    /// Binds both sockets, and takes up the state that was kept; nothing is accepted yet.
    ///
    /// # Errors
    ///
    /// If an address cannot be bound, the upstream's cannot be used, or the state cannot be kept.
    pub fn bind(config: Arc<Config>) -> io::Result<Self> {
        Self::bind_scripted(config, Shared::script())
    }

    /// [`Self::bind`] with another script for the server that replicas share: for tests in which that
    /// server's clock is set.
    #[doc(hidden)]
    pub fn bind_scripted(config: Arc<Config>, script: &str) -> io::Result<Self> {
        // First: whoever has the state has the port as well, and that is easier to understand.
        let listeners = (listen(config.server.listen)?, listen(config.server.admin)?);
        Self::make(config, script, Some(listeners))
    }

    /// Takes up the state that was kept, and binds nothing: for work that nobody asks for from outside.
    ///
    /// # Errors
    ///
    /// If the upstream's address cannot be used, or the state cannot be kept.
    pub fn unbound(config: Arc<Config>) -> io::Result<Self> {
        Self::make(config, Shared::script(), None)
    }

    fn make(
        config: Arc<Config>,
        script: &str,
        listeners: Option<(TcpListener, TcpListener)>,
    ) -> io::Result<Self> {
        let tasks = TaskTracker::new();
        let classes: Vec<_> = config.classes.names().collect();
        let most = usize::try_from(config.metrics.max_tenants.get()).unwrap_or(usize::MAX);
        let metrics = Metrics::new(&classes, &config.keys, most).map_err(io::Error::other)?;
        let metrics = Arc::new(metrics);
        let encryption = config.server.tls.as_ref();
        let encryption =
            encryption.map(|it| Encryption::read(it, metrics.server.clone())).transpose()?;
        let kept = state::open(&config.state)?;
        let epoch = kept.as_ref().map_or_else(Epoch::start, state::Kept::epoch);
        let archive = state::archive(&config)?;
        let shared = config.shared.clone();
        let shared = shared
            .map(|it| Arc::new(Replicas::connect(it, metrics.shared.clone(), &tasks, script)));
        let traces = config.traces.as_ref();
        let traces = traces.map(|it| Traces::start(it, metrics.traces.clone(), epoch, &tasks));
        let traces = traces.transpose()?.map(Arc::new);
        let mut gateway = Gateway::new(config, metrics, epoch, tasks.clone())?;
        if let Some(traces) = &traces {
            gateway = gateway.traced_by(Arc::clone(traces));
        }
        if let Some(replicas) = &shared {
            gateway = gateway.shared_by(Arc::<Replicas>::clone(replicas));
        }
        let (current, store) = match kept {
            None => (Current::new(gateway), None),
            Some(kept) => {
                let (current, store) = kept.start(gateway)?;
                (current, Some(store))
            }
        };
        let batches = archive.map(|archive| Batches::new(current.clone(), archive));
        Ok(Self { current, listeners, tasks, store, shared, batches, traces, encryption })
    }

    /// The address of the API.
    ///
    /// # Errors
    ///
    /// If the socket has none (any more).
    pub fn api_addr(&self) -> io::Result<SocketAddr> {
        self.listeners.as_ref().ok_or(io::ErrorKind::NotConnected)?.0.local_addr()
    }

    /// The address of the admin port.
    ///
    /// # Errors
    ///
    /// If the socket has none (any more).
    pub fn admin_addr(&self) -> io::Result<SocketAddr> {
        self.listeners.as_ref().ok_or(io::ErrorKind::NotConnected)?.1.local_addr()
    }

    /// The gateway behind the sockets, as it is now.
    pub fn gateway(&self) -> Arc<Gateway> {
        self.current.get()
    }

    /// What has the gateway go on with its configuration as it is at its origin then.
    pub fn reloader(&self, origin: Origin) -> Reloader {
        Reloader::new(self.current.clone(), origin)
    }

    /// Its files and batches, if it keeps any.
    pub const fn batches(&self) -> Option<&Arc<Batches>> {
        self.batches.as_ref()
    }

    /// Serves until `stop` is cancelled and everything has drained, or until `abort` is.
    pub async fn run(self, stop: CancellationToken, abort: CancellationToken) -> Ended {
        let Self { current, listeners, tasks, store, shared, batches, traces, encryption } = self;
        let (api, admin) = listeners.unzip();
        let gateway = current.get();
        let server = &gateway.config().server;
        let http = Http {
            header_timeout: server.header_timeout,
            write_timeout: server.write_timeout,
            stop: stop.clone(),
            abort: abort.clone(),
        };
        let most = usize::try_from(server.max_connections.get()).unwrap_or(usize::MAX);
        let more = batches.as_ref().map_or_else(batch::no_routes, Batches::routes);
        let app = proxy::app(current.clone(), more);
        if let Some(batches) = &batches
            && let Err(problem) = batches.resume().await
        {
            tracing::error!(%problem, "batches of the process before do not go on");
        }
        let metrics = Some(Arc::clone(gateway.metrics()));
        let mut callers = Connections::new(most, server.max_connections_per_ip.get(), metrics);
        callers.doorway = encryption.as_ref().map(Encryption::api);
        if let Some(api) = api {
            callers.tasks.spawn(accept(api, app, http.clone(), callers.clone()));
        }
        // The admin port outlives the API: whoever watches the drain can see its end.
        let closed = CancellationToken::new();
        let admin_http = Http { stop: closed.clone(), abort: closed.clone(), ..http };
        let mut operators = Connections::new(ADMIN_CONNECTIONS, u32::MAX, None);
        operators.doorway = encryption.as_ref().and_then(Encryption::admin);
        if let Some(encryption) = encryption {
            operators.tasks.spawn(encryption.watch(closed.clone()));
        }
        if let Some(admin) = admin {
            let (current, batches) = (current.clone(), batches.clone());
            let page = admin::app(current, batches, closed.clone(), &operators.tasks);
            operators.tasks.spawn(accept(admin, page, admin_http, operators.clone()));
        }

        stop.cancelled().await;
        drop(gateway);
        let gateway = current.get();
        gateway.drain();
        let limit = gateway.config().server.drain_timeout;
        let ended = finish(&callers.tasks, batches.as_deref(), &abort, limit).await;
        closed.cancel();
        operators.tasks.close();
        operators.tasks.wait().await;
        // When no request is left: what they spent is whole now.
        if let Some(replicas) = shared {
            replicas.close().await;
        }
        if let Some(store) = store {
            state::stop(store).await;
        }
        if let Some(traces) = traces {
            traces.close().await;
        }
        // The pools' timers end with the pools; a caller of this function may still look at them.
        tasks.close();
        ended
    }
}

/// Waits for the connections to finish; past the deadline, or when told to, cuts them.
async fn finish(
    connections: &TaskTracker,
    batches: Option<&Batches>,
    abort: &CancellationToken,
    limit: Duration,
) -> Ended {
    connections.close();
    let working = async {
        // Together: what is at the upstream for either is at its end by the same deadline.
        let batches = async {
            if let Some(batches) = batches {
                batches.close(abort).await;
            }
        };
        tokio::join!(connections.wait(), batches);
    };
    let mut working = std::pin::pin!(working);
    let ended = tokio::select! {
        // In this order: connections that were cut have ended as well.
        biased;
        () = abort.cancelled() => Ended::Aborted,
        () = working.as_mut() => Ended::Drained,
        () = tokio::time::sleep(limit) => Ended::Aborted,
    };
    abort.cancel();
    if ended == Ended::Aborted {
        working.await;
    }
    ended
}

/// The connections of one listener.
#[derive(Clone, Debug)]
struct Connections {
    room: Room,
    peers: Peers,
    metrics: Option<Arc<Metrics>>,
    tasks: TaskTracker,
    /// Who encrypts them, if they are encrypted.
    doorway: Option<Doorway>,
}

impl Connections {
    /// At most so many, and so many from one address.
    fn new(most: usize, each: u32, metrics: Option<Arc<Metrics>>) -> Self {
        let (room, peers) = (Room::new(most), Peers::new(each));
        Self { room, peers, metrics, tasks: TaskTracker::new(), doorway: None }
    }

    /// Serves one to its end, or until its place is needed.
    async fn serve(self, stream: TcpStream, app: impl App, http: Http, place: Place) {
        if let Some(metrics) = &self.metrics {
            metrics.connections_total.inc();
            metrics.connections.inc();
        }
        // A peer that has gone already is found out by the first read.
        let _ = stream.set_nodelay(true);
        let occupant = Arc::clone(place.occupant());
        let serving = async {
            let Some(doorway) = &self.doorway else {
                return serve(stream, app, http, occupant).await;
            };
            let entered = doorway.enter(stream, http.header_timeout, &http.stop).await;
            if let Some(stream) = entered {
                Box::pin(serve(stream, app, http, occupant)).await;
            }
        };
        tokio::select! {
            () = serving => {}
            () = place.needed() => {}
        }
        if let Some(metrics) = &self.metrics {
            metrics.connections.dec();
        }
    }
}

/// Accepts connections until told to stop; where there is no room, one at a time waits for it, and the
/// others in the kernel.
async fn accept(listener: TcpListener, app: impl App, http: Http, connections: Connections) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = http.stop.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or a peer that has gone: neither is cured by trying at once.
                tracing::warn!(%error, "no connection accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let counted = connections.metrics.as_ref().map(|metrics| &metrics.server);
        let Some(guest) = connections.peers.enter(peer.ip()) else {
            // That it is closed is all the answer that a flood gets.
            if let Some(counted) = counted {
                counted.connections_refused.inc();
            }
            continue;
        };
        let evicted = |count| {
            if let Some(counted) = counted {
                counted.connections_evicted.inc_by(u64::try_from(count).unwrap_or(u64::MAX));
            }
        };
        let place = tokio::select! {
            place = connections.room.enter(evicted) => place,
            () = http.stop.cancelled() => return,
        };
        let serving = connections.clone().serve(stream, app.clone(), http.clone(), place);
        connections.tasks.spawn(async move {
            serving.await;
            drop(guest);
        });
    }
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let bind = || {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|error| io::Error::new(error.kind(), format!("{addr}: {error}")))
}

#[cfg(test)]
mod tests;
