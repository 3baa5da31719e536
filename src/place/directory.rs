//! An owned directory: where one live process keeps files of its own.
//!
//! It is made below a common place under a name that can't be guessed, and its owner holds a lock
//! on it for life. The lock, not a PID, tells a live owner's directory from one that a dead owner
//! left; the kernel gives it up however the owner ends. All work inside goes through the open
//! directory, so that nobody can put another one in its place.

use std::fs::Permissions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, Dir, FlockOperation, Mode, OFlags, ResolveFlags, Stat, chmodat, fchown, flock, fstat,
    fstatvfs, mkdirat, openat, openat2, stat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use super::names::new_name;
use super::trust::open_trusted;

/// How often a new directory is tried for if a sweep takes it away before it is locked.
const ATTEMPTS: usize = 16;

/// A directory that this process owns. Dropped, it is removed.
#[derive(Debug)]
pub(crate) struct Directory {
    prefix: &'static str,
    parent: OwnedFd,
    name: String,
    path: PathBuf,
    fd: Arc<OwnedFd>,
    next: AtomicU64,
    made_parent: bool,
}

impl Directory {
    /// Makes and locks a directory with the owner's `prefix` below `parent`, which is made too if
    /// it is missing. A failure leaves nothing behind.
    pub(crate) fn create(parent: &Path, prefix: &'static str) -> io::Result<Self> {
        let mut made_parent = false;
        let created = Self::create_below(parent, prefix, &mut made_parent);
        if created.is_err() && made_parent {
            // Another owner may be in it.
            let _ = std::fs::remove_dir(parent);
        }
        created
    }

    fn create_below(
        parent: &Path,
        prefix: &'static str,
        made_parent: &mut bool,
    ) -> io::Result<Self> {
        for _ in 0..ATTEMPTS {
            *made_parent |= make_parent(parent)?;
            let parent_fd = open_trusted(parent)?;
            let name = new_name(prefix);
            let made = mkdirat(&parent_fd, &name, Mode::RWXU)
                // The umask may have taken something away, a default ACL added something.
                .and_then(|()| chmodat(&parent_fd, &name, Mode::RWXU, AtFlags::empty()));
            let owned = match made {
                // The parent was removed by the last owner in it, or the directory by a sweep.
                Err(Errno::NOENT) => continue,
                Ok(()) => own(&parent_fd, &name),
                Err(errno) => Err(errno.into()),
            };
            if let Ok(Some(fd)) = owned {
                let (path, fd) = (parent.join(&name), Arc::new(fd));
                let (next, made_parent) = (AtomicU64::new(0), *made_parent);
                let made = Self { prefix, parent: parent_fd, name, path, fd, next, made_parent };
                // In a directory with the set-group-ID bit it has another group.
                fchown(&made.fd, None, Some(getegid()))?;
                return Ok(made);
            }
            // It can't be locked, or a sweep has it and may only have looked.
            let _ = unlinkat(&parent_fd, &name, AtFlags::REMOVEDIR);
            owned?;
        }
        Err(io::Error::other("the new directory was removed again and again"))
    }

    /// The directory's own name.
    #[cfg(feature = "vm")]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn fd(&self) -> &Arc<OwnedFd> {
        &self.fd
    }

    /// A number that no other file in it has.
    pub(crate) fn next_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// How many bytes are free for this user on its filesystem.
    pub(crate) fn bytes_free(&self) -> io::Result<u64> {
        let found = fstatvfs(&self.fd)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// Whether the directory was removed from outside, or moved away.
    pub(crate) fn is_gone(&self) -> io::Result<bool> {
        let ours = fstat(&self.fd)?;
        match statat(&self.parent, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => Ok(!same(&ours, &there)),
            Err(Errno::NOENT) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Makes another one, since this one is gone.
    pub(crate) fn create_again(&self) -> io::Result<Self> {
        let parent = self.path.parent().unwrap_or(&self.path);
        let mut again = Self::create(parent, self.prefix)?;
        again.made_parent |= self.made_parent && is_at(&self.parent, parent);
        Ok(again)
    }

    /// Removes the directory with all that is in it.
    pub(crate) fn remove(&self) -> io::Result<()> {
        if !self.is_gone()? {
            remove(&self.parent, &self.name, &self.fd)?;
        }
        if self.made_parent
            && let Some(parent) = self.path.parent()
            && is_at(&self.parent, parent)
        {
            // Another owner may be in it.
            let _ = std::fs::remove_dir(parent);
        }
        Ok(())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(directory = %self.path.display(), %error, "directory not removed");
        }
    }
}

pub(super) fn same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// Whether this directory still lies there, and not another that somebody made since.
fn is_at(directory: &OwnedFd, path: &Path) -> bool {
    let ours = fstat(directory);
    ours.is_ok_and(|ours| stat(path).is_ok_and(|there| same(&ours, &there)))
}

/// Says whether it made the directory.
pub(super) fn make_parent(parent: &Path) -> io::Result<bool> {
    let mut builder = std::fs::DirBuilder::new();
    builder.mode(0o700);
    let made = match builder.create(parent) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            builder.recursive(true).create(parent)
        }
        result => result,
    };
    made?;
    // The umask may have taken something away.
    let private = std::fs::set_permissions(parent, Permissions::from_mode(0o700));
    private.map(|()| true).inspect_err(|_| drop(std::fs::remove_dir(parent)))
}

/// Opens and locks a directory of this user; none if another holds it or it is gone.
pub(super) fn own(parent: &OwnedFd, name: &str) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match openat(parent, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        result => result?,
    };
    match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(None),
        result => result?,
    }
    let stat = fstat(&fd)?;
    // A sweep may have removed it between the opening and the locking.
    let there = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
    let ours = stat.st_uid == geteuid().as_raw() && there.is_ok_and(|there| same(&stat, &there));
    Ok(ours.then_some(fd))
}

/// Removes a directory that is open, with all that is in it. Links aren't followed, and what is
/// mounted there stays.
pub(super) fn remove(parent: &OwnedFd, name: &str, fd: &OwnedFd) -> Result<(), Errno> {
    // A cgroup's files can't be removed, and go with it.
    if unlinkat(parent, name, AtFlags::REMOVEDIR).is_ok() {
        return Ok(());
    }
    empty(fd)?;
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}

fn empty(directory: &OwnedFd) -> Result<(), Errno> {
    let names = Dir::read_from(directory)?.map(|entry| Ok(entry?.file_name().to_owned()));
    for name in names.collect::<Result<Vec<_>, Errno>>()? {
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match unlinkat(directory, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => {
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let resolve = ResolveFlags::NO_XDEV;
                empty(&openat2(directory, &name, flags, Mode::empty(), resolve)?)?;
                unlinkat(directory, &name, AtFlags::REMOVEDIR)?;
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
