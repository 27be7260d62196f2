//! The connections of a listener: who is let in, and who still is when it ends.
//!
//! # Invariants
//!
//! - Whoever the kernel has accepted for this process is served, as far as there is room, even if it has
//!   been told to stop meanwhile: their requests may be on their way.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::connection::{App, Fresh, Http, serve};
use super::peers::{Guest, Peers};
use super::room::{Place, Room};
use super::tls::Doorway;
use crate::cores::{Cores, Seat};
use crate::metrics::Metrics;

/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// The connections of one listener.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    room: Room,
    pub(super) peers: Peers,
    metrics: Option<Arc<Metrics>>,
    pub(super) tasks: TaskTracker,
    /// Who encrypts them, if they are encrypted.
    pub(super) doorway: Option<Doorway>,
    /// Where they are served, if not where they are accepted.
    pub(super) cores: Option<Cores>,
}

/// A connection, before it is anybody's.
enum Arrived {
    /// It is served where it was accepted.
    Here(TcpStream),
    /// It is served at this seat.
    There(std::net::TcpStream, Seat),
}

impl Connections {
    /// At most so many, and so many from one address.
    pub(super) fn new(most: usize, each: u32, metrics: Option<Arc<Metrics>>) -> Self {
        let (room, peers) = (Room::new(most), Peers::new(each));
        Self { room, peers, metrics, tasks: TaskTracker::new(), doorway: None, cores: None }
    }

    /// Accepts connections until told to stop; where there is no room, one at a time waits for it, and the
    /// others in the kernel.
    pub(super) async fn accept(self, listener: TcpListener, app: impl App, http: Http) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = http.stop.cancelled() => break,
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
            let Some(guest) = self.receive(peer.ip()) else { continue };
            let place = tokio::select! {
                place = self.room.enter(|count| self.count_evicted(count)) => Some(place),
                () = last_call(&http) => None,
            };
            let Some(place) = place else { break };
            self.begin(stream, app.clone(), http.clone(), (place, guest));
        }
        if http.handed.is_cancelled() {
            return;
        }
        // What the kernel has accepted for us would be reset.
        let Ok(listener) = listener.into_std() else { return };
        while let Some(place) = self.room.try_enter() {
            let Some((stream, from)) = accepted_before(&listener) else { return };
            if let Some(guest) = self.receive(from) {
                self.begin(stream, app.clone(), http.clone(), (place, guest));
            }
        }
    }

    /// Lets in one more from an address, unless it has its part: then that the connection is closed is
    /// all the answer that a flood gets.
    fn receive(&self, from: IpAddr) -> Option<Guest> {
        let guest = self.peers.enter(from);
        if let (None, Some(metrics)) = (&guest, &self.metrics) {
            metrics.server.connections_refused.inc();
        }
        guest
    }

    fn count_evicted(&self, count: usize) {
        if let Some(metrics) = &self.metrics {
            let count = u64::try_from(count).unwrap_or(u64::MAX);
            metrics.server.connections_evicted.inc_by(count);
        }
    }

    fn begin(&self, stream: TcpStream, app: impl App, http: Http, (place, guest): (Place, Guest)) {
        let seat = self.cores.as_ref().and_then(Cores::seat);
        let runtime = seat.as_ref().map(|seat| seat.runtime().clone());
        let arrived = match seat {
            None => Arrived::Here(stream),
            Some(seat) => match stream.into_std() {
                Ok(stream) => Arrived::There(stream, seat),
                Err(error) => return tracing::debug!(%error, "connection not passed on"),
            },
        };
        // Before it is a task of its own: whoever counts sees it from now on.
        let fresh = Fresh::new(&http);
        let connections = self.clone();
        let serving = async move {
            // Made in here: what is awaited would be in this future twice if it was moved into it.
            connections.serve(arrived, app, (http, fresh), place).await;
            drop(guest);
        };
        match runtime {
            None => self.tasks.spawn(serving),
            Some(runtime) => self.tasks.spawn_on(serving, &runtime),
        };
    }

    /// Serves one to its end, or until its place is needed.
    async fn serve(
        self,
        arrived: Arrived,
        app: impl App,
        (http, fresh): (Http, Fresh),
        place: Place,
    ) {
        let (stream, _seat) = match arrived {
            Arrived::Here(stream) => (stream, None),
            Arrived::There(stream, seat) => match TcpStream::from_std(stream) {
                Ok(stream) => (stream, Some(seat)),
                Err(error) => return tracing::warn!(%error, "no connection served"),
            },
        };
        if let Some(metrics) = &self.metrics {
            metrics.connections_total.inc();
            metrics.connections.inc();
        }
        // A peer that has gone already is found out by the first read.
        let _ = stream.set_nodelay(true);
        let occupant = Arc::clone(place.occupant());
        let serving = async {
            let Some(doorway) = &self.doorway else {
                return serve(stream, app, http, (occupant, fresh)).await;
            };
            let entered = doorway.enter(stream, http.header_timeout, last_call(&http)).await;
            if let Some(stream) = entered {
                Box::pin(serve(stream, app, http, (occupant, fresh))).await;
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

/// Waits until whoever has not said anything by now has nothing to say.
async fn last_call(http: &Http) {
    http.stop.cancelled().await;
    // Cut short, since nobody waits for whoever is to be cut.
    let _ = timeout(http.last_call, http.abort.cancelled()).await;
}

/// A connection that the kernel has accepted already, if there is one.
fn accepted_before(listener: &std::net::TcpListener) -> Option<(TcpStream, IpAddr)> {
    let (stream, from) = listener.accept().ok()?;
    stream.set_nonblocking(true).ok()?;
    Some((TcpStream::from_std(stream).ok()?, from.ip()))
}

#[cfg(test)]
mod tests;
