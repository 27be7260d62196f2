//! How many connections there are from where.
//!
//! # Invariants
//!
//! - Bounded: there is an entry for each address that has a connection, and none for others.
//! - Loopback has no bound of its own: callers on the same machine, or a proxy there, all have the same
//!   address, and whoever is on the machine has nearer ways to do harm.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// Connections by where they come from.
#[derive(Clone, Debug)]
pub(super) struct Peers {
    most: u32,
    /// Whether loopback is an address like others: for tests, which have no other.
    loopback: bool,
    open: Arc<Mutex<HashMap<IpAddr, u32>>>,
}

/// A connection that is counted until this is dropped.
#[derive(Debug)]
pub(super) struct Guest {
    peers: Peers,
    /// `None` where nothing is counted.
    network: Option<IpAddr>,
}

impl Peers {
    /// At most so many from one place.
    pub(super) fn new(most: u32) -> Self {
        Self { most, loopback: false, open: Arc::default() }
    }

    #[cfg(test)]
    pub(super) fn counting_loopback(self) -> Self {
        Self { loopback: true, ..self }
    }

    /// Lets in one more from there, unless there are too many already.
    pub(super) fn enter(&self, from: IpAddr) -> Option<Guest> {
        let network = network(from).or_else(|| self.loopback.then_some(from));
        if let Some(network) = network {
            let mut open = self.open.lock();
            let count = open.entry(network).or_default();
            if *count >= self.most {
                return None;
            }
            *count += 1;
        }
        Some(Guest { peers: self.clone(), network })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let Some(network) = self.network else { return };
        if let Entry::Occupied(mut entry) = self.peers.open.lock().entry(network) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// What counts as one place: an address, of IPv6 the network of 64 bits that one customer has at least.
/// `None` for loopback.
fn network(address: IpAddr) -> Option<IpAddr> {
    match address.to_canonical() {
        address if address.is_loopback() => None,
        IpAddr::V6(address) => {
            let bits = address.to_bits() & !u128::from(u64::MAX);
            Some(IpAddr::V6(bits.into()))
        }
        address => Some(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn one_place_has_its_bound_and_takes_nothing_from_others() {
        let peers = Peers::new(2);
        for (same, other) in [
            (["192.0.2.1", "192.0.2.1", "::ffff:192.0.2.1"], "192.0.2.2"),
            (["2001:db8::1", "2001:db8::ffff:1:2:3", "2001:db8::9"], "2001:db8:0:1::1"),
        ] {
            let first = peers.enter(ip(same[0])).expect("room");
            let second = peers.enter(ip(same[1])).expect("room");
            assert!(peers.enter(ip(same[2])).is_none(), "{same:?}");
            let elsewhere = peers.enter(ip(other)).expect("room of its own");
            drop(first);
            let third = peers.enter(ip(same[2])).expect("one out, one in");
            assert!(peers.enter(ip(same[0])).is_none());
            drop((second, third, elsewhere));
        }
        assert!(peers.open.lock().is_empty(), "nothing is kept of those that have gone");
    }

    #[test]
    fn loopback_is_everybody_on_the_machine() {
        let peers = Peers::new(1);
        let addresses = ["127.0.0.1", "127.0.0.1", "127.8.9.1", "::1", "::1", "::ffff:127.0.0.1"];
        let guests: Vec<_> = addresses.iter().map(|it| peers.enter(ip(it))).collect();
        assert!(guests.iter().all(Option::is_some) && peers.open.lock().is_empty());
    }
}
