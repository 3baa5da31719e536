//! One call at a time for each volume.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

type Queues = HashMap<String, Arc<tokio::sync::Mutex<()>>>;

/// Who works on which volume, and who waits to.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<Mutex<Queues>>);

impl Turns {
    /// Waits until nobody else works on a volume, in the order of asking.
    pub(super) async fn of(&self, volume: &str) -> Turn {
        let queue = Arc::clone(self.queues().entry(volume.to_owned()).or_default());
        let guard = queue.lock_owned().await;
        Turn { turns: self.clone(), volume: volume.to_owned(), guard: Some(guard) }
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to work on a volume, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Turns,
    volume: String,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut queues = self.turns.queues();
        self.guard = None;
        // Whoever waits holds it too.
        if queues.get(&self.volume).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            queues.remove(&self.volume);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Those of one volume follow each other, those of others don't wait, and nothing is kept of
    /// volumes that nobody works on.
    #[tokio::test(flavor = "multi_thread")]
    async fn one_at_a_time_for_each_volume() {
        let turns = Turns::default();
        let (inside, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let other = turns.of("other").await;
        let work = |_| {
            let (turns, inside, most) = (turns.clone(), Arc::clone(&inside), Arc::clone(&most));
            tokio::spawn(async move {
                let _turn = turns.of("one").await;
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
        assert!(turns.queues().is_empty());
    }

    /// Whoever gives up waiting leaves nothing behind.
    #[tokio::test]
    async fn a_waiter_may_leave() {
        let turns = Turns::default();
        let turn = turns.of("one").await;
        let waiting = turns.of("one");
        assert!(futures_util::FutureExt::now_or_never(waiting).is_none());
        drop(turn);
        assert!(turns.queues().is_empty());
    }
}
