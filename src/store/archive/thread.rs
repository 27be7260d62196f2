//! The thread that has the database: does what has gathered in one transaction, then answers.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::Lock;

/// Tasks that may wait for the thread; whoever has another one waits for room.
const MOST_WAITING: usize = 1_024;

/// Tasks in one commit: few enough that the first of them is not kept waiting for long.
const MOST_AT_ONCE: usize = 256;

/// The archive did not do what it was asked to, and has not changed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the archive of files and batches: {0}")]
pub struct Trouble(Arc<str>);

impl Trouble {
    pub(super) fn new(problem: String) -> Self {
        Self(problem.into())
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(problem: rusqlite::Error) -> Self {
        Self(problem.to_string().into())
    }
}

/// Something to do in a transaction.
trait Task: Send {
    /// Does it.
    fn act(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    /// Answers, now that it has been committed or not.
    fn answer(self: Box<Self>, committed: Result<(), Trouble>);
    /// Whether the thread ends after this one.
    fn is_last(&self) -> bool {
        false
    }
}

/// A task that was done, and how that went.
type Acted = (Box<dyn Task>, Result<(), Trouble>);

/// Asks the thread to end.
struct Last;

impl Task for Last {
    fn act(&mut self, _: &Connection) -> rusqlite::Result<()> {
        Ok(())
    }

    fn answer(self: Box<Self>, _: Result<(), Trouble>) {}

    fn is_last(&self) -> bool {
        true
    }
}

struct Call<F, T> {
    work: Option<F>,
    result: Option<T>,
    reply: oneshot::Sender<Result<T, Trouble>>,
}

impl<F, T> Task for Call<F, T>
where
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn act(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let Some(work) = self.work.take() else { return Ok(()) };
        self.result = Some(work(connection)?);
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<(), Trouble>) {
        let missing = || Trouble("a task was not done".into());
        let Self { result, reply, .. } = *self;
        // Whoever asked may have gone.
        let _ = reply.send(committed.and_then(|()| result.ok_or_else(missing)));
    }
}

/// The handle of the thread.
#[derive(Clone)]
pub(super) struct Thread {
    tasks: mpsc::Sender<Box<dyn Task>>,
    ended: Arc<Mutex<Option<oneshot::Receiver<()>>>>,
}

impl std::fmt::Debug for Thread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Thread").finish_non_exhaustive()
    }
}

impl Thread {
    /// Starts the thread; the lock is let go when it ends.
    pub(super) fn start(connection: Connection, lock: Lock) -> io::Result<Self> {
        let (tasks, waiting) = mpsc::channel(MOST_WAITING);
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new().name("tidegate-archive".to_owned()).spawn(move || {
            work(connection, waiting);
            drop(lock);
            let _ = end.send(());
        })?;
        Ok(Self { tasks, ended: Arc::new(Mutex::new(Some(ended))) })
    }

    /// Has `work` done in a transaction; what it gives is handed on when that is committed.
    pub(super) async fn call<T, F>(&self, work: F) -> Result<T, Trouble>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let task = Box::new(Call { work: Some(work), result: None, reply });
        let gone = || Trouble("its thread has ended".into());
        self.tasks.send(task).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Has the thread end when it has done what it was asked before, and waits for that.
    pub(super) async fn close(&self) {
        // If it has ended already, nobody takes it.
        let _ = self.tasks.send(Box::new(Last)).await;
        let ended = self.ended.lock().take();
        if let Some(ended) = ended {
            let _ = ended.await;
        }
    }
}

fn work(mut connection: Connection, mut waiting: mpsc::Receiver<Box<dyn Task>>) {
    let mut tasks = Vec::new();
    let mut last = false;
    while !last && waiting.blocking_recv_many(&mut tasks, MOST_AT_ONCE) > 0 {
        last = tasks.iter().any(|task| task.is_last());
        let mut answers: Vec<Acted> = Vec::new();
        let done = commit(&mut connection, tasks.drain(..), &mut answers);
        if let Err(problem) = &done {
            tracing::error!(%problem, "files and batches cannot be written");
        }
        for (task, result) in answers {
            task.answer(done.clone().and(result));
        }
    }
    if let Err((_, problem)) = connection.close() {
        tracing::error!(%problem, "the archive of files and batches was not closed");
    }
}

fn commit(
    connection: &mut Connection,
    tasks: impl Iterator<Item = Box<dyn Task>>,
    answers: &mut Vec<Acted>,
) -> Result<(), Trouble> {
    let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
    let mut transaction = match begun {
        Ok(transaction) => transaction,
        Err(problem) => {
            answers.extend(tasks.map(|task| (task, Ok(()))));
            return Err(problem.into());
        }
    };
    for mut task in tasks {
        // What one task did before it failed goes, what the others did stays.
        let result = transaction.savepoint().and_then(|point| {
            task.act(&point)?;
            point.commit()
        });
        answers.push((task, result.map_err(Trouble::from)));
    }
    Ok(transaction.commit()?)
}
