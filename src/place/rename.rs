//! Moving a file to where nothing is.

use std::ffi::OsStr;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, RenameFlags, StatxFlags, linkat, renameat_with, statx, unlinkat};
use rustix::io::Errno;

use super::target::Spot;

/// Moves `name` in a directory to a spot, atomically and only where nothing is there.
///
/// NFS and FUSE know no `RENAME_NOREPLACE`. There the file gets its other name by a link, which
/// overwrites nothing either, and then loses the first one.
pub(crate) fn rename_new(from: impl AsFd, name: &OsStr, to: &Spot) -> Result<(), Errno> {
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

/// Why nothing can be moved from one directory to another, when the system says `EXDEV`: it says
/// the same of another filesystem, of another mount of this one, and of a project quota.
pub(super) fn why_apart(from: impl AsFd, to: impl AsFd) -> &'static str {
    let look = |at: &dyn AsFd| {
        let mask = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
        statx(at.as_fd(), c"", AtFlags::EMPTY_PATH, mask).ok()
    };
    let (Some(from), Some(to)) = (look(&from), look(&to)) else { return "somewhere else" };
    if (from.stx_dev_major, from.stx_dev_minor) != (to.stx_dev_major, to.stx_dev_minor) {
        "on another filesystem or subvolume"
    } else if from.stx_mnt_id != to.stx_mnt_id {
        "on another mount of the same filesystem, as by a bind mount"
    } else {
        "on the same filesystem, but apart, as by a project quota"
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::why_apart;

    #[test]
    fn what_is_on_one_mount_is_apart_for_another_reason() {
        let folder = tempfile::tempdir().expect("a folder");
        let [one, other] = [(); 2].map(|()| File::open(folder.path()).expect("it opens"));
        assert!(why_apart(&one, &other).contains("as by a project quota"));
        let elsewhere = File::open("/proc").expect("it opens");
        assert!(why_apart(&one, &elsewhere).contains("another filesystem"));
    }
}
