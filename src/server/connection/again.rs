//! A future that is polled again at once when it has woken itself.
//!
//! hyper wakes a connection's own task when the handler asks for the body that came with the head. Left
//! to the scheduler, such a task goes to the end of its queue, and another thread is woken that might
//! take it from there: two switches of context for each request that comes alone.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// Polls in a row, before the others on the thread have their turn.
const MOST: u32 = 4;

/// Nobody polls it: to wake it is to wake its task.
const IDLE: u8 = 0;
/// It is being polled.
const POLLED: u8 = 1;
/// It was woken meanwhile.
const WOKEN: u8 = 2;

/// The future.
#[derive(Debug)]
pub(super) struct Again<F> {
    future: F,
    relay: Arc<Relay>,
    waker: Waker,
}

#[derive(Debug, Default)]
struct Relay {
    state: AtomicU8,
    task: AtomicWaker,
}

impl<F> Again<F> {
    pub(super) fn new(future: F) -> Self {
        let relay = Arc::new(Relay::default());
        let waker = Waker::from(Arc::clone(&relay));
        Self { future, relay, waker }
    }

    /// The future itself.
    pub(super) const fn inner(&mut self) -> &mut F {
        &mut self.future
    }
}

impl<F: Future + Unpin> Future for Again<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Self { future, relay, waker } = &mut *self;
        // Before it can count as idle: whoever wakes it then looks here.
        relay.task.register(context.waker());
        for _ in 0..MOST {
            relay.state.store(POLLED, Ordering::Release);
            let polled = Pin::new(&mut *future).poll(&mut Context::from_waker(waker));
            let (from, to) = (POLLED, IDLE);
            let rests =
                relay.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok();
            if rests || polled.is_ready() {
                return polled;
            }
        }
        relay.state.store(IDLE, Ordering::Release);
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let (from, to) = (POLLED, WOKEN);
        let noted = self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
        // Who has woken it before has seen to it that it is polled.
        if noted == Err(IDLE) {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;

    use futures_util::task::noop_waker_ref;
    use tokio::sync::oneshot;

    use super::*;

    /// A task that counts how often it is woken.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Wakes itself so many times before it is done; how often it was polled is counted.
    fn wakes_itself(times: usize, polls: &Arc<AtomicUsize>) -> impl Future<Output = ()> + Unpin {
        let polls = Arc::clone(polls);
        poll_fn(move |context| {
            if polls.fetch_add(1, Ordering::Relaxed) == times {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
    }

    #[test]
    fn what_wakes_itself_goes_on_at_once_but_not_for_ever() {
        for (times, polled, woken) in [(0, 1, 0), (1, 2, 0), (3, 4, 0), (4, 4, 1), (99, 4, 1)] {
            let (polls, task) = (Arc::default(), Arc::new(Task::default()));
            let mut again = Again::new(wakes_itself(times, &polls));
            let waker = Waker::from(Arc::clone(&task));
            let ready = Pin::new(&mut again).poll(&mut Context::from_waker(&waker)).is_ready();
            assert_eq!(ready, times < 4, "{times}");
            assert_eq!(polls.load(Ordering::Relaxed), polled, "{times}");
            assert_eq!(task.0.load(Ordering::Relaxed), woken, "{times}");
        }
    }

    #[test]
    fn others_wake_the_task_that_polled_it_last() {
        let (sender, receiver) = oneshot::channel();
        let mut again = Again::new(receiver);
        assert!(Pin::new(&mut again).poll(&mut Context::from_waker(noop_waker_ref())).is_pending());
        let task = Arc::new(Task::default());
        let waker = Waker::from(Arc::clone(&task));
        let mut context = Context::from_waker(&waker);
        assert!(Pin::new(&mut again).poll(&mut context).is_pending());
        assert_eq!(task.0.load(Ordering::Relaxed), 0);
        sender.send(()).unwrap();
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
        assert!(Pin::new(&mut again).poll(&mut context).is_ready());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_waking_from_another_thread_is_lost() {
        for _ in 0..20_000 {
            let (sender, receiver) = oneshot::channel();
            let waiting = tokio::spawn(Again::new(receiver));
            sender.send(()).unwrap();
            waiting.await.unwrap().unwrap();
        }
    }
}
