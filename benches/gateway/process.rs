//! Child processes, and what the kernel knows about them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::Instant;

use crate::{Failure, Result, http};

/// Files of a process beside its measured connections: runtime, logs, listeners, upstream.
pub(crate) const SPARE_FILES: u64 = 500;

/// The kernel counts CPU in `USER_HZ` units, 100 a second on every architecture this builds for.
const TICKS_PER_SECOND: f64 = 100.0;

/// How long a child may take to start, and a state that is on its way to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A role of this program; killed when dropped.
pub(crate) struct Role {
    child: Child,
    orders: Option<ChildStdin>,
    says: BufReader<ChildStdout>,
}

impl Role {
    pub(crate) fn start(arguments: &[String]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take();
        let says = BufReader::new(child.stdout.take().ok_or("no pipe to the role")?);
        Ok(Self { child, orders, says })
    }

    /// Starts a role that serves, and gives where.
    pub(crate) fn serve(arguments: &[String]) -> Result<(Self, SocketAddr)> {
        let mut role = Self::start(arguments)?;
        let address = role.line()?.parse()?;
        Ok((role, address))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line the role says; an error if it ended instead.
    pub(crate) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.says.read_line(&mut line)? == 0 {
            return Err(format!("a role ended early: {}", self.child.wait()?).into());
        }
        Ok(line.trim_end().to_owned())
    }

    pub(crate) fn go(&mut self) -> Result {
        Ok(writeln!(self.orders.as_mut().ok_or("the role was told to end")?, "go")?)
    }

    /// Tells the role to end, and gives the last line it says.
    pub(crate) fn end(mut self) -> Result<String> {
        self.orders = None;
        self.line()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // It may have ended by itself; either way nothing is left behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The gateway under test; killed when dropped.
pub(crate) struct Gateway {
    child: Child,
    pub(crate) listen: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Gateway {
    /// Starts `tidegate serve` in `dir` with the limits given in TOML, and waits until it is ready.
    pub(crate) fn start(dir: &Path, upstream: SocketAddr, limits: &str) -> Result<Self> {
        let (listen, admin) = free_ports()?;
        let config = dir.join("tidegate.toml");
        fs::write(&config, configuration(listen, admin, upstream, limits))?;
        let log = File::create(dir.join("tidegate.log"))?;
        // Nothing of the caller's environment may change what is measured.
        let child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args([
                "serve".as_ref(),
                "--stateless".as_ref(),
                "--config".as_ref(),
                config.as_os_str(),
            ])
            .env_clear()
            .env("HOME", dir)
            .env("XDG_STATE_HOME", dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut gateway = Self { child, listen, admin };
        let ready = wait_for(|| {
            if let Some(status) = gateway.child.try_wait()? {
                return Err(format!("tidegate ended before it was ready: {status}").into());
            }
            Ok(matches!(http::get(admin, "/readyz"), Ok((200, _))))
        });
        match ready {
            Ok(true) => Ok(gateway),
            Ok(false) => Err(gateway.failure(dir, "tidegate did not get ready")),
            Err(error) => Err(gateway.failure(dir, &error.to_string())),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// A gauge, summed over its labels; zero until the gateway has something to report.
    pub(crate) fn gauge(&self, name: &str) -> Result<f64> {
        let (_, page) = http::get(self.admin, "/metrics")?;
        Ok(http::metric(&page, name).unwrap_or(0.0))
    }

    fn failure(&self, dir: &Path, what: &str) -> Failure {
        let log = fs::read_to_string(dir.join("tidegate.log")).unwrap_or_default();
        let log: Vec<&str> = log.lines().take(20).collect();
        format!("{what} (process {}):\n{}", self.id(), log.join("\n")).into()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // As for a role.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(
    listen: SocketAddr,
    admin: SocketAddr,
    upstream: SocketAddr,
    limits: &str,
) -> String {
    format!(
        r#"[server]
listen = "{listen}"
admin = "{admin}"
max_connections = 30_000
[upstream]
base_url = "http://{upstream}"
[admission]
max_queued = 30_000
max_queued_bytes = "2GiB"
max_queued_per_tenant = 30_000
max_queued_bytes_per_tenant = "2GiB"
max_wait = "24h"
[log]
requests = true
[models."*"]
output_reservation = {{ default = 16_384 }}
limits = [{limits}]
"#
    )
}

/// Two ports nobody listens on; both are held until both are known, so that they differ.
fn free_ports() -> Result<(SocketAddr, SocketAddr)> {
    let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let second = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok((first.local_addr()?, second.local_addr()?))
}

/// Asks again and again until it is so; `false` when patience ends first.
pub(crate) fn wait_for(mut is_so: impl FnMut() -> Result<bool>) -> Result<bool> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if is_so()? {
            return Ok(true);
        }
        // It is another process that has to get there, and it tells nobody when it has.
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(false)
}

/// CPU seconds, user and system, that all threads of a process have used.
pub(crate) fn cpu_seconds(id: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The second field is the program's name and may contain anything, even `)`.
    let (_, fields) = stat.rsplit_once(')').ok_or("a process without a name")?;
    // `utime` and `stime` are fields 14 and 15; the first one here is field 3.
    let mut times = fields.split_ascii_whitespace().skip(11).map(str::parse::<u64>);
    let mut next = || times.next().ok_or("a process without CPU times");
    let ticks = next()?? + next()??;
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// Bytes of memory that a process has resident.
pub(crate) fn resident_bytes(id: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kibibytes.ok_or("a process without memory")?.parse::<f64>()? * 1_024.0)
}

/// Raises the limit of open files, which children inherit, as far as `wanted` or permitted.
pub(crate) fn raise_file_limit(wanted: u64) -> Result<u64> {
    let now = getrlimit(Resource::Nofile);
    let hard = now.maximum.unwrap_or(u64::MAX);
    let wanted = wanted.max(now.current.unwrap_or(u64::MAX));
    // Only a privileged process may raise the hard limit; what is there is used otherwise.
    let raised = Rlimit { current: Some(wanted), maximum: Some(hard.max(wanted)) };
    let fallback = Rlimit { current: Some(hard.min(wanted)), maximum: now.maximum };
    setrlimit(Resource::Nofile, raised).or_else(|_| setrlimit(Resource::Nofile, fallback))?;
    Ok(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
}
