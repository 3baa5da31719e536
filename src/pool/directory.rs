//! The pool directory: where ready overlays lie, owned by one live process.
//!
//! A directory is made below the configured one under a name that can't be guessed, and its
//! owner holds a lock on it for life. The lock, not a PID, tells a live owner's directory from
//! one that a dead owner left; the kernel gives it up however the owner ends. All work inside
//! goes through the open directory, so that nobody can put another one in its place.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, Stat, StatVfs, flock, fstat,
    fstatvfs, mkdirat, openat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::rename::rename_new;
use super::target::Target;
use super::upkeep::{Leftover, Sweep};

/// What the names of pool directories begin with.
const POOL: &str = "pool-";
/// What the names of VMs' working directories begin with.
const VM: &str = "vm-";
const RANDOM_DIGITS: usize = 32;
/// How often a new directory is tried for when a sweep takes it away before it is locked.
const ATTEMPTS: usize = 16;

/// A pool directory that this process owns. Dropped, it is removed.
#[derive(Debug)]
pub(crate) struct Directory {
    parent: OwnedFd,
    name: String,
    path: PathBuf,
    fd: OwnedFd,
    next: AtomicU64,
    made_parent: bool,
}

impl Directory {
    /// Makes and locks a pool directory below `parent`, which is made too where it is missing.
    /// A failure leaves nothing behind.
    pub(crate) fn create(parent: &Path) -> io::Result<Self> {
        Self::create_named(parent, POOL)
    }

    /// Like [`create`](Self::create), for what belongs to one VM.
    pub(crate) fn create_for_vm(parent: &Path) -> io::Result<Self> {
        Self::create_named(parent, VM)
    }

    fn create_named(parent: &Path, prefix: &str) -> io::Result<Self> {
        let mut made_parent = false;
        let created = Self::create_below(parent, prefix, &mut made_parent);
        if created.is_err() && made_parent {
            // Another pool may be in it.
            let _ = std::fs::remove_dir(parent);
        }
        created
    }

    fn create_below(parent: &Path, prefix: &str, made_parent: &mut bool) -> io::Result<Self> {
        for _ in 0..ATTEMPTS {
            *made_parent |= make_parent(parent)?;
            let parent_fd = open_parent(parent)?;
            let name = format!("{prefix}{:0RANDOM_DIGITS$x}", rand::random::<u128>());
            match mkdirat(&parent_fd, &name, Mode::RWXU) {
                // The parent was removed by the last pool in it.
                Err(Errno::NOENT) => continue,
                result => result?,
            }
            let owned = own(&parent_fd, &name);
            if let Ok(Some(fd)) = owned {
                let path = parent.join(&name);
                let (next, made_parent) = (AtomicU64::new(0), *made_parent);
                return Ok(Self { parent: parent_fd, name, path, fd, next, made_parent });
            }
            // It can't be locked, or a sweep has it and may only have looked.
            let _ = unlinkat(&parent_fd, &name, AtFlags::REMOVEDIR);
            owned?;
        }
        Err(io::Error::other("the new pool directory was removed again and again"))
    }

    /// The directory's own name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What `fstatvfs` says of the filesystem.
    pub(crate) fn statvfs(&self) -> io::Result<StatVfs> {
        Ok(fstatvfs(&self.fd)?)
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
        let mut again = Self::create(parent)?;
        again.made_parent |= self.made_parent;
        Ok(again)
    }

    /// Removes what is left of our files and the directory itself; files that are not ours are
    /// left, and then so is the directory.
    pub(crate) fn remove(&self) -> io::Result<()> {
        if self.is_gone()? {
            return Ok(());
        }
        remove(self.parent.as_fd(), &self.name, &self.fd)?;
        if self.made_parent
            && let Some(parent) = self.path.parent()
        {
            // Another pool may be in it.
            let _ = std::fs::remove_dir(parent);
        }
        Ok(())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(directory = %self.path.display(), %error, "pool directory not removed");
        }
    }
}

/// An overlay in a pool directory, ready or being made. Dropped, it is removed.
#[derive(Debug)]
pub(crate) struct Entry {
    directory: Arc<Directory>,
    number: u64,
    moved: bool,
}

impl Entry {
    /// Makes an empty file, exclusively and readable for its owner alone.
    pub(crate) fn create(directory: &Arc<Directory>) -> io::Result<(Self, File)> {
        let number = directory.next.fetch_add(1, Ordering::Relaxed);
        let entry = Self { directory: Arc::clone(directory), number, moved: false };
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = openat(&directory.fd, entry.name(), flags, mode)?;
        Ok((entry, file.into()))
    }

    /// Moves the overlay to `target`, atomically and only where nothing is there.
    pub(crate) fn move_to(mut self, target: &Target) -> Result<(), (Self, Errno)> {
        match rename_new(&self.directory.fd, self.name().as_ref(), target) {
            Ok(()) => {
                self.moved = true;
                Ok(())
            }
            Err(errno) => Err((self, errno)),
        }
    }

    /// Opens the overlay for reading and writing.
    pub(crate) fn open(&self) -> Result<File, Errno> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.directory.fd, self.name(), flags, Mode::empty()).map(File::from)
    }

    /// Whether the file is still there.
    pub(crate) fn exists(&self) -> bool {
        statat(&self.directory.fd, self.name(), AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    fn name(&self) -> String {
        format!("{}.qcow2", self.number)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.moved {
            let _ = unlinkat(&self.directory.fd, self.name(), AtFlags::empty());
        }
    }
}

/// The pool directories below `parent` that dead owners left.
pub(crate) fn sweep(parent: &Path, what: Sweep) -> io::Result<Vec<Leftover>> {
    let parent_fd = match open_parent(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result?,
    };
    let mut dead = Vec::new();
    for entry in Dir::read_from(&parent_fd)? {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().ok().filter(|name| is_ours(name)) else {
            continue;
        };
        // Another user's, a live owner's, or gone by now: not ours to judge.
        let Ok(Some(fd)) = own(&parent_fd, name) else { continue };
        let error = match what {
            Sweep::Look => None,
            Sweep::Remove => remove(parent_fd.as_fd(), name, &fd).err(),
        };
        dead.push(Leftover { path: parent.join(name), error });
    }
    dead.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(dead)
}

/// Whether a path leads through a directory named as a pool's (rule D4).
pub(crate) fn leads_into_pool(path: &Path) -> bool {
    any_component(path, |name| is_named(name, POOL))
}

/// Like [`leads_into_pool`], also for the directories of VMs.
pub(crate) fn leads_into_owned(path: &Path) -> bool {
    any_component(path, is_ours)
}

/// What is said of a target in such a directory.
pub(crate) fn would_be_swept() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "its directory is named as those are that are removed with their pool; choose another",
    )
}

fn any_component(path: &Path, test: impl Fn(&str) -> bool) -> bool {
    path.components().any(|component| component.as_os_str().to_str().is_some_and(&test))
}

fn is_ours(name: &str) -> bool {
    is_named(name, POOL) || is_named(name, VM)
}

fn is_named(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|random| {
        random.len() == RANDOM_DIGITS && random.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

fn same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// Says whether it made the directory.
fn make_parent(parent: &Path) -> io::Result<bool> {
    let mut builder = std::fs::DirBuilder::new();
    builder.mode(0o700);
    match builder.create(parent) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            builder.recursive(true).create(parent).map(|()| true)
        }
        Err(error) => Err(error),
    }
}

/// Opens the directory that pool directories are made in, where nobody else may change it.
fn open_parent(parent: &Path) -> io::Result<OwnedFd> {
    let fd = openat(CWD, parent, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let stat = fstat(&fd)?;
    let mode = Mode::from_raw_mode(stat.st_mode);
    let others_write = mode.intersects(Mode::WGRP | Mode::WOTH) && !mode.contains(Mode::SVTX);
    let foreign = stat.st_uid != 0 && stat.st_uid != geteuid().as_raw();
    if foreign || others_write {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "another user may change this directory; let it belong to the pool's user, mode 0700",
        ));
    }
    Ok(fd)
}

/// Opens and locks a pool directory of this user; none where another holds it or it is gone.
fn own(parent: &OwnedFd, name: &str) -> io::Result<Option<OwnedFd>> {
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

fn remove(parent: impl AsFd, name: &str, fd: &OwnedFd) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in Dir::read_from(fd)? {
        let entry = entry?;
        if entry.file_type() != FileType::Directory {
            names.push(entry.file_name().to_owned());
        }
    }
    for name in names {
        match unlinkat(fd, name, AtFlags::empty()) {
            Err(Errno::NOENT) => {}
            result => result?,
        }
    }
    Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}
