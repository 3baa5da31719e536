//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::StatusCode;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::access::Access;
use super::held::Held;
use super::open::OpenFiles;
use super::traffic::Traffic;
use crate::api::wire::Problem;
use crate::pool::{OverlayPool, Stats};

/// The pool, who may name which files, and what the server is doing.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) pool: Arc<OverlayPool>,
    pub(super) access: Arc<Access>,
    pub(super) traffic: Traffic,
    pub(super) held: Held,
    /// Held by who lists all base images.
    listing: Arc<Semaphore>,
    pub(super) open_files: Arc<OpenFiles>,
    ending: Arc<AtomicBool>,
}

impl Shared {
    pub(super) fn new(pool: Arc<OverlayPool>, access: Arc<Access>) -> Self {
        Self {
            pool,
            access,
            traffic: Traffic::default(),
            held: Held::default(),
            listing: Arc::new(Semaphore::new(1)),
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

    /// Goes through all base images on another thread, one request at a time: there may be
    /// thousands, each is looked at on disk, and clients that only want an overlay don't wait.
    /// A filesystem that hangs keeps that one thread.
    pub(super) async fn list<T: Send + 'static>(
        &self,
        list: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let failed =
            |detail: String| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", detail);
        let turn = Arc::clone(&self.listing).acquire_owned().await;
        let turn = turn.map_err(|error| failed(error.to_string()))?;
        let shared = self.clone();
        let listed = spawn_blocking(move || {
            let _turn = turn;
            list(&shared)
        });
        listed.await.map_err(|error| failed(error.to_string()))
    }

    /// Takes no more clients from now on.
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }
}
