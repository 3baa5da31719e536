//! Moving a file to where nothing is.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, RenameFlags, linkat, renameat_with, unlinkat};
use rustix::io::Errno;

use super::target::Target;

/// Moves `name` in a directory to `target`, atomically and only where nothing is there.
///
/// NFS and FUSE know no `RENAME_NOREPLACE`. There the file gets its other name by a link, which
/// overwrites nothing either, and then loses the first one.
pub(super) fn rename_new(directory: impl AsFd, name: &Path, target: &Target) -> Result<(), Errno> {
    let (at, place) = target.place();
    match renameat_with(&directory, name, at, place, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => {}
        result => return result,
    }
    linkat(&directory, name, at, place, AtFlags::empty())?;
    unlinkat(&directory, name, AtFlags::empty()).inspect_err(|_| {
        // Under two names it would be handed out and removed.
        let _ = unlinkat(at, place, AtFlags::empty());
    })
}
