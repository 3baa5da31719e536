//! The server's own state.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::access::{Access, AccessError};
use super::held::Held;
use super::leases::Leases;
use super::open::OpenFiles;
use super::traffic::Traffic;
use super::turns::Turns;
use super::unreceived::Unreceived;
#[cfg(feature = "vm")]
use super::vms::Vms;
use crate::image::{BaseImage, BaseRef};
use crate::pool::{OverlayPool, Stats};

/// What all requests share.
pub(super) type Shared = Arc<All>;

/// The pool, who may name which files, and what the server is doing.
#[derive(Debug)]
pub(super) struct All {
    pub(super) pool: Arc<OverlayPool>,
    pub(super) access: Arc<Access>,
    pub(super) traffic: Traffic,
    pub(super) held: Held,
    pub(super) open_files: OpenFiles,
    pub(super) leases: Leases,
    pub(super) unreceived: Unreceived,
    pub(super) turns: Turns,
    /// Those that clients may use, if there are any.
    #[cfg(feature = "vm")]
    pub(super) vms: std::sync::OnceLock<Arc<Vms>>,
    ending: AtomicBool,
}

impl All {
    pub(super) fn new(pool: Arc<OverlayPool>, access: Arc<Access>, disks_per_user: usize) -> Self {
        let leases = Leases::new(&pool.config().pool_dir, disks_per_user);
        Self {
            pool,
            access,
            leases,
            traffic: Traffic::default(),
            held: Held::default(),
            open_files: OpenFiles::default(),
            unreceived: Unreceived::default(),
            turns: Turns::default(),
            #[cfg(feature = "vm")]
            vms: std::sync::OnceLock::new(),
            ending: AtomicBool::new(false),
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

    /// Whether VMs can be asked for, if there shall be any.
    #[cfg(feature = "vm")]
    pub(super) fn has_its_vms(&self) -> bool {
        self.vms.get().is_none_or(|vms| vms.is_started())
    }

    /// Takes no more clients from now on.
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }
}
