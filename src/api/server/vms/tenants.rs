//! How many VMs each user has.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::api::server::peers::Peer;

/// How many VMs each user has who may not have all of them.
#[derive(Clone, Debug)]
pub(super) struct Tenants {
    most: usize,
    counts: Arc<Mutex<HashMap<u32, usize>>>,
}

/// A user has as many VMs as one may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("you have {0} VMs, as many as one user may have; end one, or try again later")]
pub(super) struct TooMany(usize);

impl Tenants {
    pub(super) fn new(most: usize) -> Self {
        Self { most, counts: Arc::default() }
    }

    /// Gives a user room for one more VM, before anything of a request is kept.
    pub(super) fn admit(&self, peer: Peer) -> Result<Place, TooMany> {
        if peer.is_administrator() {
            return Ok(Place(None));
        }
        let mut counts = self.counts();
        let count = counts.entry(peer.uid()).or_default();
        if *count >= self.most {
            return Err(TooMany(self.most));
        }
        *count += 1;
        Ok(Place(Some((self.clone(), peer.uid()))))
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A VM that is counted until this is dropped.
#[derive(Debug)]
pub(super) struct Place(Option<(Tenants, u32)>);

impl Drop for Place {
    fn drop(&mut self) {
        let Some((tenants, uid)) = &self.0 else { return };
        let mut counts = tenants.counts();
        if let Some(count) = counts.get_mut(uid) {
            *count -= 1;
            if *count == 0 {
                counts.remove(uid);
            }
        }
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
        assert_eq!(tenants.counts().len(), 1, "nothing is remembered of who left");
    }

    #[rstest]
    fn the_server_s_own_user_may_have_all() {
        let tenants = Tenants::new(1);
        let own = Peer::of_user(geteuid().as_raw());
        let _all = [(); 3].map(|()| tenants.admit(own).expect("room"));
    }
}
