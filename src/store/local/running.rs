//! The store at work: its thread, and the desk at which others ask it for something.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::keeper::Keeper;
use super::waker::Order;
use super::{Local, Source, Waker};
use crate::metrics::StoreMetrics;

/// How long a start waits for the first commit, which says that the state is this process's now.
const FIRST_COMMIT: Duration = Duration::from_secs(5);

/// Instructions of SQLite's between two looks at the clock: some tens of microseconds.
const LOOK_EVERY: i32 = 10_000;

/// The store's thread; when it is dropped, the thread ends without saying that all is in order.
#[derive(Debug)]
pub struct Running {
    desk: Desk,
    thread: Option<JoinHandle<()>>,
}

/// Where others ask the store for something.
#[derive(Clone)]
pub struct Desk {
    waker: Waker,
    file: Arc<Path>,
    reader: Arc<Mutex<Reader>>,
}

/// A connection of the desk's own.
#[derive(Default)]
enum Reader {
    /// Opened when it is first asked for.
    #[default]
    Closed,
    Open(Connection),
    /// The store has ended: whoever opens its database now keeps the log from being folded in.
    Gone,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Local {
    /// Starts the thread, and waits until it has committed what the source has at the beginning; if it
    /// cannot, that shows in the metrics, and it goes on trying.
    ///
    /// # Errors
    ///
    /// If the system has no thread left.
    pub fn start(self, source: Box<dyn Source>, metrics: Arc<StoreMetrics>) -> io::Result<Running> {
        let waker = self.waker();
        let desk = Desk { waker, file: self.file.as_path().into(), reader: Arc::default() };
        let keeper = Keeper::new(self, source, metrics);
        // So that the source's clock is the one that everything else goes by, also where it is paused.
        let runtime = Handle::try_current().ok();
        let work = move || {
            let _entered = runtime.as_ref().map(Handle::enter);
            keeper.run();
        };
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(work)?;
        let _ = desk.ask_flush().recv_timeout(FIRST_COMMIT);
        Ok(Running { desk, thread: Some(thread) })
    }
}

impl Running {
    /// Where others ask for something.
    pub const fn desk(&self) -> &Desk {
        &self.desk
    }

    /// Commits what there is and says that it is all; waits for that, but not longer than `patience`.
    /// Whether it went well.
    pub async fn stop(mut self, patience: Duration) -> bool {
        // If it has ended by itself, nobody would answer.
        if self.thread.take().is_none_or(|thread| thread.is_finished()) {
            return false;
        }
        // The last connection that closes folds the log into the database. A look that is under way
        // ends within a patience of its own.
        let reader = Arc::clone(&self.desk.reader);
        let closing = tokio::task::spawn_blocking(move || *reader.lock() = Reader::Gone);
        let _ = tokio::time::timeout(patience, closing).await;
        let (answer, answered) = sync_channel(1);
        self.desk.waker.order(Order::Stop(answer));
        wait(answered, patience).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.desk.waker.order(Order::Abandon);
        }
    }
}

impl Desk {
    /// Commits what there is now; `false` if that cannot be done within `patience`.
    pub async fn flush(&self, patience: Duration) -> bool {
        wait(self.ask_flush(), patience).await
    }

    fn ask_flush(&self) -> Receiver<bool> {
        let (answer, answered) = sync_channel(1);
        self.waker.order(Order::Flush(answer));
        answered
    }

    /// Looks into the database, for so long at the most; one at a time. It sees what was committed.
    ///
    /// # Errors
    ///
    /// What SQLite says; that it was interrupted if the time was not enough or the store has ended.
    pub fn look<T>(
        &self,
        patience: Duration,
        look: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let mut reader = self.reader.lock();
        if matches!(*reader, Reader::Closed) {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            *reader = Reader::Open(Connection::open_with_flags(&self.file, flags)?);
        }
        let Reader::Open(connection) = &mut *reader else {
            let gone = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_INTERRUPT);
            let why = "the store has ended".to_owned();
            return Err(rusqlite::Error::SqliteFailure(gone, Some(why)));
        };
        let until = Instant::now() + patience;
        connection.progress_handler(LOOK_EVERY, Some(move || Instant::now() > until))?;
        look(connection)
    }
}

/// Waits for an answer where that holds nobody up. By the system's clock: a disk knows no other.
async fn wait(answered: Receiver<bool>, patience: Duration) -> bool {
    let waited = tokio::task::spawn_blocking(move || answered.recv_timeout(patience));
    matches!(waited.await, Ok(Ok(true)))
}
