//! Who may decide what the names in a directory lead to.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2, readlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::paths::MAX_LINKS;

/// Whether a file belongs to neither root nor this process' user.
pub(crate) fn is_anothers(stat: &Stat) -> bool {
    stat.st_uid != 0 && stat.st_uid != geteuid().as_raw()
}

/// Whether a directory lets others write to it, if only to add and remove files of their own.
pub(crate) fn is_shared(stat: &Stat) -> bool {
    Mode::from_raw_mode(stat.st_mode).intersects(Mode::WGRP | Mode::WOTH)
}

/// Whether another user may rename or remove this user's files in a directory (rule D3).
pub(crate) fn others_may_change(stat: &Stat) -> bool {
    let keeps_to_owners = Mode::from_raw_mode(stat.st_mode).contains(Mode::SVTX);
    is_anothers(stat) || is_shared(stat) && !keeps_to_owners
}

/// Opens a directory that nobody but root and this process' user may change (rule D3): it belongs
/// to one of them, and others may not write to it, or add only files of their own. Symbolic links
/// that lead to it belong to one of them too.
///
/// # Errors
///
/// Those of the system; [`io::ErrorKind::PermissionDenied`] with what to do if another user may
/// change it.
pub fn open_trusted(directory: &Path) -> io::Result<OwnedFd> {
    let refused = |why: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    // Without a slash at its end, which would follow a link.
    let mut path: PathBuf = directory.components().collect();
    for _ in 0..MAX_LINKS {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = openat(CWD, &path, flags, Mode::empty())?;
        let stat = fstat(&found)?;
        if is_anothers(&stat) {
            let uid = stat.st_uid;
            return refused(&format!(
                "this directory belongs to another user (uid {uid}), who may change it; do this as \
                 that user, or name another directory"
            ));
        }
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            let to = readlinkat(&found, "", Vec::new())?;
            let to = OsString::from_vec(to.into_bytes());
            path = path.parent().unwrap_or(&path).join(to);
            continue;
        }
        if others_may_change(&stat) {
            return refused(
                "another user may change this directory; let it belong to the pool's user, mode 0700",
            );
        }
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        return Ok(openat(&found, ".", flags, Mode::empty())?);
    }
    Err(Errno::LOOP.into())
}

/// Whether paths can be kept below a directory here: whether there is `openat2` (Linux 5.6), and no
/// sandbox forbids it.
#[must_use]
pub fn can_confine() -> bool {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = openat2(CWD, "/", flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
    !matches!(opened, Err(Errno::NOSYS | Errno::PERM))
}

#[cfg(test)]
mod tests {
    use rustix::process::geteuid;
    use rustix::thread::{Uid, set_thread_res_uid};

    use super::is_anothers;

    #[test]
    fn d3_what_belongs_to_root_is_not_another_users() {
        let mut stat = rustix::fs::stat(".").expect("it is there");
        if geteuid().is_root() {
            // Of this test's thread alone.
            let user = Uid::from_raw(12345);
            set_thread_res_uid(user, user, user).expect("another user");
        }
        let ours = geteuid().as_raw();
        for (uid, is_another) in [(0, false), (ours, false), (ours + 1, true)] {
            stat.st_uid = uid;
            assert_eq!(is_anothers(&stat), is_another, "{uid}, for {ours}");
        }
    }
}
