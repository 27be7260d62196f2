//! Sockets to listen on: bound here, or handed to this process by another.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

use crate::config;

/// Connections that the kernel holds until they are accepted; more than the usual limit of 4,096
/// is cut to it.
const BACKLOG: u32 = 4_096;

/// Listening sockets that somebody has opened for this process.
#[derive(Debug, Default)]
pub struct Sockets {
    api: Option<std::net::TcpListener>,
    admin: Option<std::net::TcpListener>,
}

impl Sockets {
    /// Those that systemd, or whatever speaks its protocol, has opened (`LISTEN_FDS`). They go by their
    /// names (`FileDescriptorName=api` or `admin`); without names the first is the API's and the second the
    /// admin port's. To be called before there are threads.
    ///
    /// # Errors
    ///
    /// If one of them is no listening TCP socket.
    pub fn from_environment() -> io::Result<Self> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut given = listenfd::ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..given.len() {
            sockets.push(given.take_tcp_listener(index)?);
        }
        Ok(Self::named(&names, sockets))
    }

    fn named(names: &str, sockets: Vec<Option<std::net::TcpListener>>) -> Self {
        let names: Vec<&str> = names.split(':').collect();
        let known = names.iter().any(|name| matches!(*name, "api" | "admin"));
        let mut all = Self::default();
        for (index, socket) in sockets.into_iter().enumerate() {
            match (known.then(|| names.get(index).copied().unwrap_or_default()), index) {
                (Some("api"), _) | (None, 0) => all.api = socket,
                (Some("admin"), _) | (None, 1) => all.admin = socket,
                _ => {}
            }
        }
        all
    }

    pub(super) fn taken([api, admin]: [std::net::TcpListener; 2]) -> Self {
        Self { api: Some(api), admin: Some(admin) }
    }

    /// Both sockets: the given ones where they are there, else new ones as configured.
    pub(super) fn bind(self, server: &config::Server) -> io::Result<(TcpListener, TcpListener)> {
        let bind = |given: Option<std::net::TcpListener>, addr| match given {
            None => listen(addr, server.reuse_port),
            Some(socket) => {
                socket.set_nonblocking(true)?;
                TcpListener::from_std(socket)
            }
        };
        Ok((bind(self.api, server.listen)?, bind(self.admin, server.admin)?))
    }

    /// The same without those whose address is not the configured one: another one was, and that is what
    /// is wanted now.
    pub(super) fn where_configured(self, server: &config::Server) -> Self {
        let wanted = |socket: &std::net::TcpListener, addr: SocketAddr| {
            addr.port() == 0 || socket.local_addr().is_ok_and(|it| it == addr)
        };
        Self {
            api: self.api.filter(|it| wanted(it, server.listen)),
            admin: self.admin.filter(|it| wanted(it, server.admin)),
        }
    }
}

fn listen(addr: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let bind = || {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(reuse_port)?;
        socket.bind(addr)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|error| io::Error::new(error.kind(), format!("{addr}: {error}")))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn given_sockets_go_by_their_names_or_else_their_order() {
        for (names, order) in [
            ("api:admin", [Some(0), Some(1)]),
            ("admin:api", [Some(1), Some(0)]),
            ("unknown:unknown", [Some(0), Some(1)]),
            ("", [Some(0), Some(1)]),
            ("admin:other", [None, Some(0)]),
        ] {
            let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
            let sockets = [bind(), bind()];
            let addr = |socket: &TcpListener| socket.local_addr().expect("bound");
            let addrs = sockets.each_ref().map(addr);
            let all = Sockets::named(names, sockets.into_iter().map(Some).collect());
            let seen = [all.api.as_ref().map(addr), all.admin.as_ref().map(addr)];
            assert_eq!(
                seen,
                order.map(|index: Option<usize>| index.map(|it| addrs[it])),
                "{names}"
            );
        }
    }
}
