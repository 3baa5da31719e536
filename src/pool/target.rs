//! Where an overlay is handed over.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, statat};

use super::absolute;
use crate::error::Error;

/// Where an overlay shall be: a path, or a name in an open directory.
///
/// # Example
///
/// ```
/// use std::fs::File;
///
/// use overlay_pool::Target;
///
/// # let dir = tempfile::tempdir()?;
/// # let run = dir.path();
/// let by_path = Target::from(run.join("disk.qcow2"));
/// // Whatever `run` leads to later, the overlay appears in the directory that was opened.
/// let in_opened = Target::within(File::open(run)?, run.join("disk.qcow2"));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    directory: Option<OwnedFd>,
}

impl Target {
    /// The last component of `path`, in `directory`, which was opened before: `path` is not
    /// looked up again, and is what answers and errors call the target.
    pub fn within(directory: impl Into<OwnedFd>, path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), directory: Some(directory.into()) }
    }

    /// Makes a relative path absolute.
    pub(super) fn resolved(self) -> Result<Self, Error> {
        Ok(Self { path: absolute(&self.path)?, ..self })
    }

    /// What answers and errors call it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn into_path(self) -> PathBuf {
        self.path
    }

    /// What a system call takes: a directory, and the target's path from there.
    pub(super) fn place(&self) -> (BorrowedFd<'_>, &OsStr) {
        match &self.directory {
            Some(directory) => (directory.as_fd(), self.path.file_name().unwrap_or_default()),
            None => (CWD, self.path.as_os_str()),
        }
    }

    /// The directory that the target is in; the root directory is in none.
    pub(super) fn directory(&self) -> Option<(BorrowedFd<'_>, &Path)> {
        match &self.directory {
            Some(directory) => Some((directory.as_fd(), Path::new("."))),
            None => Some((CWD, self.path.parent()?)),
        }
    }

    /// Anything there is in the way, also a symbolic link that leads nowhere.
    pub(crate) fn refuse_existing(&self) -> Result<(), Error> {
        let (directory, name) = self.place();
        match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Err(Error::AlreadyExists { target: self.path.clone() }),
            Err(_) => Ok(()),
        }
    }
}

impl<P: AsRef<Path>> From<P> for Target {
    fn from(path: P) -> Self {
        Self { path: path.as_ref().to_owned(), directory: None }
    }
}
