//! What disk a VM is to have.

use super::error::VmError;
use super::own_disk::OwnDisk;
use super::settings::VmSettings;

/// What disk a VM is to have.
///
/// # Example
///
/// ```
/// use overlay_pool::vm::{OwnDisk, VmDisk};
///
/// // One on which every VM finds what those before it left.
/// let disk = VmDisk::from(OwnDisk::at("/home/me/kept.qcow2"));
/// # let VmDisk::Own(_) = disk else { unreachable!() };
/// ```
#[derive(Debug, Default)]
#[non_exhaustive]
pub enum VmDisk {
    /// An overlay from the pool, which goes with the VM.
    #[default]
    Pooled,
    /// The same, with so many bytes for the guest, rounded up to a multiple of 4096: at least those of the
    /// base image, and at most [`VmSettings::largest_disk`]. The guest's file system has them all.
    Sized(u64),
    /// The caller's.
    Own(OwnDisk),
}

impl From<OwnDisk> for VmDisk {
    fn from(disk: OwnDisk) -> Self {
        Self::Own(disk)
    }
}

/// What the sizes of file systems are multiples of, in bytes.
const BLOCK: u64 = 4096;

/// What a disk that shall have so many bytes has to become, if it has to grow.
pub(super) fn grown(size: u64, base: u64, settings: &VmSettings) -> Result<Option<u64>, VmError> {
    let most = settings.largest_disk().max(base);
    match size.checked_next_multiple_of(BLOCK) {
        Some(rounded) if (base..=most).contains(&rounded) => {
            Ok(Some(rounded).filter(|rounded| *rounded > base))
        }
        _ => Err(VmError::DiskSize { size, least: base, most, limit_mib: settings.disk_mib }),
    }
}
