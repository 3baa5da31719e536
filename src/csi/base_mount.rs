//! A base image, shown in a volume read-only.
//!
//! The driver's mounts appear on the node, and in Pods, by propagation, which copies a mount as it
//! is when it is attached and never tells of a later change. So a mount is read-only before anybody
//! sees it, and there is no moment at which it could be written through.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, StatxAttributes, StatxFlags, openat, statx};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};
use rustix::path::Arg;

use crate::sys;

/// How many mounts may lie over each other.
const MOST: usize = 16;

/// Attaches the file `base` at a name in a directory, unless something is mounted there.
pub(super) fn attach(base: &Path, directory: &OwnedFd, name: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    match openat(directory, name, flags, Mode::RUSR) {
        Err(Errno::EXIST) if is_mounted(directory, name)? => return Ok(()),
        Ok(_) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = i32::try_from(OFlags::PATH.bits()).unwrap_or(0);
    let base = File::options().read(true).custom_flags(flags).open(base)?;
    if !base.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let mount = open_tree(&base, c"", flags).map_err(explained)?;
    sys::make_mount_read_only(&mount).map_err(|error| match Errno::from_io_error(&error) {
        Some(errno) => explained(errno),
        None => error,
    })?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&mount, c"", directory, name, flags).map_err(explained)
}

/// Takes away what is mounted at a name in a directory.
pub(super) fn detach(directory: &OwnedFd, name: &str) -> io::Result<()> {
    for _ in 0..MOST {
        if !is_mounted(directory, name)? {
            return Ok(());
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mounted = openat(directory, name, flags, Mode::empty())?;
        // The mount that was opened, whatever has its name now. Who has it open keeps it.
        let path = format!("/proc/self/fd/{}", mounted.as_raw_fd());
        unmount(path, UnmountFlags::DETACH).map_err(explained)?;
    }
    Err(io::Error::other(format!("over {MOST} mounts over each other")))
}

/// Whether something is mounted at a name in a directory.
pub(super) fn is_mounted(directory: impl AsFd, name: impl Arg) -> io::Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let found = match statx(directory, name, flags, StatxFlags::empty()) {
        Err(Errno::NOENT) => return Ok(false),
        found => found?,
    };
    if !found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
        return Err(io::Error::other("the kernel doesn't tell mounts; use Linux 5.12 or later"));
    }
    Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// What is said of a mount that isn't the driver's.
pub(super) fn in_the_way() -> io::Error {
    io::Error::new(io::ErrorKind::ResourceBusy, "something is mounted there; unmount it")
}

/// What the system says of a mount, and what to do about it.
fn explained(errno: Errno) -> io::Error {
    let error = io::Error::from(errno);
    let advice = match errno {
        Errno::PERM | Errno::ACCESS => "the driver needs the right to mount (privileged)",
        Errno::NOSYS => "use Linux 5.12 or later",
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{error}; {advice}"))
}
