//! Where a VM lives: its working directory, with its disk in it, and its place among those that
//! there may be.

use std::path::{Path, PathBuf};

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::PREFIX;
use super::error::VmError;
use crate::place::Directory;
use crate::{OverlayPool, Source};

/// The name of the disk in a VM's working directory.
const DISK: &str = "disk.qcow2";

/// What a VM holds until it is destroyed. Dropped, its files go.
#[derive(Debug)]
pub(super) struct Home {
    directory: Directory,
    /// One of the VMs that there may be; none for one that is made to be saved.
    _slot: Option<OwnedSemaphorePermit>,
}

/// Where a VM's disk came from, and how long that took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Disk {
    pub(super) source: Source,
    pub(super) elapsed: std::time::Duration,
}

impl Home {
    pub(super) fn new(parent: &Path, slot: Option<OwnedSemaphorePermit>) -> Result<Self, VmError> {
        let failed =
            |source| VmError::File { what: "directory of VMs", path: parent.to_owned(), source };
        let parent = std::path::absolute(parent).map_err(failed)?;
        let directory = Directory::create(&parent, PREFIX).map_err(failed)?;
        Ok(Self { directory, _slot: slot })
    }

    pub(super) fn address(&self) -> Address {
        Address { id: self.directory.name().to_owned(), path: self.directory.path().to_owned() }
    }
}

/// Where a home is.
#[derive(Clone, Debug)]
pub(super) struct Address {
    /// The VM's id, which nobody can guess: it is its directory's name and its hostname too.
    pub(super) id: String,
    pub(super) path: PathBuf,
}

impl Address {
    pub(super) fn disk(&self) -> PathBuf {
        self.path.join(DISK)
    }

    /// Takes a disk over a base image from the pool.
    pub(super) async fn furnish(&self, pool: &OverlayPool, base: &Path) -> Result<Disk, VmError> {
        let begin = Instant::now();
        let acquired = pool.acquire(base, self.disk()).await?;
        Ok(Disk { source: acquired.source, elapsed: begin.elapsed() })
    }
}
