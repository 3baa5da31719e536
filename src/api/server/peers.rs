//! Who is connected, and how often.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{geteuid, getpid};
use tokio::net::unix::UCred;
use tokio::sync::Semaphore;

/// How many requests of one party are read and answered at once; others of it wait.
const PLACES: usize = 64;

/// A client, as the kernel tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    uid: u32,
    gid: u32,
    /// None where it can't be told from here: a process of another PID namespace.
    pid: Option<i32>,
}

impl Peer {
    pub(super) fn uid(self) -> u32 {
        self.uid
    }

    /// Whether it may have the pool do what concerns all: root and this process' own user.
    pub(super) fn is_administrator(self) -> bool {
        self.uid == 0 || self.uid == geteuid().as_raw()
    }

    /// A process of a user's.
    #[cfg(test)]
    pub(super) fn of_user(uid: u32) -> Self {
        Self { uid, gid: uid, pid: Some(1) }
    }

    /// Whether it is this process.
    fn is_own(self) -> bool {
        self.pid == Some(getpid().as_raw_nonzero().get())
    }
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

/// How many connections there may be at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) all: usize,
    pub(crate) of_one: usize,
}

/// Why another connection isn't admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Full {
    #[error("you have as many connections as one may have; use them for more than one request")]
    OfOne,
    #[error("the server has as many connections as it takes; try again later")]
    All,
}

/// How many connections each party has.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    room: Room,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    of: HashMap<Party, Share>,
}

/// What one party has.
#[derive(Debug)]
struct Share {
    connections: usize,
    places: Arc<Semaphore>,
}

impl Default for Share {
    fn default() -> Self {
        Self { connections: 0, places: Arc::new(Semaphore::new(PLACES)) }
    }
}

impl Peers {
    pub(crate) fn new(room: Room) -> Self {
        Self { room, counts: Arc::default() }
    }

    /// Admits another connection of `peer`, where there is room for it. This process itself, which
    /// looks whether it still answers, is admitted and not counted.
    pub(crate) fn admit(&self, peer: Peer) -> Result<Admitted, Full> {
        if peer.is_own() {
            let places = Share::default().places;
            return Ok(Admitted { peers: self.clone(), party: None, places });
        }
        let party = if peer.uid == geteuid().as_raw() {
            Party::Process(peer.pid)
        } else {
            Party::User(peer.uid)
        };
        let mut counts = self.counts();
        if counts.of.get(&party).is_some_and(|share| share.connections >= self.room.of_one) {
            return Err(Full::OfOne);
        }
        if counts.all >= self.room.all {
            return Err(Full::All);
        }
        counts.all += 1;
        let share = counts.of.entry(party).or_default();
        share.connections += 1;
        let places = Arc::clone(&share.places);
        drop(counts);
        Ok(Admitted { peers: self.clone(), party: Some(party), places })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    peers: Peers,
    party: Option<Party>,
    places: Arc<Semaphore>,
}

impl Admitted {
    /// Where each of its requests takes a place, for as long as it is in progress.
    pub(crate) fn places(&self) -> Arc<Semaphore> {
        Arc::clone(&self.places)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let Some(party) = self.party else { return };
        let mut counts = self.peers.counts();
        counts.all -= 1;
        if let Some(share) = counts.of.get_mut(&party) {
            share.connections -= 1;
            if share.connections == 0 {
                counts.of.remove(&party);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{geteuid, getpid};

    use super::{Admitted, Full, PLACES, Peer, Peers, Room};

    fn peers(all: usize, of_one: usize) -> Peers {
        Peers::new(Room { all, of_one })
    }

    #[test]
    fn root_and_the_own_user_administrate_and_nobody_else() {
        let own = geteuid().as_raw();
        let is_administrator = |uid| Peer { uid, gid: 0, pid: Some(1) }.is_administrator();
        assert!(is_administrator(0) && is_administrator(own));
        assert!(!is_administrator(own + 1));
    }

    #[test]
    fn a_process_is_limited_and_another_is_not() {
        let peers = peers(10, 2);
        let uid = geteuid().as_raw();
        let one = Peer { uid, gid: 0, pid: Some(1) };
        let first = peers.admit(one).expect("the first");
        let _second = peers.admit(one).expect("the second");
        assert_eq!(peers.admit(one).expect_err("the limit is two"), Full::OfOne);
        let _other = peers.admit(Peer { pid: Some(2), ..one }).expect("another process");
        drop(first);
        peers.admit(one).expect("there is room again");
    }

    #[test]
    fn another_user_is_limited_in_all_its_processes() {
        let peers = peers(10, 1);
        let foreign = Peer { uid: geteuid().as_raw() + 1, gid: 0, pid: Some(1) };
        let _first = peers.admit(foreign).expect("the first");
        assert!(peers.admit(Peer { pid: Some(2), ..foreign }).is_err());
    }

    #[test]
    fn all_together_are_limited() {
        let peers = peers(1, 1);
        let first = peers.admit(Peer { uid: 1, gid: 1, pid: Some(1) }).expect("the first");
        let other = Peer { uid: 2, gid: 2, pid: Some(2) };
        assert_eq!(peers.admit(other).expect_err("one in all"), Full::All);
        drop(first);
        peers.admit(other).expect("there is room again");
    }

    #[test]
    fn this_process_is_not_counted() {
        let peers = peers(1, 1);
        let own = Peer { uid: 1, gid: 1, pid: Some(getpid().as_raw_nonzero().get()) };
        let _two = [own; 2].map(|own| peers.admit(own).expect("room for itself"));
        peers.admit(Peer { pid: None, ..own }).expect("room for another");
    }

    #[test]
    fn all_connections_of_one_share_its_places() {
        let peers = peers(9, 3);
        let one = Peer { uid: 1, gid: 1, pid: Some(1) };
        let connections = [one; 2].map(|one| peers.admit(one).expect("room"));
        let [first, second] = connections.each_ref().map(Admitted::places);
        let all = u32::try_from(PLACES).expect("few");
        let taken = first.try_acquire_many(all).expect("all places");
        assert!(second.try_acquire().is_err(), "they are all taken");
        let other = peers.admit(Peer { uid: 2, ..one }).expect("room").places();
        assert!(other.try_acquire().is_ok(), "another has places of its own");
        drop(taken);
        assert!(second.try_acquire().is_ok());
    }

    #[test]
    fn nothing_is_remembered_of_who_left() {
        let peers = peers(1, 1);
        drop(peers.admit(Peer { uid: 1, gid: 1, pid: Some(1) }));
        assert!(peers.counts().of.is_empty() && peers.counts().all == 0);
    }
}
