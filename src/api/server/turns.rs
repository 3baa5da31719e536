//! Requests take turns on threads that may wait for a disk.
//!
//! What a request asks of a filesystem is one piece of work on one of a few threads, so that a disk
//! that doesn't answer keeps that request alone. Users take turns, whatever each of them has waiting;
//! and one user's work is on so many of the threads at most that those which hang leave some for
//! others.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use axum::http::StatusCode;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::peers::Peer;
use crate::api::wire::Problem;

/// How many threads there are at most.
const THREADS: usize = 64;
/// On how many of them one user's work is at once.
const OF_ONE: usize = 16;
/// How long a thread without work stays.
const IDLE: Duration = Duration::from_secs(10);

type Work = Box<dyn FnOnce() + Send>;

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
    threads: usize,
    /// How many threads wait for work.
    idle: usize,
    /// How many of them were woken for it and aren't there yet.
    woken: usize,
}

#[derive(Default)]
struct User {
    waiting: VecDeque<Work>,
    running: usize,
    in_order: bool,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} waiting, {} running", self.waiting.len(), self.running)
    }
}

impl Turns {
    /// Does a peer's work when it is its user's turn, on a thread that it may block. Once nobody
    /// waits for it any more it isn't begun, and ends when it next waits for anything.
    ///
    /// # Errors
    ///
    /// A problem if there is no thread for it, or the work panicked.
    pub(super) async fn take<T: Send + 'static>(
        &self,
        peer: Peer,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Problem> {
        let (mut done, result) = oneshot::channel();
        let runtime = Handle::current();
        let until_closed = move || {
            if done.is_closed() {
                return;
            }
            let worked = runtime.block_on(async {
                tokio::select! {
                    biased;
                    worked = work => Some(worked),
                    () = done.closed() => None,
                }
            });
            let _ = worked.map(|worked| done.send(worked));
        };
        self.0.add(peer.uid(), Box::new(until_closed))?;
        let lost = |_| {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Problem::new(status, "failed", "the request was given up; see the server's log")
        };
        result.await.map_err(lost)
    }
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(self: &Arc<Self>, uid: u32, work: Work) -> Result<(), Problem> {
        let mut state = self.state();
        state.users.entry(uid).or_default().waiting.push_back(work);
        state.put_in_order(uid);
        if state.idle > state.woken {
            state.woken += 1;
            self.work.notify_one();
        } else if state.threads < THREADS {
            let desk = Arc::clone(self);
            let started = thread::Builder::new().name("overlay-pool-request".to_owned());
            match started.spawn(move || desk.serve()) {
                Ok(_) => state.threads += 1,
                Err(error) if state.threads == 0 => {
                    let user = state.users.get_mut(&uid);
                    drop(user.and_then(|user| user.waiting.pop_back()));
                    let detail = format!("no thread for the request: {error}; try again later");
                    let status = StatusCode::SERVICE_UNAVAILABLE;
                    return Err(Problem::new(status, "busy", detail));
                }
                // Another one does it later.
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn serve(&self) {
        let mut state = self.state();
        loop {
            if let Some((uid, work)) = state.next() {
                drop(state);
                // It is logged by then, and its client told.
                let _ = catch_unwind(AssertUnwindSafe(work));
                state = self.state();
                state.done(uid);
                continue;
            }
            state.idle += 1;
            let waited = self.work.wait_timeout(state, IDLE);
            let (again, timed_out) = waited.unwrap_or_else(PoisonError::into_inner);
            state = again;
            state.idle -= 1;
            state.woken = state.woken.saturating_sub(1);
            if timed_out.timed_out() && state.order.is_empty() {
                state.woken = 0;
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
        if !user.in_order && user.running < OF_ONE && !user.waiting.is_empty() {
            user.in_order = true;
            self.order.push_back(uid);
        }
    }

    fn next(&mut self) -> Option<(u32, Work)> {
        loop {
            let uid = self.order.pop_front()?;
            let Some(user) = self.users.get_mut(&uid) else { continue };
            user.in_order = false;
            let Some(work) = user.waiting.pop_front() else { continue };
            user.running += 1;
            self.put_in_order(uid);
            return Some((uid, work));
        }
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use super::{Desk, OF_ONE, State, THREADS, User};

    fn state(waiting: &[(u32, usize)]) -> State {
        let mut state = State::default();
        for (uid, count) in waiting {
            let mut user = User::default();
            user.waiting.extend((0..*count).map(|_| Box::new(|| ()) as super::Work));
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
        assert_eq!(begun, OF_ONE);
        state.done(1);
        assert!(state.next().is_some() && state.next().is_none(), "one more for each that is done");
    }

    #[test]
    fn nothing_is_remembered_of_who_is_done() {
        let mut state = state(&[(1, 2)]);
        for _ in 0..2 {
            let (uid, _) = state.next().expect("work");
            state.done(uid);
        }
        assert!(state.users.is_empty() && state.order.is_empty());
    }

    /// Work that comes while the only idle thread is being woken has a thread of its own.
    #[test]
    fn what_hangs_keeps_nothing_behind_it() {
        for _ in 0..200 {
            let desk = Arc::new(Desk::default());
            let (done, is_done) = mpsc::channel();
            let first = done.clone();
            desk.add(1, Box::new(move || first.send(()).expect("a listener"))).expect("a thread");
            is_done.recv().expect("there is a thread, and it becomes idle");
            let (release, hung) = mpsc::channel::<()>();
            desk.add(1, Box::new(move || hung.recv().unwrap_or(()))).expect("a thread");
            desk.add(1, Box::new(move || done.send(()).expect("a listener"))).expect("a thread");
            is_done.recv().expect("it isn't behind what hangs");
            drop(release);
        }
    }

    /// While one user's work hangs on all threads that it may have, another's is done.
    #[test]
    fn what_hangs_keeps_its_user_alone() {
        let desk = Arc::new(Desk::default());
        let (hung, release) = mpsc::channel::<()>();
        let release = Arc::new(std::sync::Mutex::new(release));
        for _ in 0..2 * OF_ONE {
            let release = Arc::clone(&release);
            let wait = move || release.lock().expect("a lock").recv().unwrap_or(());
            desk.add(1, Box::new(wait)).expect("a thread");
        }
        let (done, is_done) = mpsc::channel();
        desk.add(2, Box::new(move || done.send(()).expect("a listener"))).expect("a thread");
        is_done.recv().expect("the other's work is done");
        drop(hung);
    }
}
