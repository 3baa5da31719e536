//! How many VMs each user has.

use crate::api::server::peers::Peer;
use crate::api::server::room::{Counts, Room};

/// How many VMs each user has who may not have all of them.
#[derive(Clone, Debug)]
pub(super) struct Tenants {
    most: usize,
    counts: Counts,
}

/// A user has as many VMs as one may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("you have {0} VMs, as many as one user may have; end one, or try again later")]
pub(super) struct TooMany(usize);

/// A VM that is counted until this is dropped, unless its user may have all.
#[derive(Debug)]
pub(super) struct Place(#[expect(dead_code, reason = "it is held")] Option<Room>);

impl Tenants {
    pub(super) fn new(most: usize) -> Self {
        Self { most, counts: Counts::default() }
    }

    /// Gives a user room for one more VM, before anything of a request is kept.
    pub(super) fn admit(&self, peer: Peer) -> Result<Place, TooMany> {
        if peer.is_administrator() {
            return Ok(Place(None));
        }
        let room = self.counts.take(peer.uid(), self.most).ok_or(TooMany(self.most))?;
        Ok(Place(Some(room)))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use rustix::process::geteuid;

    use super::{Peer, Tenants, TooMany};

    #[rstest]
    fn a_user_has_so_many_and_another_as_many() {
        let tenants = Tenants::new(1);
        let [one, other] = [1, 2].map(|more| Peer::of_user(geteuid().as_raw() + more));
        let place = tenants.admit(one).expect("room");
        assert_eq!(tenants.admit(one).expect_err("the limit is one"), TooMany(1));
        let _other = tenants.admit(other).expect("room for another");
        drop(place);
        drop(tenants.admit(one).expect("room again"));
        assert_eq!(tenants.counts.users(), 1, "nothing is remembered of who left");
    }

    #[rstest]
    fn the_server_s_own_user_may_have_all() {
        let tenants = Tenants::new(1);
        let own = Peer::of_user(geteuid().as_raw());
        let _all = [(); 3].map(|()| tenants.admit(own).expect("room"));
    }
}
