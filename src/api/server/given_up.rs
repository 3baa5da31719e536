//! Requests that were answered before they were done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether a request was answered with its time-out: what it does from then on is undone.
#[derive(Clone, Debug, Default)]
pub(super) struct GivenUp(Arc<AtomicBool>);

impl GivenUp {
    pub(super) fn give_up(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
