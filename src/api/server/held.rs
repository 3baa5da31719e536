//! Base images under overlays that callers hold.
//!
//! Once handed over, an overlay is its caller's, and the pool forgets it. If its base image changes
//! then, the guest's disk is damaged, and nobody else would say so.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::counter::Counter;
use rustix::process::geteuid;

use super::turns::Turns;
use crate::image::Identity;

/// The base images that overlays were handed over of, and how they change.
#[derive(Clone, Debug, Default)]
pub(super) struct Held(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// As it was last seen; none before the first look.
    bases: Mutex<HashMap<PathBuf, Option<Identity>>>,
    looking: AtomicBool,
    replaced: Counter,
    maybe: Counter,
}

impl Held {
    /// Takes note that an overlay of a base image, by its resolved path, was handed over.
    pub(super) fn note(&self, base: &Path, turns: &Turns) {
        let mut bases = self.0.bases();
        if !bases.contains_key(base) {
            bases.insert(base.to_owned(), None);
            drop(bases);
            self.look_again(turns);
        }
    }

    /// How many base images are another file now, and how many only may have changed.
    pub(super) fn changes(&self) -> [(&'static str, u64); 2] {
        [("replaced", self.0.replaced.get()), ("maybe", self.0.maybe.get())]
    }

    /// Looks at all of them when it is the turn of this process' user, unless that is being done.
    pub(super) fn look_again(&self, turns: &Turns) {
        if self.0.bases().is_empty() || self.0.looking.swap(true, Ordering::Relaxed) {
            return;
        }
        let state = Arc::clone(&self.0);
        let look = move |_| {
            state.look();
            state.looking.store(false, Ordering::Relaxed);
        };
        if let Err(error) = turns.add(geteuid().as_raw(), look) {
            self.0.looking.store(false, Ordering::Relaxed);
            tracing::warn!(%error, "base images aren't looked at");
        }
    }
}

impl State {
    fn bases(&self) -> MutexGuard<'_, HashMap<PathBuf, Option<Identity>>> {
        self.bases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) {
        let known: Vec<_> = self.bases().iter().map(|(base, seen)| (base.clone(), *seen)).collect();
        for (base, seen) in known {
            let now = Identity::of(&base).ok();
            match now {
                Some(now) => _ = self.bases().insert(base.clone(), Some(now)),
                // Forgotten, until there is one again and overlays of it are asked for.
                None => _ = self.bases().remove(&base),
            }
            if seen.is_some() && seen != now {
                let is_same = now.zip(seen).is_some_and(|(now, seen)| now.is_like(&seen));
                self.told(&base, is_same);
            }
        }
    }

    fn told(&self, base: &Path, is_same: bool) {
        let (change, count) =
            if is_same { ("may have changed", &self.maybe) } else { ("replaced", &self.replaced) };
        count.inc();
        tracing::warn!(
            base = %base.display(), change,
            "the base image changed under overlays that were handed over: their guests' disks may \
             be damaged; give a new image a new name"
        );
    }
}
