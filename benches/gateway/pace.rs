//! Requests at a fixed rate: each has an instant at which it is due, and its latency counts from
//! there, so that an answer that takes long also shows in those that had to wait behind it.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Result;
use crate::load::{Client, Seen, gather};

/// How late a request may be and still be sent: a proxy that cannot keep up would never end.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sends `rate` requests a second for `time`, over the clients in turn.
pub(crate) async fn drive(
    clients: Vec<Client>,
    time: Duration,
    rate: f64,
) -> Result<(Vec<Client>, Seen)> {
    let count = clients.len();
    let mut tasks = JoinSet::new();
    let mut queues = Vec::with_capacity(count);
    for client in clients {
        let (queue, due) = mpsc::unbounded_channel();
        queues.push(queue);
        tasks.spawn(ask(client, due));
    }
    // On a thread of its own, since Tokio's timers are as fine as a millisecond only.
    std::thread::spawn(move || {
        let start = Instant::now();
        for (number, queue) in (0..).zip(queues.iter().cycle()) {
            let at = Duration::from_secs_f64(f64::from(number) / rate);
            if at >= time {
                return;
            }
            std::thread::sleep((start + at).saturating_duration_since(Instant::now()));
            // A client that is gone has failed, and all of the run with it.
            if queue.send(start + at).is_err() {
                return;
            }
        }
    });
    gather(tasks, count).await
}

async fn ask(
    mut client: Client,
    mut due: mpsc::UnboundedReceiver<Instant>,
) -> Result<(Client, Seen)> {
    let mut seen = Seen::default();
    while let Some(due) = due.recv().await {
        if due.elapsed() > PATIENCE {
            seen.unsent += 1;
            continue;
        }
        client.ask(due, &mut seen.events).await?;
        seen.latencies.push(due.elapsed());
    }
    Ok((client, seen))
}
