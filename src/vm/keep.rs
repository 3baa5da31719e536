//! Keeping a VM's disk.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tempfile::NamedTempFile;

/// Refuses a target that no disk can be kept at, as far as that can be told before.
pub(super) fn judge(target: &Path) -> io::Result<()> {
    if target.symlink_metadata().is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    parent(target).metadata().map(|_| ())
}

/// Moves a disk to a target where nothing is there; to another file system it is copied.
pub(super) fn keep(disk: &Path, target: &Path) -> io::Result<()> {
    match renameat_with(CWD, disk, CWD, target, RenameFlags::NOREPLACE) {
        Err(Errno::XDEV) => {
            let mut copy = NamedTempFile::with_prefix_in(".overlay-pool-", parent(target))?;
            io::copy(&mut File::open(disk)?, copy.as_file_mut())?;
            copy.persist_noclobber(target).map_err(|error| error.error)?;
            fs::remove_file(disk)
        }
        moved => moved.map_err(io::Error::from),
    }
}

fn parent(target: &Path) -> &Path {
    target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
