//! One at a time does something with a lease.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

use crate::api::wire::Label;

/// Whose lease, and what its user calls it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) uid: u32,
    pub(super) id: Label,
}

/// Who does something with which lease.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims(Arc<Mutex<HashMap<Key, Arc<Turn<()>>>>>);

/// The right to do something with a lease, until this is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    claims: Claims,
    key: Key,
    turn: Arc<Turn<()>>,
    held: Option<OwnedMutexGuard<()>>,
}

impl Claims {
    /// Waits until nobody else has it.
    pub(super) async fn claim(&self, key: Key) -> Claim {
        let mut claim = self.ask(key);
        claim.held = Some(Arc::clone(&claim.turn).lock_owned().await);
        claim
    }

    /// None if somebody has it.
    pub(super) fn try_claim(&self, key: Key) -> Option<Claim> {
        let mut claim = self.ask(key);
        claim.held = Arc::clone(&claim.turn).try_lock_owned().ok();
        claim.held.is_some().then_some(claim)
    }

    fn ask(&self, key: Key) -> Claim {
        let turn = Arc::clone(self.asked().entry(key.clone()).or_default());
        Claim { claims: self.clone(), key, turn, held: None }
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<Key, Arc<Turn<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    pub(super) fn key(&self) -> &Key {
        &self.key
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.held = None;
        let mut asked = self.claims.asked();
        // This one's, and the table's.
        if Arc::strong_count(&self.turn) == 2 {
            asked.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::{Claims, Key};

    fn key(uid: u32) -> Key {
        Key { uid, id: "id".parse().expect("a label") }
    }

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_has_a_lease_and_others_have_others() {
        let claims = Claims::default();
        let first = claims.claim(key(1)).await;
        assert!(claims.try_claim(key(1)).is_none());
        let other = claims.claim(key(2)).await;
        let late = timeout(Duration::from_secs(1), claims.claim(key(1))).await;
        assert!(late.is_err(), "the first has it");
        let waiting = tokio::spawn({
            let claims = claims.clone();
            async move { claims.claim(key(1)).await }
        });
        tokio::task::yield_now().await;
        drop(first);
        let second = waiting.await.expect("it has its turn");
        assert!(claims.try_claim(key(1)).is_none());
        drop((second, other));
        assert!(claims.asked().is_empty(), "nothing is remembered of who is done");
    }
}
