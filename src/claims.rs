//! One at a time does something with a thing of which there are many.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

type Asked<K> = HashMap<K, Arc<Turn<()>>>;

/// Who does something with which of them, and who waits to.
#[derive(Clone, Debug)]
pub(crate) struct Claims<K>(Arc<Mutex<Asked<K>>>);

/// The right to do something with one, until this is dropped.
#[derive(Debug)]
pub(crate) struct Claim<K: Hash + Eq> {
    claims: Claims<K>,
    key: K,
    turn: Arc<Turn<()>>,
    held: Option<OwnedMutexGuard<()>>,
}

impl<K> Default for Claims<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Clone + Hash + Eq> Claims<K> {
    /// Waits until nobody else has it, in the order of asking.
    pub(crate) async fn claim(&self, key: K) -> Claim<K> {
        let mut claim = self.ask(key);
        claim.held = Some(Arc::clone(&claim.turn).lock_owned().await);
        claim
    }

    /// None if somebody has it.
    #[cfg(feature = "server")]
    pub(crate) fn try_claim(&self, key: K) -> Option<Claim<K>> {
        let mut claim = self.ask(key);
        claim.held = Arc::clone(&claim.turn).try_lock_owned().ok();
        claim.held.is_some().then_some(claim)
    }

    fn ask(&self, key: K) -> Claim<K> {
        let turn = Arc::clone(self.asked().entry(key.clone()).or_default());
        Claim { claims: Self(Arc::clone(&self.0)), key, turn, held: None }
    }
}

impl<K> Claims<K> {
    fn asked(&self) -> MutexGuard<'_, Asked<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(feature = "server")]
impl<K: Hash + Eq> Claim<K> {
    pub(crate) fn key(&self) -> &K {
        &self.key
    }
}

impl<K: Hash + Eq> Drop for Claim<K> {
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
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::FutureExt;

    use super::Claims;

    #[cfg(feature = "server")]
    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_has_a_thing_and_others_have_others() {
        let claims = Claims::default();
        let first = claims.claim(1).await;
        assert!(claims.try_claim(1).is_none());
        let other = claims.claim(2).await;
        let late = tokio::time::timeout(std::time::Duration::from_secs(1), claims.claim(1)).await;
        assert!(late.is_err(), "the first has it");
        let waiting = tokio::spawn({
            let claims = claims.clone();
            async move { claims.claim(1).await }
        });
        tokio::task::yield_now().await;
        drop(first);
        let second = waiting.await.expect("it has its turn");
        assert!(claims.try_claim(1).is_none());
        drop((second, other));
        assert!(claims.asked().is_empty(), "nothing is remembered of who is done");
    }

    /// Those of one thing follow each other, those of others don't wait, and nothing is kept of things
    /// that nobody works on.
    #[tokio::test(flavor = "multi_thread")]
    async fn those_of_one_thing_follow_each_other() {
        let claims = Claims::default();
        let (inside, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let other = claims.claim("other").await;
        let work = |_| {
            let (claims, inside, most) = (claims.clone(), Arc::clone(&inside), Arc::clone(&most));
            tokio::spawn(async move {
                let _claim = claims.claim("one").await;
                most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                inside.fetch_sub(1, Ordering::SeqCst);
            })
        };
        for worker in (0..100).map(work).collect::<Vec<_>>() {
            worker.await.expect("it works");
        }
        assert_eq!(most.load(Ordering::SeqCst), 1);
        drop(other);
        assert!(claims.asked().is_empty());
    }

    /// Whoever gives up waiting leaves nothing behind, before the one that has it or after.
    #[tokio::test]
    async fn a_waiter_may_leave() {
        let claims = Claims::default();
        let claim = claims.claim("one").await;
        let mut waiting = Box::pin(claims.claim("one"));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(waiting);
        let mut waiting = Box::pin(claims.claim("one"));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(claim);
        drop(waiting);
        assert!(claims.asked().is_empty());
    }
}
