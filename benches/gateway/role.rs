//! How a child process lives: it announces itself on standard output, takes orders on standard
//! input, and ends when that closes, so that no role outlives the orchestrator.

use std::io::{BufRead, Write};

use tokio::sync::mpsc;

use crate::Result;

/// Lines from the orchestrator; `recv` returns `None` once it is gone or wants the role to end.
pub(crate) type Orders = mpsc::UnboundedReceiver<String>;

/// Runs a role on the runtime a Tokio program gets by default, like the gateway itself.
pub(crate) fn run<F>(role: impl FnOnce(Orders) -> F) -> Result
where
    F: Future<Output = Result>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(role(orders()));
    runtime.shutdown_background();
    result
}

/// Reads the orders on a thread of its own: Tokio's standard input would keep the runtime alive.
pub(crate) fn orders() -> Orders {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(std::io::Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Says one line to the orchestrator, at once.
pub(crate) fn say(line: &str) -> Result {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    Ok(stdout.flush()?)
}

/// Waits until the orchestrator closes the role's standard input.
pub(crate) async fn ended(mut orders: Orders) {
    while orders.recv().await.is_some() {}
}
