//! A file in an owned directory.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, fchown, openat, statat, unlinkat};
use rustix::io::Errno;
use rustix::process::getegid;

use super::directory::Directory;
use super::rename::{rename_new, why_apart};
use super::target::Spot;
#[cfg(feature = "server")]
use super::target::Target;

/// An overlay in an owned directory, finished or being made. Dropped, it is removed.
#[derive(Debug)]
pub(crate) struct Entry {
    directory: Arc<Directory>,
    number: u64,
    moved: bool,
}

impl Entry {
    /// A name at which nothing is yet, and a target that leads there.
    #[cfg(feature = "server")]
    pub(crate) fn reserve(directory: &Arc<Directory>) -> (Self, Target) {
        let number = directory.next_number();
        let entry = Self { directory: Arc::clone(directory), number, moved: false };
        let (real, at) = (directory.path().to_owned(), Arc::clone(directory.fd()));
        let path = real.join(entry.name());
        let target = Target::found_at(real, at, path);
        (entry, target)
    }

    /// Opens the file for reading and writing.
    #[cfg(feature = "server")]
    pub(crate) fn open(&self) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(self.directory.fd(), self.name(), flags, Mode::empty())?.into())
    }

    /// Makes an empty file, exclusively and readable for its owner alone.
    pub(crate) fn create(directory: &Arc<Directory>) -> io::Result<(Self, File)> {
        let number = directory.next_number();
        let entry = Self { directory: Arc::clone(directory), number, moved: false };
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let file = openat(directory.fd(), entry.name(), flags, Mode::RUSR | Mode::WUSR)?.into();
        make_private(&file)?;
        Ok((entry, file))
    }

    /// Moves the overlay to a spot, atomically and only where nothing is there.
    pub(crate) fn move_to(mut self, spot: &Spot) -> Result<(), (Self, Errno)> {
        match rename_new(self.directory.fd(), self.name().as_ref(), spot) {
            Ok(()) => {
                self.moved = true;
                Ok(())
            }
            Err(errno) => Err((self, errno)),
        }
    }

    /// Whether the file is in this directory, and still there.
    pub(crate) fn is_in(&self, directory: &Arc<Directory>) -> bool {
        let is_there = || statat(directory.fd(), self.name(), AtFlags::SYMLINK_NOFOLLOW).is_ok();
        Arc::ptr_eq(&self.directory, directory) && is_there()
    }

    /// Why it can't be moved to a spot, when the system says `EXDEV`.
    pub(crate) fn why_apart(&self, spot: &Spot) -> &'static str {
        why_apart(self.directory.fd(), spot.directory())
    }

    fn name(&self) -> String {
        format!("{}.qcow2", self.number)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.moved {
            let _ = unlinkat(self.directory.fd(), self.name(), AtFlags::empty());
        }
    }
}

/// Gives a new file mode 0600 and this process' group, which the umask, an ACL or a directory
/// with the set-group-ID bit may have made another (rule A11).
pub(super) fn make_private(file: &File) -> io::Result<()> {
    let made = file.metadata()?;
    if made.gid() != getegid().as_raw() {
        fchown(file, None, Some(getegid()))?;
    }
    if made.mode() & 0o7777 != 0o600 {
        file.set_permissions(PermissionsExt::from_mode(0o600))?;
    }
    Ok(())
}
