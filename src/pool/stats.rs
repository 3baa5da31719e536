//! What a pool counts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// What a pool holds now, and what it did since it was made (rules T1 and T2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Ready overlays by resolved base path, over all formats that the path was declared as; empty
    /// if the pool has no shelves.
    pub ready: BTreeMap<PathBuf, usize>,
    /// Acquires that took a ready overlay.
    pub pooled: u64,
    /// Acquires whose overlay was made for them.
    pub on_demand: u64,
    /// Acquires on a started pool that ended in an error.
    pub failed: u64,
    /// Ready overlays that were removed instead of handed over: their base changed or was idle,
    /// they couldn't be moved, or somebody else had removed them.
    pub discarded: u64,
    /// Creations that the creator finished, ahead and on demand.
    pub created: u64,
    /// Creations in which the creator failed.
    pub create_failed: u64,
}

/// The counts of a pool, over all its starts; `ready` isn't kept here.
#[derive(Debug, Default)]
pub(super) struct Counters(Mutex<Stats>);

impl Counters {
    /// Adds to a count.
    pub(super) fn add(&self, count: impl FnOnce(&mut Stats)) {
        count(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// All counts, with the overlays that are ready now.
    pub(super) fn with(&self, ready: BTreeMap<PathBuf, usize>) -> Stats {
        Stats { ready, ..self.0.lock().unwrap_or_else(PoisonError::into_inner).clone() }
    }
}
