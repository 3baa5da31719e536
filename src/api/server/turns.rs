//! Users take turns on threads that may wait for a disk.
//!
//! What a request asks of a filesystem is one piece of work on one of a few threads, so that a disk
//! that doesn't answer keeps that request alone. Users take turns, whatever each of them has waiting;
//! and one user's work is on so many of the threads at most that those which hang leave some for
//! others.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How many threads there are at most.
const THREADS: usize = 64;
/// On how many of them one user's work is at once.
const OF_ONE: usize = 16;
/// How long a thread without work stays.
const IDLE: Duration = Duration::from_secs(10);

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
        if user.running + user.waiting.len() > OF_ONE {
            // A thread that ends other work of this user goes on with it.
            return Ok(());
        }
        state.put_in_order(uid);
        if state.may_begin() <= state.idle {
            self.0.work.notify_one();
        } else if state.threads < THREADS {
            let desk = Arc::clone(&self.0);
            let thread = thread::Builder::new().name("overlay-pool-request".to_owned());
            match thread.spawn(move || desk.serve()) {
                Ok(_) => state.threads += 1,
                Err(error) if state.threads == 0 => {
                    state.users.remove(&uid);
                    state.order.clear();
                    return Err(error);
                }
                // One of those there does it later.
                Err(error) => tracing::warn!(%error, "no further thread for requests"),
            }
        }
        Ok(())
    }
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        let mut state = self.state();
        loop {
            if let Some((uid, work, meanwhile)) = state.next() {
                drop(state);
                // A panic is logged by then, and whoever waits for the work told.
                let _ = catch_unwind(AssertUnwindSafe(|| work(meanwhile)));
                state = self.state();
                state.done(uid);
                continue;
            }
            state.idle += 1;
            let waited = self.work.wait_timeout(state, IDLE);
            let (again, timed_out) = waited.unwrap_or_else(PoisonError::into_inner);
            state = again;
            state.idle -= 1;
            if timed_out.timed_out() && state.order.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

impl State {
    /// Lets a user have another turn, if it has work that may begin.
    fn put_in_order(&mut self, uid: u32) {
        let Some(user) = self.users.get_mut(&uid) else { return };
        if !user.in_order && user.may_begin() > 0 {
            user.in_order = true;
            self.order.push_back(uid);
        }
    }

    /// How much work may begin now.
    fn may_begin(&self) -> usize {
        self.order.iter().filter_map(|uid| self.users.get(uid)).map(User::may_begin).sum()
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
    fn may_begin(&self) -> usize {
        self.waiting.len().min(OF_ONE - self.running)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::{OF_ONE, State, THREADS, Turns, User};

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
        assert_eq!((begun, state.may_begin()), (OF_ONE, 0));
        state.done(1);
        assert_eq!(state.may_begin(), 1);
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
