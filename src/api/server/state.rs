//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::StatusCode;

use super::access::{Access, AccessError};
use super::aside::Aside;
use super::held::Held;
use super::open::OpenFiles;
use super::traffic::Traffic;
use super::unreceived::Unreceived;
#[cfg(feature = "vm")]
use super::vms::Vms;
use crate::api::wire::Problem;
use crate::image::{BaseImage, BaseRef};
use crate::pool::{OverlayPool, Stats};

/// The pool, who may name which files, and what the server is doing.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) pool: Arc<OverlayPool>,
    pub(super) access: Arc<Access>,
    pub(super) traffic: Traffic,
    pub(super) held: Held,
    pub(super) aside: Aside,
    pub(super) open_files: Arc<OpenFiles>,
    pub(super) unreceived: Unreceived,
    #[cfg(feature = "vm")]
    pub(super) vms: Option<Arc<Vms>>,
    /// How long a request may take to come.
    #[cfg(feature = "vm")]
    pub(super) patience: std::time::Duration,
    ending: Arc<AtomicBool>,
}

impl Shared {
    pub(super) fn new(pool: Arc<OverlayPool>, access: Arc<Access>) -> Self {
        Self {
            pool,
            access,
            traffic: Traffic::default(),
            held: Held::default(),
            aside: Aside::default(),
            open_files: Arc::default(),
            unreceived: Unreceived::default(),
            #[cfg(feature = "vm")]
            vms: None,
            #[cfg(feature = "vm")]
            patience: std::time::Duration::ZERO,
            ending: Arc::default(),
        }
    }

    /// Opens and judges a base image that a client names.
    pub(super) fn judged(&self, base: &BaseRef) -> Result<BaseImage, AccessError> {
        self.access.base(base, self.pool.config().references)
    }

    /// What the pool counts, with what the server refused in its place.
    pub(super) fn stats(&self) -> Stats {
        let mut stats = self.pool.stats();
        stats.failed += self.traffic.acquire_failures.get();
        stats
    }

    /// Goes through all base images, aside from the threads that serve.
    pub(super) async fn list<T: Send + 'static>(
        &self,
        list: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let shared = self.clone();
        self.aside.run(move || list(&shared)).await.map_err(|error| {
            let detail = format!("can't look at the base images: {error}; try again");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no-threads", detail)
        })
    }

    /// Whether VMs can be asked for, if there shall be any.
    pub(super) fn has_its_vms(&self) -> bool {
        #[cfg(feature = "vm")]
        return self.vms.as_ref().is_none_or(|vms| vms.is_started());
        #[cfg(not(feature = "vm"))]
        true
    }

    /// Takes no more clients from now on.
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }
}
