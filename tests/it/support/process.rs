//! The program itself: run to its end, or started, asked, signalled and killed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

use super::{ACCOUNT_KEY, client, eventually};

/// The program, with nothing of this one's environment.
pub(crate) fn tidegate(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(args);
    alone(&mut command);
    command
}

/// Takes this program's environment from a command, and its output for this program.
pub(crate) fn alone(command: &mut Command) {
    command.env_clear().env("ACCOUNT_KEY", ACCOUNT_KEY);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
}

/// Exit code, standard output and standard error of a command that ends by itself.
pub(crate) fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("it starts");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

/// A file with this text.
pub(crate) fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("room");
    file
}

pub(crate) fn path(file: &NamedTempFile) -> &str {
    file.path().to_str().expect("text")
}

/// A program that serves; killed when dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) api: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// The line that said so.
    pub(crate) ready: String,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts a command that serves, and waits until it says that it is ready.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("it starts");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let mut addrs = line.split("://").skip(1).filter_map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':')?;
            rest[..end].parse().ok()
        });
        assert!(line.starts_with("tidegate ready: http"), "{line:?}");
        assert!(line.contains("://127.0.0.1:"), "{line:?}");
        let api = addrs.next().expect("the API's address");
        let admin = addrs.last().expect("the admin port's address");
        Self { child, api, admin, ready: line }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it runs");
    }

    /// A page of the admin port, if it answers.
    pub(crate) async fn page(&self, path: &str) -> Option<String> {
        let response = client().get(format!("http://{}{path}", self.admin)).send().await.ok()?;
        response.text().await.ok()
    }

    pub(crate) async fn wait_page(&self, path: &str, part: &str) {
        let seen = async || self.page(path).await?.contains(part).then_some(());
        eventually(&format!("{part} in {path}"), seen).await;
    }

    /// Its exit code and what it wrote to standard error, if that is piped, once it has ended.
    pub(crate) async fn end(mut self) -> (Option<i32>, String) {
        let child = &mut self.child;
        let status = eventually("its end", async || child.try_wait().expect("it is ours")).await;
        let mut text = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut text).expect("text");
        }
        (status.code(), text)
    }

    /// All that it wrote to standard output since it was ready, and to standard error if that is piped,
    /// once it has ended.
    pub(crate) async fn output(mut self) -> (String, String) {
        let mut stdout = self.child.stdout.take().expect("it is piped");
        let (_, stderr) = self.end().await;
        let mut text = String::new();
        stdout.read_to_string(&mut text).expect("text");
        (text, stderr)
    }
}
