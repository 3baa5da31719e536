//! Descriptors that were sent and that their clients didn't receive.
//!
//! Until they are received, the kernel counts them against the *sender's* user, past the closing of
//! the connection; over its limit nothing more can be sent to anybody. How much of a connection the
//! other side has received can be told while our end is open. So it stays open for that long.

use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::sleep;

use super::peers::Peer;
use crate::api::descriptors::is_hung_up;
use crate::sys;

/// How many a user may have at once.
const OF_ONE: usize = 64;
/// How many all may have: less than the kernel lets a process of few open files send.
const OF_ALL: usize = 512;
/// How often it is looked whether they were received, once nothing more is asked.
const LOOK: Duration = Duration::from_millis(100);

/// Why no further descriptor is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "too many descriptors were sent that nobody received; receive them, or close their connections"
)]
pub(super) struct TooMany;

/// A descriptor that is on its way to a connection.
#[derive(Debug)]
pub(crate) struct Counted(#[expect(dead_code, reason = "it lives")] Arc<()>);

/// The descriptors that are on their way, by the user that they go to.
#[derive(Clone, Debug, Default)]
pub(super) struct Unreceived(Arc<Mutex<HashMap<u32, Vec<Sent>>>>);

#[derive(Debug)]
struct Sent {
    to: Arc<UnixStream>,
    waits: Weak<()>,
}

impl Sent {
    /// Whether it isn't sent yet, or not received.
    fn is_under_way(&self) -> bool {
        self.waits.strong_count() > 0 || is_unreceived(&self.to)
    }
}

impl Unreceived {
    /// Counts one more that goes to a peer, from before it is sent until it is received.
    pub(super) fn count(&self, peer: Peer, to: &Arc<UnixStream>) -> Result<Counted, TooMany> {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        users.entry(peer.uid()).or_default().retain(Sent::is_under_way);
        if users.values().map(Vec::len).sum::<usize>() >= OF_ALL {
            users.values_mut().for_each(|sent| sent.retain(Sent::is_under_way));
        }
        let all: usize = users.values().map(Vec::len).sum();
        let of_one = users.entry(peer.uid()).or_default();
        if of_one.len() >= OF_ONE || all >= OF_ALL {
            return Err(TooMany);
        }
        let waits = Arc::new(());
        of_one.push(Sent { to: Arc::clone(to), waits: Arc::downgrade(&waits) });
        Ok(Counted(waits))
    }

    /// Waits, once nothing more is sent to a peer, until it has received its descriptors or is gone.
    pub(super) async fn received(&self, peer: Peer, by: &Arc<UnixStream>) {
        while self.is_waited_for(peer, by) {
            sleep(LOOK).await;
        }
    }

    fn is_waited_for(&self, peer: Peer, by: &Arc<UnixStream>) -> bool {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sent) = users.get_mut(&peer.uid()) else { return false };
        sent.retain(|sent| !Arc::ptr_eq(&sent.to, by) || sent.is_under_way());
        let waited_for = sent.iter().any(|sent| Arc::ptr_eq(&sent.to, by));
        if sent.is_empty() {
            users.remove(&peer.uid());
        }
        waited_for
    }
}

/// Whether something lies in a socket that its other side may still receive.
fn is_unreceived(stream: &UnixStream) -> bool {
    !is_hung_up(stream) && sys::unreceived(stream).is_ok_and(|bytes| bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection's end, and its other side.
    fn connection() -> (Arc<UnixStream>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        (Arc::new(ours), theirs)
    }

    /// Those that aren't sent yet too: many may be about to be.
    #[test]
    fn each_user_has_so_many_on_their_way() {
        let (to, _other_side) = connection();
        let unreceived = Unreceived::default();
        let one = Peer::of_user(1);
        let mut counted: Vec<_> =
            (0..OF_ONE).map(|_| unreceived.count(one, &to).expect("there is room")).collect();
        assert_eq!(unreceived.count(one, &to).expect_err("there is none"), TooMany);
        unreceived.count(Peer::of_user(2), &to).expect("room for another user");
        counted.pop();
        unreceived.count(one, &to).expect("one was received");
    }

    /// Whoever they go to; and those that were received count no more, also if nothing further goes
    /// to their users.
    #[test]
    fn all_users_have_so_many_on_their_way() {
        let (to, _other_side) = connection();
        let unreceived = Unreceived::default();
        let users = u32::try_from(OF_ALL / OF_ONE).expect("a few");
        let count = |user| unreceived.count(Peer::of_user(user), &to);
        let all = (0..users).flat_map(|user| (0..OF_ONE).map(move |_| user));
        let counted: Vec<_> = all.map(|user| count(user).expect("there is room")).collect();
        assert_eq!(count(users).expect_err("there is none"), TooMany);
        drop(counted);
        count(users).expect("they were received");
    }
}
