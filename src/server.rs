//! Listeners, connections and the end of the process.
//!
//! # Invariants
//!
//! - Every task is tracked: when [`Server::run`] returns, none is left.
//! - The drain is bounded: a half-sent request and an endless answer both end at its deadline.

mod connection;
mod connections;
mod drain;
mod handover;
mod listeners;
mod peers;
mod reload;
mod room;
mod shared;
mod state;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::connection::Http;
use self::connections::Connections;
use self::handover::{Before, Offer};
pub use self::handover::{Taken, take_over};
pub use self::listeners::Sockets;
pub use self::reload::{Reloaded, Reloader};
use self::shared::Replicas;
use self::state::Heirs;
use self::tls::Encryption;
use crate::admin;
use crate::batch::{self, Batches};
use crate::config::{Config, Origin};
use crate::cores::Cores;
use crate::metrics::Metrics;
use crate::proxy::{self, Current, Gateway};
use crate::store::local::Running;
use crate::store::shared::Shared;
use crate::telemetry::traces::Traces;
use crate::time::Epoch;

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
    /// The process that this one has taken over from, and what it has left.
    before: Option<(Before, Arc<Heirs>)>,
    /// Where another process can take over from this one.
    offer: Option<Offer>,
    /// The threads that callers are served on, if not wherever they are accepted.
    cores: Option<Cores>,
}

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
        Self::make(config, script, Some(Sockets::default()), None)
    }

    /// [`Self::bind`] where some of the sockets are there already.
    ///
    /// # Errors
    ///
    /// As [`Self::bind`].
    pub fn bind_on(config: Arc<Config>, sockets: Sockets) -> io::Result<Self> {
        Self::make(config, Shared::script(), Some(sockets), None)
    }

    /// Goes on where another process was that has handed over.
    ///
    /// # Errors
    ///
    /// As [`Self::bind`].
    pub fn go_on(config: Arc<Config>, taken: Taken) -> io::Result<Self> {
        Self::make(config, Shared::script(), Some(Sockets::default()), Some(taken))
    }

    /// Takes up the state that was kept, and binds nothing: for work that nobody asks for from outside.
    ///
    /// # Errors
    ///
    /// If the upstream's address cannot be used, or the state cannot be kept.
    pub fn unbound(config: Arc<Config>) -> io::Result<Self> {
        Self::make(config, Shared::script(), None, None)
    }

    fn make(
        config: Arc<Config>,
        script: &str,
        sockets: Option<Sockets>,
        taken: Option<Taken>,
    ) -> io::Result<Self> {
        let (sockets, handed) = match taken {
            None => (sockets, None),
            Some(Taken { sockets, set_aside, before, .. }) => {
                let sockets = Sockets::taken(sockets).where_configured(&config.server);
                (Some(sockets), Some((set_aside, before)))
            }
        };
        // First: whoever has the state has the port as well, and that is easier to understand.
        let listeners = sockets.map(|it| it.bind(&config.server)).transpose()?;
        let place = config.state.place().map(ToOwned::to_owned);
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
        let (set_aside, before) = handed.unzip();
        let (current, store, heirs) = match kept {
            None => (Current::new(gateway), None, None),
            Some(kept) => {
                let (current, store, heirs) = kept.start(gateway, set_aside.as_ref())?;
                (current, Some(store), Some(heirs))
            }
        };
        let offer = place.zip(listeners.as_ref()).and_then(|(dir, (api, admin))| {
            let offer = duplicates(api, admin).and_then(|sockets| Offer::open(&dir, sockets));
            let tell =
                |problem: io::Error| tracing::warn!(%problem, "no other process can take over");
            offer.map_err(tell).ok()
        });
        let batches = archive.map(|archive| Batches::new(current.clone(), archive));
        let before = before.zip(heirs);
        Ok(Self {
            current,
            listeners,
            tasks,
            store,
            shared,
            batches,
            traces,
            encryption,
            before,
            offer,
            cores: None,
        })
    }

    /// The same, with its callers served on these threads, each with all that belongs to it on one.
    #[must_use]
    pub fn on(mut self, cores: Cores) -> Self {
        self.cores = Some(cores);
        self
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
        Reloader::new(self.current.clone(), origin, self.encryption.clone())
    }

    /// Its files and batches, if it keeps any.
    pub const fn batches(&self) -> Option<&Arc<Batches>> {
        self.batches.as_ref()
    }

    /// Serves until `stop` is cancelled and everything has drained, or until `abort` is.
    pub async fn run(self, stop: CancellationToken, abort: CancellationToken) -> Ended {
        let gateway = self.current.get();
        let server = &gateway.config().server;
        let http = Http {
            header_timeout: server.header_timeout,
            write_timeout: server.write_timeout,
            last_call: drain::spare(server.drain_timeout),
            fresh: Arc::default(),
            leaving: CancellationToken::new(),
            stop: CancellationToken::new(),
            handed: CancellationToken::new(),
            abort: abort.clone(),
        };
        if let Some(batches) = &self.batches
            && let Err(problem) = batches.resume().await
        {
            tracing::error!(%problem, "batches of the process before do not go on");
        }
        let most = usize::try_from(server.max_connections.get()).unwrap_or(usize::MAX);
        let metrics = Some(Arc::clone(gateway.metrics()));
        let mut callers = Connections::new(most, server.max_connections_per_ip.get(), metrics);
        callers.cores.clone_from(&self.cores);
        callers.doorway = self.encryption.as_ref().map(Encryption::api);
        let mut operators = Connections::new(ADMIN_CONNECTIONS, u32::MAX, None);
        operators.doorway = self.encryption.as_ref().and_then(Encryption::admin);
        drop(gateway);
        // The admin port outlives the API: whoever watches the drain can see its end.
        let closed = CancellationToken::new();
        let ports = Ports { callers, operators, http, closed };
        let rest = self.open(&ports);
        rest.until_ended(ports, stop, abort).await
    }

    /// Has the connections accepted.
    fn open(mut self, ports: &Ports) -> Self {
        let Ports { callers, operators, http, closed } = ports;
        if let Some((api, admin)) = self.listeners.take() {
            let more = self.batches.as_ref().map_or_else(batch::no_routes, Batches::routes);
            let app = proxy::app(self.current.clone(), more);
            callers.tasks.spawn(callers.clone().accept(api, app, http.clone()));
            let (current, batches) = (self.current.clone(), self.batches.clone());
            let page = admin::app(current, batches, closed.clone(), &operators.tasks);
            operators.tasks.spawn(operators.clone().accept(admin, page, http.until(closed)));
        }
        if let Some(encryption) = self.encryption.take() {
            operators.tasks.spawn(encryption.watch(closed.clone()));
        }
        if let Some((before, heirs)) = self.before.take()
            && let Err(problem) = before.follow(self.current.get(), heirs)
        {
            tracing::error!(%problem, "nobody listens to the process before");
        }
        self
    }

    async fn until_ended(
        self,
        ports: Ports,
        stop: CancellationToken,
        abort: CancellationToken,
    ) -> Ended {
        let Self { current, tasks, mut store, shared, batches, traces, offer, .. } = self;
        let Ports { callers, operators, http, closed } = ports;
        let heir = handover::asked(offer.as_ref(), &stop, &http.leaving).await;
        http.leaving.cancel();
        let gateway = current.get();
        let (batches, server) = (batches.as_deref(), &gateway.config().server);
        let limit = server.drain_timeout;
        let mut following = None;
        if let Some(heir) = heir {
            drain::end_batches(batches, &abort, limit).await;
            http.handed.cancel();
            closed.cancel();
            http.stop.cancel();
            // In this order: its name is the other's as soon as the state is.
            drop(offer);
            let gone = (Arc::clone(&gateway), store.take());
            following = Some(handover::hand_over(heir, gone, &http).await);
        } else {
            drop(offer);
            drain::delay(&gateway, server.drain_delay, &abort).await;
            http.stop.cancel();
        }
        let batches = batches.filter(|_| following.is_none());
        let ended = drain::finish(&callers.tasks, batches, &gateway, &abort, limit).await;
        if let Some((done, following)) = following {
            done.cancel();
            // A panic there is told by the hook.
            let _ = following.await;
        }
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

/// What a server that runs listens with.
struct Ports {
    callers: Connections,
    operators: Connections,
    http: Http,
    /// Whoever looks at the admin port is to go.
    closed: CancellationToken,
}

/// The listening sockets once more.
fn duplicates(api: &TcpListener, admin: &TcpListener) -> io::Result<[std::net::TcpListener; 2]> {
    let twice = |socket: &TcpListener| socket.as_fd().try_clone_to_owned().map(Into::into);
    Ok([twice(api)?, twice(admin)?])
}
