//! Moving a file to where nothing is.

use std::ffi::OsStr;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, RenameFlags, linkat, renameat_with, unlinkat};
use rustix::io::Errno;

use super::target::Spot;

/// Moves `name` in a directory to a spot, atomically and only where nothing is there.
///
/// NFS and FUSE know no `RENAME_NOREPLACE`. There the file gets its other name by a link, which
/// overwrites nothing either, and then loses the first one.
pub(super) fn rename_new(from: impl AsFd, name: &OsStr, to: &Spot) -> Result<(), Errno> {
    let (at, place) = (to.directory(), to.name());
    match renameat_with(&from, name, at, place, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => {}
        result => return result,
    }
    linkat(&from, name, at, place, AtFlags::empty())?;
    unlinkat(&from, name, AtFlags::empty()).inspect_err(|_| {
        // Under two names it would be handed out and removed.
        let _ = unlinkat(at, place, AtFlags::empty());
    })
}
