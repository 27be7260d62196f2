//! Connections to the server: a single one, Sentinel's master, or a cluster.

use std::time::Duration;

use redis::aio::{AsyncPushSender, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind,
    IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, RedisError, RedisResult,
    TlsCertificates, Value,
};

use crate::config::{Servers, Topology};

/// Time for a connection with name resolution, TLS and login; no request waits for it.
pub(super) const CONNECT: Duration = Duration::from_secs(2);

/// A connection on which any number of calls are under way.
#[derive(Clone)]
pub(super) enum Link {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Link {
    /// Connects, and hands what the server pushes to `push`.
    pub(super) async fn connect(
        servers: &Servers,
        push: impl AsyncPushSender,
    ) -> RedisResult<Self> {
        let master = match &servers.topology {
            Topology::Single => servers.hosts.first().cloned(),
            Topology::Sentinel(service) => Some(master(servers, service).await?),
            Topology::Cluster => None,
        };
        let Some(host) = master else { return cluster(servers, push).await };
        let info = info(servers, host)?.set_redis_settings(login(servers));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(None)
            .set_push_sender(push);
        let client = client(servers, info)?;
        let link = client.get_multiplexed_async_connection_with_config(&config).await?;
        let mut link = Self::Single(link);
        if servers.topology != Topology::Single {
            // Sentinels may not have noticed yet.
            is_master(&mut link).await?;
        }
        Ok(link)
    }

    /// Makes a call. Dropping it does not take it back.
    pub(super) async fn call(&mut self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Single(link) => command.query_async(link).await,
            Self::Cluster(link) => command.query_async(link).await,
        }
    }

    /// Has what is published on `channel` pushed.
    pub(super) async fn subscribe(&mut self, channel: &str) -> RedisResult<()> {
        match self {
            Self::Single(link) => link.subscribe(channel).await,
            Self::Cluster(link) => link.subscribe(channel).await,
        }
    }

    /// Undoes [`Self::subscribe`].
    pub(super) async fn unsubscribe(&mut self, channel: &str) -> RedisResult<()> {
        match self {
            Self::Single(link) => link.unsubscribe(channel).await,
            Self::Cluster(link) => link.unsubscribe(channel).await,
        }
    }
}

/// Whether what `error` says is that this server takes no writes, but another may.
pub(super) fn is_demoted(error: &RedisError) -> bool {
    matches!(error.code(), Some("READONLY" | "MASTERDOWN"))
        || error.detail().is_some_and(|it| it.contains("READONLY"))
}

fn login(servers: &Servers) -> RedisConnectionInfo {
    // With RESP3, pushes come on the connection of the calls, in the order in which they were made.
    let mut login = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP3)
        .set_db(servers.database)
        .set_skip_set_lib_name();
    if let Some(user) = &servers.user {
        login = login.set_username(user);
    }
    if let Some(password) = &servers.password {
        login = login.set_password(password.expose());
    }
    login
}

fn info(servers: &Servers, (host, port): (String, u16)) -> RedisResult<ConnectionInfo> {
    let address = if servers.tls {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    };
    address.into_connection_info()
}

fn certificates(servers: &Servers) -> Option<TlsCertificates> {
    let root_cert = servers.ca.clone()?;
    Some(TlsCertificates { client_tls: None, root_cert: Some(root_cert) })
}

fn client(servers: &Servers, info: ConnectionInfo) -> RedisResult<Client> {
    match certificates(servers) {
        Some(certificates) => Client::build_with_tls(info, certificates),
        None => Client::open(info),
    }
}

async fn cluster(servers: &Servers, push: impl AsyncPushSender) -> RedisResult<Link> {
    let nodes: RedisResult<Vec<_>> =
        servers.hosts.iter().map(|host| info(servers, host.clone())).collect();
    // Calls have a deadline of their own; one more try follows a slot that has moved.
    let mut builder = ClusterClient::builder(nodes?)
        .use_protocol(ProtocolVersion::RESP3)
        .retries(2)
        .min_retry_wait(5)
        .max_retry_wait(20)
        .connection_timeout(CONNECT)
        .push_sender(push);
    if let Some(user) = &servers.user {
        builder = builder.username(user);
    }
    if let Some(password) = &servers.password {
        builder = builder.password(password.expose());
    }
    if let Some(certificates) = certificates(servers) {
        builder = builder.certs(certificates);
    }
    builder.build()?.get_async_connection().await.map(Link::Cluster)
}

/// Asks one sentinel after another.
async fn master(servers: &Servers, service: &str) -> RedisResult<(String, u16)> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT / 4))
        .set_response_timeout(Some(CONNECT / 4));
    let mut last =
        RedisError::from((ErrorKind::MasterNameNotFoundBySentinel, "no sentinel answers"));
    for host in &servers.hosts {
        let asked = async {
            let client = client(servers, info(servers, host.clone())?)?;
            let mut link = client.get_multiplexed_async_connection_with_config(&config).await?;
            let mut question = redis::cmd("SENTINEL");
            question.arg("get-master-addr-by-name").arg(service);
            question.query_async::<Option<(String, u16)>>(&mut link).await
        };
        match asked.await {
            Ok(Some(master)) => return Ok(master),
            Ok(None) => {
                last = (ErrorKind::MasterNameNotFoundBySentinel, "no such service").into();
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn is_master(link: &mut Link) -> RedisResult<()> {
    let role = link.call(&redis::cmd("ROLE")).await?;
    let name = match role {
        Value::Array(values) => values.into_iter().next(),
        _ => None,
    };
    match name {
        Some(Value::BulkString(name)) if name == b"master" => Ok(()),
        _ => Err((ErrorKind::MasterNameNotFoundBySentinel, "not the master").into()),
    }
}
