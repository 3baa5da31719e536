//! How many of something each user may have at once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many each user has, those among them that are about to be made.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts(Arc<Mutex<HashMap<u32, usize>>>);

/// One of a user's, which counts as long as this is there.
#[derive(Debug)]
pub(super) struct Room {
    counts: Counts,
    uid: u32,
}

impl Counts {
    /// Counts one more of a user's, unless that has `most` of them.
    pub(super) fn take(&self, uid: u32, most: usize) -> Option<Room> {
        let mut counts = self.locked();
        let count = counts.entry(uid).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Room { counts: self.clone(), uid })
    }

    /// How many users have any.
    #[cfg(all(test, feature = "vm"))]
    pub(super) fn users(&self) -> usize {
        self.locked().len()
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.counts.locked().entry(self.uid) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn each_user_has_so_many_at_once() {
        let counts = Counts::default();
        let first = counts.take(1, 2).expect("there is room");
        let second = counts.take(1, 2).expect("there is room");
        assert!(counts.take(1, 2).is_none());
        let others = counts.take(2, 1).expect("another user's room");
        drop(first);
        let third = counts.take(1, 2).expect("there is room again");
        assert!(counts.take(1, 2).is_none());
        drop((second, third, others));
        assert!(counts.locked().is_empty(), "nobody is remembered for nothing");
        assert!(counts.take(1, 0).is_none());
    }
}
