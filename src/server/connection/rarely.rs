//! A future that is polled only when it has been woken itself.
//!
//! A task is woken for any of the futures in it, and polls them all. Here one of them, the connection,
//! has something to do at each wake, and the others next to never.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// The future.
#[derive(Debug)]
pub(super) struct Rarely<F> {
    future: F,
    bell: Arc<Bell>,
    waker: Waker,
    /// The task that is woken for it.
    task: Option<Waker>,
}

#[derive(Debug)]
struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl<F> Rarely<F> {
    pub(super) fn new(future: F) -> Self {
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: AtomicWaker::new() });
        let waker = Waker::from(Arc::clone(&bell));
        Self { future, bell, waker, task: None }
    }
}

impl<F: Future + Unpin> Future for Rarely<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Self { future, bell, waker, task } = &mut *self;
        let known = task.as_ref().is_some_and(|task| task.will_wake(context.waker()));
        if known && !bell.rung.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        // Whoever rings takes it away, so it is put back whenever it may have been rung.
        bell.task.register(context.waker());
        *task = Some(context.waker().clone());
        if !bell.rung.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        Pin::new(future).poll(&mut Context::from_waker(waker))
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;

    use futures_util::task::noop_waker_ref;
    use tokio::sync::oneshot;

    use super::*;

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn it_is_polled_once_for_each_time_it_is_woken() {
        let (mut polls, mut own) = (0, None);
        let mut rarely = Rarely::new(poll_fn(|context| {
            polls += 1;
            own = Some(context.waker().clone());
            Poll::<()>::Pending
        }));
        let task = Arc::new(Task::default());
        let waker = Waker::from(Arc::clone(&task));
        let mut context = Context::from_waker(&waker);
        let mut wakes = Vec::new();
        for _ in 0..3 {
            for _ in 0..3 {
                assert!(Pin::new(&mut rarely).poll(&mut context).is_pending());
            }
            wakes.push(task.0.load(Ordering::SeqCst));
            rarely.waker.wake_by_ref();
        }
        assert_eq!(wakes, [0, 1, 2], "each wake reaches the task");
        drop(rarely);
        assert_eq!(polls, 3);
        assert!(own.is_some());
    }

    #[test]
    fn a_task_that_takes_over_is_woken_in_the_others_place() {
        let mut rarely = Rarely::new(poll_fn(|_| Poll::<()>::Pending));
        let mut nobody = Context::from_waker(noop_waker_ref());
        assert!(Pin::new(&mut rarely).poll(&mut nobody).is_pending());
        let task = Arc::new(Task::default());
        let waker = Waker::from(Arc::clone(&task));
        assert!(Pin::new(&mut rarely).poll(&mut Context::from_waker(&waker)).is_pending());
        rarely.waker.wake_by_ref();
        assert_eq!(task.0.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_is_lost_whatever_thread_it_comes_from() {
        for _ in 0..2_000 {
            let (sender, receiver) = oneshot::channel();
            let waiting = tokio::spawn(Rarely::new(receiver));
            tokio::spawn(async move { sender.send(7) });
            assert_eq!(waiting.await.unwrap(), Ok(7));
        }
    }
}
