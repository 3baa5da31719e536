//! Tasks that go on where what they waited for was done.
//!
//! A thread that has done a request's work has its connection answer there and then. Woken as usual,
//! the connection would go on on a thread of the runtime's, which would have to be woken for it.

use std::cell::Cell;

use async_task::{Runnable, Task};
use tokio::runtime::Handle;

thread_local! {
    static WOKEN: Cell<Woken> = const { Cell::new(Woken::Elsewhere) };
}

/// Where a task goes that this thread wakes.
#[derive(Default)]
enum Woken {
    /// To the runtime.
    #[default]
    Elsewhere,
    /// To this thread, if it is the first one.
    Here(Option<Runnable>),
}

/// Starts a task on this task's runtime. Dropped, what this gives ends it.
pub(super) fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> Task<T> {
    let runtime = Handle::current();
    let (runnable, task) = async_task::spawn(task, move |woken| {
        if let Some(woken) = keep(woken) {
            runtime.spawn(async { woken.run() });
        }
    });
    runnable.schedule();
    task
}

/// Keeps a task for this thread, or gives it back.
fn keep(woken: Runnable) -> Option<Runnable> {
    let mut woken = Some(woken);
    // Threads that end wake tasks too.
    let _ = WOKEN.try_with(|place| {
        let kept = match place.take() {
            Woken::Here(None) => Woken::Here(woken.take()),
            kept => kept,
        };
        place.set(kept);
    });
    woken
}

/// Wakes a task and polls it here once, in a runtime's context. To be called by a thread that holds
/// nothing that others wait for. Whatever that poll wakes is the runtime's: this thread may have other
/// work by then, or be kept by closing a file.
pub(super) fn here(wake: impl FnOnce()) {
    let _place = Place::open();
    wake();
    // Taken, it is closed.
    if let Woken::Here(Some(woken)) = WOKEN.take() {
        woken.run();
    }
}

/// This thread takes a task that it wakes for as long as this is there, or it is closed.
struct Place;

impl Place {
    fn open() -> Self {
        WOKEN.set(Woken::Here(None));
        Self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Woken::Here(Some(left)) = WOKEN.take() {
            left.schedule();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Poll;
    use std::thread::{self, ThreadId};

    use async_task::Task;
    use tokio::sync::oneshot;

    use super::{here, spawn};

    type Word = oneshot::Sender<()>;

    fn say(word: Word) {
        word.send(()).expect("a listener");
    }

    /// A task that waits for a word, and then gives the thread on which it went on.
    async fn waiting() -> (Word, Task<ThreadId>) {
        waiting_for(async { thread::current().id() }).await
    }

    async fn waiting_for<T: Send + 'static>(
        then: impl Future<Output = T> + Send + 'static,
    ) -> (Word, Task<T>) {
        let (word, mut heard) = oneshot::channel();
        let (waits, is_waiting) = oneshot::channel();
        let mut waits = Some(waits);
        let task = spawn(async move {
            let hears = poll_fn(|cx| {
                let hears = Pin::new(&mut heard).poll(cx);
                _ = waits.take().map(say);
                hears
            });
            hears.await.expect("a word");
            then.await
        });
        is_waiting.await.expect("it begins");
        (word, task)
    }

    /// What another thread does.
    fn elsewhere<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| scope.spawn(work).join().expect("no panic"))
    }

    #[tokio::test]
    async fn a_task_goes_on_where_it_is_woken() {
        let (word, task) = waiting().await;
        let thread = elsewhere(|| {
            here(|| say(word));
            assert!(task.is_finished(), "it was polled");
            thread::current().id()
        });
        assert_eq!(task.await, thread);
    }

    /// A thread that does something else next, which may keep it, has no task wait for that.
    #[tokio::test]
    async fn otherwise_it_is_the_runtimes() {
        let (first, kept) = waiting().await;
        let (second, other) = waiting().await;
        let (third, later) = waiting().await;
        elsewhere(|| {
            here(|| [first, second].into_iter().for_each(say));
            say(third);
            assert!(kept.is_finished() && !other.is_finished() && !later.is_finished());
        });
        let runtime = thread::current().id();
        assert_eq!((other.await, later.await), (runtime, runtime));
    }

    /// It doesn't keep the thread, however often it wakes itself.
    #[tokio::test]
    async fn a_task_that_wakes_itself_goes_back() {
        let polls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&polls);
        let (word, task) = waiting_for(poll_fn(move |cx| {
            if counted.fetch_add(1, Ordering::Relaxed) == 2 {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }))
        .await;
        elsewhere(|| here(|| say(word)));
        assert_eq!(polls.load(Ordering::Relaxed), 1);
        task.await;
    }

    /// Of one that panics nothing stays on the thread, and whoever waits for it is told.
    #[tokio::test]
    async fn a_panic_leaves_the_thread_as_it_was() {
        let (word, task) = waiting_for(async { resume_unwind(Box::new("on purpose")) }).await;
        let (next, later) = waiting().await;
        elsewhere(|| {
            let polled = catch_unwind(AssertUnwindSafe(|| here(|| say(word))));
            polled.expect_err("it panicked here");
            say(next);
            assert!(!later.is_finished());
        });
        assert_eq!(later.await, thread::current().id());
        let told: Result<(), _> = tokio::spawn(task).await;
        told.expect_err("a panic");
    }

    #[tokio::test]
    async fn dropped_it_ends() {
        let (mut word, task) = waiting().await;
        drop(task);
        word.closed().await;
    }
}
