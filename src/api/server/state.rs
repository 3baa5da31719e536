//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::access::Access;
use super::open::OpenFiles;
use super::traffic::Traffic;
use crate::pool::{OverlayPool, Stats};

/// The pool, who may name which files, and what the server is doing.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) pool: Arc<OverlayPool>,
    pub(super) access: Arc<Access>,
    pub(super) traffic: Traffic,
    pub(super) open_files: Arc<OpenFiles>,
    ending: Arc<AtomicBool>,
}

impl Shared {
    pub(super) fn new(pool: Arc<OverlayPool>, access: Arc<Access>) -> Self {
        Self {
            pool,
            access,
            traffic: Traffic::default(),
            open_files: Arc::default(),
            ending: Arc::default(),
        }
    }

    /// What the pool counts, with what the server refused in its place.
    pub(super) fn stats(&self) -> Stats {
        let mut stats = self.pool.stats();
        stats.failed += self.traffic.acquire_failures.get();
        stats
    }

    /// Takes no more clients from now on.
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }
}
