//! VMs that their users keep.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep_until};

use super::lease::Lease;
use crate::api::server::peers::Peer;
use crate::api::wire::Label;
use crate::vm::{Vm, VmState};

/// All of them, by id.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions(Arc<Mutex<Kept>>);

type Kept = BTreeMap<String, Arc<Session>>;

/// A VM that its user keeps.
#[derive(Debug)]
pub(super) struct Session {
    lease: Lease,
    pub(super) uid: u32,
    /// After how long without a program it ends.
    pub(super) idle: Duration,
    used: Mutex<Used>,
}

#[derive(Clone, Copy, Debug)]
struct Used {
    /// Whether a program runs, or the session is being ended.
    now: bool,
    /// When the last program ended.
    before: Instant,
}

impl Session {
    pub(super) fn vm(&self) -> &Arc<Vm> {
        self.lease.vm()
    }

    /// What its user calls the disk that it has, if it has one of those.
    pub(super) fn disk(&self) -> Option<&Label> {
        self.lease.disk()
    }

    /// Begins to use it, unless somebody does.
    fn begin(&self) -> bool {
        !std::mem::replace(&mut self.used().now, true)
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_for(&self, peer: Peer) -> bool {
        peer.is_administrator() || peer.uid() == self.uid
    }
}

impl Sessions {
    /// Keeps a VM for a user, until nothing runs in it for as long as `idle`.
    pub(super) fn keep(&self, lease: Lease, peer: Peer, idle: Duration) -> Arc<Session> {
        let used = Mutex::new(Used { now: false, before: Instant::now() });
        let session = Arc::new(Session { lease, uid: peer.uid(), idle, used });
        self.kept().insert(session.vm().id().to_owned(), Arc::clone(&session));
        tokio::spawn(expire(Arc::downgrade(&self.0), Arc::downgrade(&session)));
        session
    }

    /// One that a client may know of.
    pub(super) fn find(&self, id: &str, peer: Peer) -> Option<Arc<Session>> {
        self.kept().get(id).filter(|session| session.is_for(peer)).cloned()
    }

    /// All that a client may know of.
    pub(super) fn list(&self, peer: Peer) -> Vec<Arc<Session>> {
        self.kept().values().filter(|session| session.is_for(peer)).cloned().collect()
    }

    pub(super) fn count(&self) -> usize {
        self.kept().len()
    }

    /// Ends one: no more of it is there when this returns, whatever ran in it.
    pub(super) async fn end(&self, session: &Session) {
        self.kept().remove(session.vm().id());
        session.lease.end().await;
    }

    /// Ends all of them.
    pub(super) async fn end_all(&self) {
        let all = std::mem::take(&mut *self.kept());
        join_all(all.values().map(|session| session.lease.end())).await;
    }

    /// Takes the turn to run a program in a VM; none if another one runs.
    pub(super) fn take_turn(&self, session: &Arc<Session>) -> Option<Turn> {
        session.begin().then(|| Turn { sessions: self.clone(), session: Arc::clone(session) })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to run one program after the other, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    sessions: Sessions,
    session: Arc<Session>,
}

impl Turn {
    pub(super) fn vm(&self) -> &Arc<Vm> {
        self.session.vm()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *self.session.used() = Used { now: false, before: Instant::now() };
        // A VM that died of what ran in it can't be used again.
        if matches!(self.vm().state(), VmState::Destroying | VmState::Destroyed) {
            self.sessions.kept().remove(self.vm().id());
        }
    }
}

/// Ends a session that nobody uses, in its time.
async fn expire(sessions: Weak<Mutex<Kept>>, session: Weak<Session>) {
    let Some(mut due) = session.upgrade().map(|session| Instant::now() + session.idle) else {
        return;
    };
    loop {
        sleep_until(due).await;
        let (Some(sessions), Some(session)) = (sessions.upgrade(), session.upgrade()) else {
            return;
        };
        let now = Instant::now();
        let used = *session.used();
        due = if used.now { now } else { used.before } + session.idle;
        if due <= now && session.begin() {
            tracing::debug!(vm = session.vm().id(), "nobody used it");
            Sessions(sessions).end(&session).await;
            return;
        }
    }
}
