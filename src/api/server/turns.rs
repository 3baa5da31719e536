//! Users take turns on threads that may wait for a disk.
//!
//! What a request asks of a filesystem is one piece of work on one of a few threads, so that a disk
//! that doesn't answer keeps that request alone. Users take turns, whatever each of them has waiting;
//! and one user's work is on so many of the threads at most that those which hang leave some for
//! others.
//!
//! As many threads work at once as there are processors: more would wake each other for work that
//! the first of them does next anyway. Those that their work keeps longer don't count as working,
//! and others take their place: while work waits, one thread looks after that.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How many threads there are at most.
const THREADS: usize = 64;
/// On how many of them one user's work is at once.
const OF_ONE: usize = 16;
/// How many work at once, but for those whose work keeps them.
static PROCESSORS: LazyLock<usize> =
    LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from).min(OF_ONE));
/// After one to two of these, work keeps a thread.
const KEPT: Duration = Duration::from_millis(5);
/// How long a thread without work stays.
const IDLE: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 10_000 });

/// Is told how many turns others had since it was added.
type Work = Box<dyn FnOnce(u64) + Send>;

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
    users: HashMap<u32, User>,
    /// Whose turn it is, and who comes next: those who have work that may begin.
    order: VecDeque<u32>,
    /// How many turns there were.
    begun: u64,
    threads: usize,
    /// How many threads wait for work, or were woken for it and aren't there yet.
    idle: usize,
    /// One was woken, or made, and isn't there yet.
    is_coming: bool,
    /// One looks after those that their work keeps.
    is_watched: bool,
    /// How often it looked.
    looks: u64,
    /// How many threads work since the last look, and since the one before it.
    working: [usize; 2],
}

#[derive(Default)]
struct User {
    /// With how many turns there had been when it came.
    waiting: VecDeque<(Work, u64)>,
    running: usize,
    in_order: bool,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} waiting, {} running", self.waiting.len(), self.running)
    }
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
        let begun = state.begun;
        let user = state.users.entry(uid).or_default();
        user.waiting.push_back((Box::new(work), begun));
        state.put_in_order(uid);
        let called = self.0.call(&mut state);
        if called.is_err() && state.threads == 0 {
            state.users.remove(&uid);
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

    /// Whether there is work that may begin.
    pub(super) fn have_waiting(&self) -> bool {
        !self.0.state().order.is_empty()
    }
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has another thread come, if there is something for it to do. Says whether one is to be woken:
    /// once the state is free, for which it would wait.
    fn call(self: &Arc<Self>, state: &mut State) -> io::Result<bool> {
        if state.is_coming || !(state.has_work() || state.wants_watch()) {
            return Ok(false);
        }
        let is_idle = state.idle > 0;
        if !is_idle {
            if state.threads == THREADS {
                return Ok(false);
            }
            let desk = Arc::clone(self);
            let thread = thread::Builder::new().name("overlay-pool-request".to_owned());
            thread.spawn(move || desk.serve())?;
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
            if state.has_work()
                && let Some((uid, work, meanwhile)) = state.next()
            {
                let since = state.begin();
                // Who adds work sees to it otherwise.
                let wake = self.call(&mut state).unwrap_or(false);
                drop(state);
                self.wake(wake);
                // A panic is logged by then, and whoever waits for the work told.
                let _ = catch_unwind(AssertUnwindSafe(|| work(meanwhile)));
                state = self.state();
                state.end(since);
                state.done(uid);
            } else if state.wants_watch() {
                state.is_watched = true;
                drop(state);
                thread::sleep(KEPT);
                state = self.state();
                state.is_watched = false;
                state.look();
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
    /// Lets a user have another turn, if it has work that may begin.
    fn put_in_order(&mut self, uid: u32) {
        let Some(user) = self.users.get_mut(&uid) else { return };
        if !user.in_order && user.has_work() {
            user.in_order = true;
            self.order.push_back(uid);
        }
    }

    /// Whether a thread may begin work now.
    fn has_work(&self) -> bool {
        !self.order.is_empty() && self.working.iter().sum::<usize>() < *PROCESSORS
    }

    /// Whether work waits for threads that nobody looks after.
    fn wants_watch(&self) -> bool {
        !self.order.is_empty() && !self.has_work() && !self.is_watched
    }

    /// Counts a thread as working; gives when it began.
    fn begin(&mut self) -> u64 {
        self.working[0] += 1;
        self.looks
    }

    /// Counts one that began at `since` no longer.
    fn end(&mut self, since: u64) {
        let looks = usize::try_from(self.looks - since).unwrap_or(usize::MAX);
        if let Some(working) = self.working.get_mut(looks) {
            *working -= 1;
        }
    }

    /// From now on those that worked at the last look already don't count.
    fn look(&mut self) {
        self.working = [0, self.working[0]];
        self.looks += 1;
    }

    fn next(&mut self) -> Option<(u32, Work, u64)> {
        let uid = self.order.pop_front()?;
        let user = self.users.get_mut(&uid)?;
        user.in_order = false;
        user.running += 1;
        let (work, before) = user.waiting.pop_front()?;
        self.put_in_order(uid);
        let meanwhile = self.begun - before;
        self.begun += 1;
        Some((uid, work, meanwhile))
    }

    fn done(&mut self, uid: u32) {
        let Some(user) = self.users.get_mut(&uid) else { return };
        user.running -= 1;
        if user.running == 0 && user.waiting.is_empty() {
            self.users.remove(&uid);
        } else {
            self.put_in_order(uid);
        }
    }
}

impl User {
    fn has_work(&self) -> bool {
        self.running < OF_ONE && !self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::{OF_ONE, PROCESSORS, State, THREADS, Turns, User};

    fn state(waiting: &[(u32, usize)]) -> State {
        let mut state = State::default();
        for (uid, count) in waiting {
            let mut user = User::default();
            user.waiting.extend((0..*count).map(|_| (Box::new(|_| ()) as super::Work, 0)));
            state.users.insert(*uid, user);
            state.put_in_order(*uid);
        }
        state
    }

    #[test]
    fn users_take_turns_whatever_each_has_waiting() {
        let mut state = state(&[(1, 1000), (2, 3), (3, 1)]);
        let turns: Vec<_> = (0..8).map(|_| state.next().expect("work").0).collect();
        assert_eq!(turns, [1, 2, 3, 1, 2, 1, 2, 1]);
    }

    #[test]
    fn one_user_leaves_threads_for_others() {
        let mut state = state(&[(1, 1000)]);
        let begun = (0..THREADS).filter(|_| state.next().is_some()).count();
        assert_eq!((begun, state.order.len()), (OF_ONE, 0));
        state.done(1);
        assert!(state.next().is_some() && state.next().is_none(), "one more for each that is done");
    }

    #[test]
    fn nothing_is_remembered_of_who_is_done() {
        let mut state = state(&[(1, 2)]);
        for _ in 0..2 {
            let (uid, ..) = state.next().expect("work");
            state.done(uid);
        }
        assert!(state.users.is_empty() && state.order.is_empty());
    }

    /// As many as there are processors, and more as soon as these don't get on.
    #[test]
    fn threads_that_their_work_keeps_do_not_count() {
        let mut state = state(&[(1, 1000)]);
        let begin_all = |state: &mut State| {
            let mut begun = Vec::new();
            while state.has_work() {
                begun.push(state.begin());
            }
            begun
        };
        assert!(
            !state.wants_watch() && !State::default().wants_watch(),
            "nothing waits for threads"
        );
        let kept = begin_all(&mut state);
        assert_eq!(kept.len(), *PROCESSORS);
        assert!(state.wants_watch(), "somebody looks after them");
        state.is_watched = true;
        assert!(!state.wants_watch(), "one is enough");
        state.look();
        assert!(!state.has_work(), "they may have begun just before");
        state.look();
        let others = begin_all(&mut state);
        assert_eq!(others.len(), *PROCESSORS, "in the place of those that are kept");
        for since in kept {
            state.end(since);
        }
        assert!(!state.has_work(), "which don't count when they end either");
        state.look();
        for since in others {
            state.end(since);
        }
        assert_eq!(begin_all(&mut state).len(), *PROCESSORS);
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
