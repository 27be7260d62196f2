//! Real servers on free ports of this machine, and a proxy that makes the way to them bad.

use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Long enough for any machine; a test that meets it has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A port that nobody listens on just now.
pub(super) fn free_port() -> u16 {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// A server process; dropping it kills it.
pub(crate) struct Redis {
    pub(crate) port: u16,
    pub(super) folder: TempDir,
    arguments: Vec<String>,
    child: Child,
}

impl Redis {
    pub(super) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With more arguments, `{dir}` in which stands for its folder.
    pub(crate) async fn with(arguments: &[&str]) -> Self {
        Self::in_folder(TempDir::new().expect("a folder"), arguments).await
    }

    pub(super) async fn in_folder(folder: TempDir, arguments: &[&str]) -> Self {
        let dir = folder.path().display().to_string();
        let arguments: Vec<_> = arguments.iter().map(|it| it.replace("{dir}", &dir)).collect();
        let port = free_port();
        let child = spawn(port, &folder, &arguments);
        let mut redis = Self { port, folder, arguments, child };
        redis.answers().await;
        redis
    }

    /// Waits until its port is open.
    async fn answers(&mut self) {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let open = async {
            while TcpStream::connect(address).await.is_err() {
                assert!(self.child.try_wait().expect("a process").is_none(), "it did not start");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, open).await.expect("it listens");
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Asks it something, past everything under test.
    pub(super) fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let client = redis::Client::open(self.url()).expect("a URL");
        let mut connection = client.get_connection().expect("a connection");
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut connection).expect("an answer")
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it was running");
        self.child.wait().expect("its end");
    }

    /// Starts again on the same port, with what it kept.
    pub(super) async fn restart(&mut self) {
        self.child = spawn(self.port, &self.folder, &self.arguments);
        self.answers().await;
    }

    /// SIGSTOP, or SIGCONT.
    pub(super) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it is there");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(port: u16, folder: &TempDir, arguments: &[String]) -> Child {
    let sentinel = arguments.first().is_some_and(|it| it.ends_with("sentinel.conf"));
    let mut command = Command::new("redis-server");
    if !sentinel {
        command.args(["--save", "", "--bind", "127.0.0.1", "--dir"]).arg(folder.path());
    }
    command.args(arguments);
    if !arguments.iter().any(|it| it == "--port") {
        command.args(["--port", &port.to_string()]);
    }
    let log = std::fs::File::create(folder.path().join("log")).expect("a file");
    command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
    command.spawn().expect("redis-server is installed")
}

/// What a proxy does to what passes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Way {
    /// Where to.
    pub(super) port: u16,
    /// How long each piece is held up, on its way back.
    pub(super) delay: Duration,
    /// Whether the next reply breaks its connection instead of arriving.
    pub(super) lose_reply: bool,
}

/// Passes connections on; dropping it breaks them.
pub(super) struct Proxy {
    pub(super) port: u16,
    pub(super) way: Arc<Mutex<Way>>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    pub(super) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let own = listener.local_addr().expect("an address").port();
        let way = Arc::new(Mutex::new(Way { port, ..Way::default() }));
        let mut tasks = JoinSet::new();
        let shared = Arc::clone(&way);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (near, _) = listener.accept().await.expect("a connection");
                let way = Arc::clone(&shared);
                connections.spawn(async move {
                    let port = way.lock().port;
                    if let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
                        pass(near, far, &way, port).await;
                    }
                });
            }
        });
        Self { port: own, way, _tasks: tasks }
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

/// Until one side ends, or the way leads elsewhere.
async fn pass(near: TcpStream, far: TcpStream, way: &Mutex<Way>, port: u16) {
    near.set_nodelay(true).expect("an option");
    far.set_nodelay(true).expect("an option");
    let (mut near_read, mut near_write) = near.into_split();
    let (mut far_read, mut far_write) = far.into_split();
    let there = async {
        let _ = tokio::io::copy(&mut near_read, &mut far_write).await;
    };
    let back = async {
        let mut piece = vec![0; 64 << 10];
        while let Ok(length @ 1..) = far_read.read(&mut piece).await {
            let Way { delay, lose_reply, .. } = *way.lock();
            if lose_reply {
                way.lock().lose_reply = false;
                return;
            }
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            if near_write.write_all(&piece[..length]).await.is_err() {
                return;
            }
        }
    };
    let elsewhere = async {
        while way.lock().port == port {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = there => {}
        () = back => {}
        () = elsewhere => {}
    }
}
