//! What a pool counts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::histogram::{Durations, Histogram};
use super::paths;

/// What a pool holds now, and what it did since it was made (rule T1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[non_exhaustive]
pub struct Stats {
    /// Ready overlays by resolved base path; empty where the pool has no shelves.
    #[serde(serialize_with = "paths::keys")]
    #[schema(value_type = BTreeMap<String, u64>)]
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
}

/// How long a pool's work took, since it was made, and how often it failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// Acquires that took a ready overlay.
    pub pooled: Histogram,
    /// Acquires whose overlay was made for them.
    pub on_demand: Histogram,
    /// Creations that the creator finished, ahead and on demand.
    pub created: Histogram,
    /// Creations in which the creator failed.
    pub create_failed: u64,
    /// Directories of dead owners that were removed.
    pub reclaimed: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) pooled: Durations,
    pub(crate) on_demand: Durations,
    pub(crate) failed: Counter,
    pub(crate) discarded: Counter,
    pub(crate) created: Durations,
    pub(crate) create_failed: Counter,
    pub(crate) reclaimed: Counter,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
