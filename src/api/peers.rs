//! Who is connected, and how often.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::geteuid;
use tokio::net::unix::UCred;

/// A client, as the kernel tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    uid: u32,
    gid: u32,
    /// None where it can't be told from here: a process of another PID namespace.
    pid: Option<i32>,
}

impl From<UCred> for Peer {
    fn from(credentials: UCred) -> Self {
        let pid = credentials.pid().filter(|pid| *pid > 0);
        Self { uid: credentials.uid(), gid: credentials.gid(), pid }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uid, gid, pid } = self;
        write!(f, "pid {} uid {uid} gid {gid}", pid.unwrap_or(0))
    }
}

/// Whose connections are counted together: those of a process, and of another user all of them,
/// since processes cost that user nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Party {
    Process(Option<i32>),
    User(u32),
}

/// How many connections each party has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peers(Arc<Mutex<HashMap<Party, usize>>>);

impl Peers {
    /// Admits another connection of `peer`, where it has fewer than `limit`.
    pub(crate) fn admit(&self, peer: Peer, limit: usize) -> Option<Admitted> {
        let party = if peer.uid == geteuid().as_raw() {
            Party::Process(peer.pid)
        } else {
            Party::User(peer.uid)
        };
        let mut counts = self.counts();
        let count = counts.entry(party).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Admitted { peers: self.clone(), party })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Party, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    peers: Peers,
    party: Party,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut counts = self.peers.counts();
        if let Some(count) = counts.get_mut(&self.party) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.party);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::geteuid;

    use super::{Peer, Peers};

    #[test]
    fn a_process_is_limited_and_another_is_not() {
        let peers = Peers::default();
        let uid = geteuid().as_raw();
        let one = Peer { uid, gid: 0, pid: Some(1) };
        let first = peers.admit(one, 2).expect("the first");
        let _second = peers.admit(one, 2).expect("the second");
        assert!(peers.admit(one, 2).is_none(), "the limit is two");
        let _other = peers.admit(Peer { pid: Some(2), ..one }, 2).expect("another process");
        drop(first);
        assert!(peers.admit(one, 2).is_some(), "there is room again");
    }

    #[test]
    fn another_user_is_limited_in_all_its_processes() {
        let peers = Peers::default();
        let foreign = Peer { uid: geteuid().as_raw() + 1, gid: 0, pid: Some(1) };
        let _first = peers.admit(foreign, 1).expect("the first");
        assert!(peers.admit(Peer { pid: Some(2), ..foreign }, 1).is_none());
    }

    #[test]
    fn nothing_is_remembered_of_who_left() {
        let peers = Peers::default();
        drop(peers.admit(Peer { uid: 1, gid: 1, pid: Some(1) }, 1));
        assert!(peers.counts().is_empty());
    }
}
