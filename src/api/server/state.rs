//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::access::Access;
use super::traffic::Traffic;
use crate::pool::OverlayPool;

/// The pool, who may name which files, and what the server is doing.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) pool: Arc<OverlayPool>,
    pub(super) access: Arc<Access>,
    pub(super) traffic: Traffic,
    ending: Arc<AtomicBool>,
}

impl Shared {
    pub(super) fn new(pool: Arc<OverlayPool>, access: Arc<Access>) -> Self {
        Self { pool, access, traffic: Traffic::default(), ending: Arc::default() }
    }

    /// Takes no more clients from now on.
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }
}
