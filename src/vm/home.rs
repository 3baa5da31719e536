//! Where a VM lives: its working directory, its disk, which is in there unless it is the caller's, and
//! its place among those that there may be.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::PREFIX;
use super::error::VmError;
use super::own_disk::Attached;
use crate::place::Directory;
use crate::{OverlayPool, Source};

/// The name of the disk in a VM's working directory.
const DISK: &str = "disk.qcow2";

/// What a VM holds until it is destroyed. Dropped, its files go.
#[derive(Debug)]
pub(super) struct Home {
    directory: Directory,
    /// The caller's disk, if it has one.
    own: Option<Arc<Attached>>,
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
    pub(super) fn new(
        parent: &Path,
        slot: Option<OwnedSemaphorePermit>,
        own: Option<Attached>,
    ) -> Result<Self, VmError> {
        let failed =
            |source| VmError::File { what: "directory of VMs", path: parent.to_owned(), source };
        let parent = std::path::absolute(parent).map_err(failed)?;
        let directory = Directory::create(&parent, PREFIX).map_err(failed)?;
        Ok(Self { directory, own: own.map(Arc::new), _slot: slot })
    }

    pub(super) fn address(&self) -> Address {
        Address {
            id: self.directory.name().to_owned(),
            path: self.directory.path().to_owned(),
            own: self.own.clone(),
        }
    }

    /// Lets others have the caller's disk, once QEMU has ended.
    pub(super) fn give_back(&self) {
        if let Some(own) = &self.own {
            own.give_back();
        }
    }
}

/// Where a home is.
#[derive(Clone, Debug)]
pub(super) struct Address {
    /// The VM's id, which nobody can guess: it is its directory's name and its hostname too.
    pub(super) id: String,
    pub(super) path: PathBuf,
    /// The caller's disk, if it has one.
    own: Option<Arc<Attached>>,
}

impl Address {
    pub(super) fn disk(&self) -> PathBuf {
        self.own.as_ref().map_or_else(|| self.path.join(DISK), |own| own.path().to_owned())
    }

    /// Whether its disk is the caller's.
    pub(super) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// The disk, open for QEMU.
    pub(super) fn open_disk(&self) -> Result<File, VmError> {
        let opened = match &self.own {
            Some(own) => own.open(),
            None => File::options().read(true).write(true).open(self.disk()),
        };
        opened.map_err(|source| VmError::File { what: "disk", path: self.disk(), source })
    }

    /// Takes a disk over a base image from the pool.
    pub(super) async fn furnish(&self, pool: &OverlayPool, base: &Path) -> Result<Disk, VmError> {
        let begin = Instant::now();
        let acquired = pool.acquire(base, self.disk()).await?;
        Ok(Disk { source: acquired.source, elapsed: begin.elapsed() })
    }
}
