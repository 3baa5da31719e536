//! Disks that callers bring: opened once, judged, and locked as QEMU locks them.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::disk_error::{DiskError, Unfit};
use crate::image::{BaseImage, Layer};
use crate::paths::explained;

/// Where QEMU locks an image, a byte for each right: from here on those that a process has, and from
/// there on those that it lets no other have (`RAW_LOCK_PERM_BASE`, `RAW_LOCK_SHARED_BASE` in QEMU's
/// `block/file-posix.c`). The second right is to write.
const WRITES: i64 = 100 + 1;
const ALONE: i64 = 200 + 1;

/// A disk that a caller has: an overlay of the language's base image, such as one that
/// [`VmManager::keep_disk`](super::VmManager::keep_disk) left or a pool handed over.
///
/// It is the caller's before, during and after: it is never moved and never removed. What the VM
/// changes stays in it.
#[derive(Debug)]
pub struct OwnDisk {
    path: PathBuf,
    file: Option<File>,
}

impl OwnDisk {
    /// The disk at this path, which is opened when the VM is made. A symbolic link there isn't
    /// followed.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), file: None }
    }

    /// One that was opened for reading and writing before: the path isn't looked up again, and is what
    /// errors call the disk.
    pub fn opened(file: File, path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), file: Some(file) }
    }

    /// Opens it, judges it as an overlay of this base image, whose file may have so many MiB, and
    /// keeps others from it. Blocks.
    pub(super) fn attach(self, base: &BaseImage, limit_mib: u32) -> Result<Attached, DiskError> {
        let Self { path, file } = self;
        let attach = || {
            let file = file.map_or_else(|| open(&path), Ok)?;
            let path = std::path::absolute(&path)?;
            // What is no such disk, as the base image itself is not, is not locked at all; and what is
            // judged afterwards stays as it is.
            Layer::judge(&file, &path, base)?;
            lock(&file)?;
            let Layer { virtual_size, file_len } = Layer::judge(&file, &path, base)?;
            if file_len > u64::from(limit_mib) << 20 {
                return Err(Unfit::TooLong { bytes: file_len, limit_mib });
            }
            Ok(Attached { path, file, virtual_size })
        };
        attach().map_err(|why| DiskError { path: path.clone(), why })
    }
}

/// A caller's disk that a VM has. Others are kept from it until this and QEMU's descriptor of it are
/// closed, or it is given back.
#[derive(Debug)]
pub(super) struct Attached {
    path: PathBuf,
    file: File,
    /// How large the guest's disk is, in bytes.
    pub(super) virtual_size: u64,
}

impl Attached {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The same open file again, and so its lock.
    pub(super) fn open(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Lets others have it, once QEMU has ended. A child of this process that is just being started
    /// may have it open for a moment longer.
    pub(super) fn give_back(&self) {
        let everything = range(libc::F_UNLCK, 0, 0);
        if let Err(errno) = fcntl(&self.file, FcntlArg::F_OFD_SETLK(&everything)) {
            tracing::warn!(disk = %self.path.display(), %errno, "its lock stays a moment longer");
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Without O_NONBLOCK, opening a device could wait.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let flags = i32::try_from(flags).unwrap_or(0);
    let opened = File::options().read(true).write(true).custom_flags(flags).open(path);
    opened.map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::LOOP) if path.is_symlink() => {
            let why = "a symbolic link; name the file that it leads to";
            io::Error::new(error.kind(), why)
        }
        _ => explained(path, path, error),
    })
}

/// Takes the lock that QEMU, which shares the open file, will turn into its own: no other process that
/// asks for such locks may read or write the image from now on.
fn lock(file: &File) -> Result<(), Unfit> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&range(libc::F_WRLCK, ALONE, 1))) {
        Err(nix::Error::EAGAIN | nix::Error::EACCES) => return Err(Unfit::InUse),
        locked => locked.map_err(io::Error::from)?,
    };
    // One that lets others write too.
    let mut writes = range(libc::F_WRLCK, WRITES, 1);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut writes)).map_err(io::Error::from)?;
    if i32::from(writes.l_type) == libc::F_UNLCK { Ok(()) } else { Err(Unfit::InUse) }
}

/// A lock on `length` bytes from `start` on, on all if it is 0.
fn range(kind: i32, start: i64, length: i64) -> libc::flock {
    let [l_type, l_whence] = [kind, libc::SEEK_SET].map(|value| value.try_into().unwrap_or(0));
    libc::flock { l_type, l_whence, l_start: start, l_len: length, l_pid: 0 }
}
