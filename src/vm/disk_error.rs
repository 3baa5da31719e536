//! What can be wrong with a disk that a caller brings.

use std::io;
use std::path::PathBuf;

use crate::image::LayerError;

/// Why a VM can't have a disk that its caller brings.
#[derive(Debug, thiserror::Error)]
#[error("disk {}: {why}", path.display())]
pub struct DiskError {
    /// The disk.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: Unfit,
}

/// What is wrong with a disk that a caller brings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// It isn't there, or may not be read and written.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is no overlay of the language's base image.
    #[error("{0}")]
    Layer(#[from] LayerError),
    /// Somebody else uses it.
    #[error(
        "another process has it open, as QEMU's lock on it says: wait for its end, or use a copy"
    )]
    InUse,
    /// Its file is longer than that of a VM's disk may be.
    #[error(
        "its file has {bytes} bytes, over the limit of {limit_mib} MiB: raise that with disk_mib, \
         --disk or OVERLAY_POOL_DISK"
    )]
    TooLong {
        /// How long it is.
        bytes: u64,
        /// How long it may be, in MiB.
        limit_mib: u32,
    },
}
