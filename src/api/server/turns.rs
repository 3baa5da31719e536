//! Users take turns on threads that may wait for a disk.
//!
//! What a request asks of a filesystem is one piece of work on one of a few threads, so that a disk
//! that doesn't answer keeps that request alone. Users take turns, whatever each of them has waiting;
//! and one user's work is on so many of the threads at most that those which hang leave some for
//! others.
//!
//! As many threads work at once as there are processors: more would wake each other for work that
//! the first of them does next anyway. While several users ask it is half as many: one of them may
//! ask without end, and the others' clients need a processor too. Threads that their work keeps
//! longer don't count as working, and others take their place: while work waits, one thread looks
//! after that.
//!
//! A user that has more waiting is given some answers together. Each by itself would wake a thread of
//! the runtime's, and the client, which would then compete with the work for the processors.

mod order;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use order::{Answer, Order, Turn};
use tokio::runtime::Handle;

use super::resumed;

/// How many threads there are at most.
const THREADS: usize = 64;
/// After one to two of these, work keeps a thread.
const KEPT: Duration = Duration::from_millis(5);
/// How long a thread without work stays.
const IDLE: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 10_000 });

/// The threads, and what waits for them. They end by themselves; nobody waits for one that hangs.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<Desk>);

#[derive(Debug, Default)]
struct Desk {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Debug, Default)]
struct State {
    order: Order,
    threads: usize,
    /// How many threads wait for work, or were woken for it and aren't there yet.
    idle: usize,
    /// One was woken, or made, and isn't there yet.
    is_coming: bool,
    /// One looks after those that their work keeps.
    is_watched: bool,
}

impl Turns {
    /// Has a user's work done when it is that user's turn. It is told how many turns there were
    /// meanwhile.
    ///
    /// # Errors
    ///
    /// That there is no thread, and can be none.
    pub(super) fn add(&self, uid: u32, work: impl FnOnce(u64) + Send + 'static) -> io::Result<()> {
        let mut state = self.0.state();
        state.order.add(uid, Box::new(work));
        let called = self.0.call(&mut state);
        if called.is_err() && state.threads == 0 {
            state.order.clear();
            return called.map(drop);
        }
        drop(state);
        match called {
            Ok(wake) => self.0.wake(wake),
            // One of those there does it later.
            Err(error) => tracing::warn!(%error, "no further thread for requests"),
        }
        Ok(())
    }

    /// Gives an answer to what was done for a user: together with further ones, if the user has more
    /// waiting and a thread looks after it that this doesn't take long. Gives it back where no work
    /// waits: who did the work has nothing else to do.
    #[must_use]
    pub(super) fn answer<A: FnOnce() + Send + 'static>(&self, uid: u32, answer: A) -> Option<A> {
        let mut state = self.0.state();
        if !state.order.is_waiting() {
            return Some(answer);
        }
        let answer: Answer = Box::new(answer);
        let answers = if state.is_watched { state.order.keep(uid, answer) } else { vec![answer] };
        drop(state);
        give(answers);
        None
    }
}

/// A panic in one of them keeps no other back.
fn give(answers: Vec<Answer>) {
    let several = answers.len() > 1;
    let give = || {
        for answer in answers {
            let _ = catch_unwind(AssertUnwindSafe(answer));
        }
    };
    if several { resumed::together(give) } else { give() }
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has another thread come, if there is something for it to do. Says whether one is to be woken:
    /// once the state is free, for which it would wait.
    fn call(self: &Arc<Self>, state: &mut State) -> io::Result<bool> {
        if state.is_coming || !(state.order.has_work() || state.wants_watch()) {
            return Ok(false);
        }
        let is_idle = state.idle > 0;
        if !is_idle {
            if state.threads == THREADS {
                return Ok(false);
            }
            let desk = Arc::clone(self);
            let thread = thread::Builder::new().name("overlay-pool-request".to_owned());
            let runtime = Handle::try_current();
            thread.spawn(move || {
                // Connections are polled in it, by this thread and together.
                let _context = runtime.as_ref().map(Handle::enter);
                desk.serve();
            })?;
            state.threads += 1;
        }
        state.is_coming = true;
        Ok(is_idle)
    }

    fn wake(&self, one: bool) {
        if one {
            self.work.notify_one();
        }
    }

    fn serve(self: &Arc<Self>) {
        let mut state = self.state();
        state.is_coming = false;
        loop {
            if let Some(Turn { work, meanwhile, answers, place }) = state.order.begin() {
                // Who adds work sees to it otherwise.
                let wake = self.call(&mut state).unwrap_or(false);
                drop(state);
                self.wake(wake);
                give(answers);
                // A panic is logged by then, and whoever waits for the work told.
                let _ = catch_unwind(AssertUnwindSafe(|| work(meanwhile)));
                state = self.state();
                state.order.end(place);
            } else if state.wants_watch() {
                state.is_watched = true;
                drop(state);
                thread::sleep(KEPT);
                state = self.state();
                state.is_watched = false;
                let answers = state.order.look();
                drop(state);
                give(answers);
                state = self.state();
            } else {
                state.idle += 1;
                let waited = self.work.wait_timeout(state, IDLE);
                let (again, timed_out) = waited.unwrap_or_else(PoisonError::into_inner);
                state = again;
                state.idle -= 1;
                if timed_out.timed_out() && !state.is_coming {
                    state.threads -= 1;
                    return;
                }
                state.is_coming = false;
            }
        }
    }
}

impl State {
    /// Whether work waits for threads that nobody looks after.
    fn wants_watch(&self) -> bool {
        self.order.is_waiting() && !self.order.has_work() && !self.is_watched
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::order::{OF_ONE, PROCESSORS};
    use super::{State, THREADS, Turns, give};

    /// Where they are kept, and where one is enough.
    #[test]
    fn one_thread_looks_after_those_that_work() {
        let mut state = State::default();
        assert!(!state.wants_watch(), "nothing waits for threads");
        for _ in 0..OF_ONE {
            state.order.add(1, Box::new(|_| ()));
            state.order.add(2, Box::new(|_| ()));
        }
        assert!(!state.wants_watch(), "there are threads for it");
        while state.order.begin().is_some() {}
        assert!(state.wants_watch(), "somebody looks after them");
        state.is_watched = true;
        assert!(!state.wants_watch(), "one is enough");
    }

    /// Work that comes while the only idle thread is being woken has a thread of its own.
    #[test]
    fn what_hangs_keeps_nothing_behind_it() {
        for _ in 0..200 {
            let turns = Turns::default();
            let (done, is_done) = mpsc::channel();
            let first = done.clone();
            turns.add(1, move |_| first.send(()).expect("a listener")).expect("a thread");
            is_done.recv().expect("there is a thread, and it becomes idle");
            let (release, hung) = mpsc::channel::<()>();
            turns.add(1, move |_| hung.recv().unwrap_or(())).expect("a thread");
            turns.add(1, move |_| done.send(()).expect("a listener")).expect("a thread");
            is_done.recv().expect("it isn't behind what hangs");
            drop(release);
        }
    }

    #[test]
    fn answers_are_kept_only_while_somebody_looks_after_them() {
        let turns = Turns::default();
        let (answer, is_answered) = mpsc::channel();
        let is_kept = |is_watched| {
            let answer = answer.clone();
            turns.0.state().is_watched = is_watched;
            let given = move || answer.send(()).expect("a listener");
            if let Some(answer) = turns.answer(1, given) {
                answer();
            }
            is_answered.try_recv().is_err()
        };
        assert!(!is_kept(true), "its user has nothing waiting");
        turns.0.state().order.add(1, Box::new(|_| ()));
        assert!(is_kept(true) && !is_kept(false));
    }

    #[test]
    fn an_answer_that_panics_keeps_no_other_back() {
        let (answer, is_answered) = mpsc::channel();
        let panics = || std::panic::resume_unwind(Box::new("on purpose"));
        give(vec![Box::new(panics), Box::new(move || answer.send(()).expect("a listener"))]);
        is_answered.try_recv().expect("it is given");
    }

    /// What was done is told, also when every thread hangs then.
    #[test]
    fn what_hangs_keeps_no_answer() {
        let turns = Turns::default();
        let (releases, hung): (Vec<_>, Vec<_>) =
            (0..THREADS).map(|_| mpsc::channel::<()>()).unzip();
        let (begins, busy): (Vec<_>, Vec<_>) =
            (0..*PROCESSORS).map(|_| mpsc::channel::<()>()).unzip();
        for busy in busy {
            turns.add(1, move |_| busy.recv().unwrap_or(())).expect("a thread");
        }
        let (done, is_done) = mpsc::channel();
        let (answer, is_answered) = mpsc::channel();
        for _ in 0..1000 {
            let (answering, done, answer) = (turns.clone(), done.clone(), answer.clone());
            let work = move |_| {
                let given = move || answer.send(()).unwrap_or(());
                if let Some(answer) = answering.answer(1, given) {
                    answer();
                }
                done.send(()).unwrap_or(());
            };
            turns.add(1, work).expect("a thread");
        }
        let (hangs, is_hanging) = mpsc::channel();
        for (uid, hung) in (2..6).cycle().zip(hung) {
            let hangs = hangs.clone();
            let hang = move |_| {
                hangs.send(()).expect("a listener");
                hung.recv().unwrap_or(());
            };
            turns.add(uid, hang).expect("a thread");
        }
        let is_watched = || {
            let state = turns.0.state();
            state.is_watched || state.threads == THREADS
        };
        while !is_watched() {
            std::thread::yield_now();
        }
        drop(begins);
        assert_eq!(is_hanging.iter().take(THREADS).count(), THREADS);
        let all = is_done.try_iter().count();
        assert!((1..1000).contains(&all), "{all} of 1000 were done while there were threads");
        assert_eq!(is_answered.iter().take(all).count(), all);
        drop(releases);
    }

    /// While one user's work hangs on all threads that it may have, another's is done; and then
    /// what waited behind it is.
    #[test]
    fn what_hangs_keeps_its_user_alone() {
        let turns = Turns::default();
        let (done, is_done) = mpsc::channel();
        let (releases, hung): (Vec<_>, Vec<_>) =
            (0..2 * OF_ONE).map(|_| mpsc::channel::<()>()).unzip();
        for hung in hung {
            let done = done.clone();
            let wait = move |_| {
                let _ = hung.recv();
                done.send(1).expect("a listener");
            };
            turns.add(1, wait).expect("a thread");
        }
        turns.add(2, move |_| done.send(2).expect("a listener")).expect("a thread");
        assert_eq!(is_done.recv(), Ok(2));
        drop(releases);
        assert_eq!(is_done.iter().take(2 * OF_ONE).sum::<usize>(), 2 * OF_ONE);
    }

    /// Threads that have nothing to do end, and are counted no longer; others come when they are needed.
    #[test]
    fn threads_without_work_end() {
        let turns = Turns::default();
        for _ in 0..3 {
            let (done, is_done) = mpsc::channel();
            for _ in 0..OF_ONE {
                let done = done.clone();
                turns.add(1, move |_| done.send(()).expect("a listener")).expect("a thread");
            }
            assert_eq!(is_done.iter().take(OF_ONE).count(), OF_ONE);
            let (release, hung) = mpsc::channel::<()>();
            turns.add(1, move |_| hung.recv().unwrap_or(())).expect("a thread");
            assert!((1..=OF_ONE).contains(&turns.0.state().threads), "{:?}", turns.0.state());
            drop(release);
            let ended = || {
                let state = turns.0.state();
                (state.threads, state.idle) == (0, 0)
            };
            let tries = (0..60_000).find(|_| {
                std::thread::sleep(Duration::from_millis(1));
                ended()
            });
            assert!(tries.is_some(), "{:?}", turns.0.state());
        }
    }

    /// Its panic ends no thread, and is counted as an end.
    #[test]
    fn work_that_panics_is_done() {
        let turns = Turns::default();
        for _ in 0..2 * OF_ONE {
            turns.add(1, |_| std::panic::resume_unwind(Box::new("on purpose"))).expect("a thread");
        }
        let (done, is_done) = mpsc::channel();
        turns.add(1, move |_| done.send(()).expect("a listener")).expect("a thread");
        is_done.recv().expect("there is a thread for it");
    }
}
