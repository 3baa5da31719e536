//! Tasks that go on where what they waited for was done.
//!
//! A thread that has done a request's work has its connection answer there and then. Woken as usual,
//! the connection would go on on a thread of the runtime's, which would have to be woken for it. Where
//! several connections are answered together, that is one thread, and woken once.

use std::cell::Cell;
use std::iter;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use async_task::{Runnable, Task};
use tokio::runtime::Handle;

/// How often a home polls a task at once that wakes itself, as for a body that came with its head.
const POLLS: usize = 3;

thread_local! {
    static WOKEN: Cell<Woken> = const { Cell::new(Woken::Elsewhere) };
}

/// Where a task goes that this thread wakes.
#[derive(Default)]
enum Woken {
    /// Home.
    #[default]
    Elsewhere,
    /// To this thread, if it is the first one.
    Here(Option<Runnable>),
    /// With the others to one thread.
    Together(Vec<Runnable>),
}

/// A task that goes on where it is woken, if that thread takes it, and else in whoever awaits this: its
/// home. Dropped, it ends.
pub(super) struct Resumed<T> {
    home: Arc<Home>,
    task: Task<T>,
}

#[derive(Default)]
struct Home(Mutex<Guest>);

/// What is to be polled at home.
enum Guest {
    /// This wakes the home once there is somebody; none while it looks anyway.
    Nobody(Option<Waker>),
    Waiting(Runnable),
    /// Nobody is at home any more.
    Closed,
}

impl Default for Guest {
    fn default() -> Self {
        Self::Nobody(None)
    }
}

impl<T: Send + 'static> Resumed<T> {
    pub(super) fn new(task: impl Future<Output = T> + Send + 'static) -> Self {
        let home = Arc::<Home>::default();
        let to = Arc::clone(&home);
        let (runnable, task) = async_task::spawn(task, move |woken| {
            if let Some(woken) = keep(woken) {
                to.take(woken);
            }
        });
        home.take(runnable);
        Self { home, task }
    }
}

impl<T> Future for Resumed<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let woken = iter::from_fn(|| self.home.next(cx.waker())).take(POLLS);
        // There may be more of it, which nobody is told of.
        if woken.map(Runnable::run).count() == POLLS {
            cx.waker().wake_by_ref();
        }
        Pin::new(&mut self.task).poll(cx)
    }
}

impl<T> Drop for Resumed<T> {
    fn drop(&mut self) {
        let left = mem::replace(&mut *self.home.guest(), Guest::Closed);
        // By now the lock is free.
        drop(left);
    }
}

impl Home {
    fn guest(&self) -> MutexGuard<'_, Guest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, woken: Runnable) {
        let mut guest = self.guest();
        if matches!(*guest, Guest::Closed) {
            // What it has may wake others: dropped once this is free.
            return drop((guest, woken));
        }
        let before = mem::replace(&mut *guest, Guest::Waiting(woken));
        drop(guest);
        if let Guest::Nobody(Some(home)) = before {
            home.wake();
        }
    }

    fn next(&self, home: &Waker) -> Option<Runnable> {
        let mut guest = self.guest();
        if let Guest::Waiting(woken) = mem::take(&mut *guest) {
            return Some(woken);
        }
        *guest = Guest::Nobody(Some(home.clone()));
        None
    }
}

/// Keeps a task for this thread, or gives it back.
fn keep(woken: Runnable) -> Option<Runnable> {
    let mut woken = Some(woken);
    // Threads that end wake tasks too.
    let _ = WOKEN.try_with(|place| {
        let kept = match place.take() {
            Woken::Here(None) => Woken::Here(woken.take()),
            Woken::Together(mut others) => {
                others.extend(woken.take());
                Woken::Together(others)
            }
            kept => kept,
        };
        place.set(kept);
    });
    woken
}

/// Wakes a task and polls it here once, in a runtime's context. To be called by a thread that holds
/// nothing that others wait for. Whatever that poll wakes goes home: this thread may have other work by
/// then, or be kept by closing a file.
pub(super) fn here(wake: impl FnOnce()) {
    let _place = Place::open(Woken::Here(None));
    wake();
    // Taken, it is closed.
    if let Woken::Here(Some(woken)) = WOKEN.take() {
        woken.run();
    }
}

/// Wakes tasks and has them polled one after the other on one thread of the runtime whose context this
/// is called in; without one, at their homes.
pub(super) fn together(wake: impl FnOnce()) {
    let Ok(runtime) = Handle::try_current() else { return wake() };
    let _place = Place::open(Woken::Together(Vec::new()));
    wake();
    if let Woken::Together(woken) = WOKEN.take() {
        runtime.spawn(async move {
            for woken in woken {
                // Whoever awaits it is told of its panic.
                let _ = catch_unwind(AssertUnwindSafe(|| woken.run()));
            }
        });
    }
}

/// This thread takes tasks that it wakes for as long as this is there, or it is closed.
struct Place;

impl Place {
    fn open(woken: Woken) -> Self {
        WOKEN.set(woken);
        Self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        match WOKEN.take() {
            Woken::Elsewhere => {}
            Woken::Here(left) => left.into_iter().for_each(Runnable::schedule),
            Woken::Together(left) => left.into_iter().for_each(Runnable::schedule),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::pin::{Pin, pin};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake, Waker};
    use std::thread::{self, ThreadId};

    use tokio::runtime::Runtime;
    use tokio::sync::{mpsc, oneshot};
    use tokio::task::JoinHandle;

    use super::{POLLS, Resumed, here, together};

    type Word = oneshot::Sender<()>;

    fn say(word: Word) {
        word.send(()).expect("a listener");
    }

    /// A task that waits for a word, and then gives the thread on which it went on.
    async fn waiting() -> (Word, JoinHandle<ThreadId>) {
        waiting_for(async { thread::current().id() }).await
    }

    async fn waiting_for<T: Send + 'static>(
        then: impl Future<Output = T> + Send + 'static,
    ) -> (Word, JoinHandle<T>) {
        let (word, mut heard) = oneshot::channel();
        let (waits, is_waiting) = oneshot::channel();
        let mut waits = Some(waits);
        let task = tokio::spawn(Resumed::new(async move {
            let hears = poll_fn(|cx| {
                let hears = Pin::new(&mut heard).poll(cx);
                _ = waits.take().map(say);
                hears
            });
            hears.await.expect("a word");
            then.await
        }));
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
            thread::current().id()
        });
        assert_eq!(task.await.expect("no panic"), thread);
    }

    /// Of the runtime, and not at home; what one of them does keeps no other back.
    #[tokio::test]
    async fn tasks_that_are_woken_together_go_on_on_one_thread() {
        let (first, one) = waiting().await;
        let panics = async { resume_unwind(Box::new("on purpose")) };
        let (second, panicking) = waiting_for::<()>(panics).await;
        let (third, other) = waiting().await;
        let runtime = Runtime::new().expect("a runtime");
        let waking = elsewhere(|| {
            let _context = runtime.enter();
            together(|| [first, second, third].into_iter().for_each(say));
            thread::current().id()
        });
        let [one, other] = [one.await.expect("no panic"), other.await.expect("no panic")];
        assert_eq!(one, other);
        assert!(![thread::current().id(), waking].contains(&one), "it is one of the runtime's");
        assert!(panicking.await.expect_err("a panic").is_panic());
        runtime.shutdown_background();
    }

    #[tokio::test]
    async fn without_a_runtime_they_go_on_at_home() {
        let (word, task) = waiting().await;
        elsewhere(|| together(|| say(word)));
        assert_eq!(task.await.expect("no panic"), thread::current().id());
    }

    /// A thread that does something else next, which may keep it, has no task wait for that.
    #[tokio::test]
    async fn otherwise_it_goes_on_at_home() {
        let (first, kept) = waiting().await;
        let (second, other) = waiting().await;
        let (third, later) = waiting().await;
        let thread = elsewhere(|| {
            here(|| [first, second].into_iter().for_each(say));
            say(third);
            thread::current().id()
        });
        assert_eq!(kept.await.expect("no panic"), thread);
        for task in [other, later] {
            assert_eq!(task.await.expect("no panic"), thread::current().id());
        }
    }

    /// A task that wakes itself so often, and how often it was polled.
    fn waking_itself(times: usize) -> (Arc<AtomicUsize>, impl Future<Output = ()>) {
        let polls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&polls);
        let task = poll_fn(move |cx| {
            if counted.fetch_add(1, Ordering::Relaxed) == times {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        (polls, task)
    }

    /// It doesn't keep the thread, however often it wakes itself.
    #[tokio::test]
    async fn a_task_that_wakes_itself_goes_home() {
        let (polls, then) = waking_itself(2);
        let (word, task) = waiting_for(then).await;
        elsewhere(|| here(|| say(word)));
        assert_eq!(polls.load(Ordering::Relaxed), 1);
        task.await.expect("no panic");
    }

    /// Nor its home, which others share.
    #[test]
    fn at_home_it_is_polled_a_few_times_at_once() {
        let (polls, then) = waking_itself(2 * POLLS);
        let mut task = pin!(Resumed::new(then));
        let mut cx = Context::from_waker(Waker::noop());
        for round in 1..=2 {
            assert!(task.as_mut().poll(&mut cx).is_pending());
            assert_eq!(polls.load(Ordering::Relaxed), round * POLLS);
        }
        assert!(task.as_mut().poll(&mut cx).is_ready());
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A home hears of what waits there, and of nothing else.
    #[test]
    fn a_home_is_woken_for_what_it_has_to_poll() {
        let (word, heard) = oneshot::channel();
        let mut task = pin!(Resumed::new(heard));
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut cx = Context::from_waker(&waker);
        for _ in 0..2 {
            assert!(task.as_mut().poll(&mut cx).is_pending());
            assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
        }
        say(word);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert_eq!(task.as_mut().poll(&mut cx), Poll::Ready(Ok(())));
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
        });
        assert_eq!(later.await.expect("no panic"), thread::current().id());
        let told: Result<(), _> = task.await;
        assert!(told.expect_err("a panic").is_panic());
    }

    /// Whoever wakes it, and wherever it goes on then.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_hears_of_everything() {
        const WORDS: usize = 2_000;
        let (words, mut heard) = mpsc::channel(1);
        let task = tokio::spawn(Resumed::new(async move {
            let mut count = 0;
            while heard.recv().await.is_some() {
                count += 1;
            }
            count
        }));
        let speakers = [true, true, false].map(|is_here| {
            let words = words.clone();
            thread::spawn(move || {
                for _ in 0..WORDS {
                    let word = || words.blocking_send(()).expect("a listener");
                    if is_here { here(word) } else { word() }
                }
            })
        });
        drop(words);
        assert_eq!(task.await.expect("no panic"), speakers.len() * WORDS);
        for speaker in speakers {
            speaker.join().expect("no panic");
        }
    }

    /// Wherever it is then: not begun, or waiting.
    #[test]
    fn dropped_it_ends() {
        for polls in 0..2 {
            let held = Arc::new(());
            let holds = Arc::clone(&held);
            let mut task = Box::pin(Resumed::new(async move {
                pending::<()>().await;
                drop(holds);
            }));
            for _ in 0..polls {
                let pending = task.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                assert!(pending.is_pending());
            }
            assert_eq!(Arc::strong_count(&held), 2);
            drop(task);
            assert_eq!(Arc::strong_count(&held), 1);
        }
    }

    /// What is woken after its end is not polled, and nothing of it stays.
    #[tokio::test]
    async fn what_is_woken_at_its_end_ends() {
        let (mut word, task) = waiting().await;
        task.abort();
        word.closed().await;
        let (tell, told) = oneshot::channel();
        let (mut tell, held) = (Some(tell), Arc::new(()));
        let holds = Arc::clone(&held);
        let mut task = Box::pin(Resumed::new(async move {
            let tells = poll_fn(|cx| {
                _ = tell.take().map(|tell| tell.send(cx.waker().clone()));
                Poll::<()>::Pending
            });
            tells.await;
            drop(holds);
        }));
        assert!(task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let waker = told.await.expect("it was polled");
        waker.wake_by_ref();
        drop(task);
        waker.wake();
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
