//! Where a file shall be.

use std::ffi::{OsStr, OsString};
#[cfg(all(feature = "server", feature = "vm"))]
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, openat, openat2, statat};
use rustix::io::Errno;

use super::hidden::Hidden;
use super::names::leads_through;
use crate::image::absolute;
use crate::paths::{explained, of_open};

/// The longest name of a file in bytes, on Linux' filesystems.
const NAME_MAX: usize = 255;

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
    directory: Option<Arc<OwnedFd>>,
    /// Where that is, if whoever opened it knows.
    real: Option<PathBuf>,
}

impl Target {
    /// The last component of `path`, in `directory`, which was opened before: `path` is not
    /// looked up again, and is what answers and errors call the target.
    pub fn within(directory: impl Into<OwnedFd>, path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), directory: Some(Arc::new(directory.into())), real: None }
    }

    /// The same, in a directory that was found at `real`, without a symbolic link on the way, or that
    /// is this process' own.
    #[cfg(feature = "server")]
    pub(crate) fn found_at(real: PathBuf, directory: Arc<OwnedFd>, path: PathBuf) -> Self {
        Self { path, directory: Some(directory), real: Some(real) }
    }

    /// Makes a relative path absolute, by the working directory and without a look at the disk.
    pub(crate) fn absolute(self) -> Result<Self, (PathBuf, io::Error)> {
        let path = if self.path.is_absolute() { self.path } else { absolute(self.path)? };
        // Without a slash at its end.
        Ok(Self { path: path.components().collect(), ..self })
    }

    /// Opens the directory that the target shall be in, if it isn't open already. From then on
    /// nothing of its path is looked up again.
    pub(crate) fn open(self) -> Result<Spot, (PathBuf, io::Error)> {
        // What has no last component is a directory: `.` in itself, and so in the way.
        let (parent, name) = match (self.path.parent(), self.path.file_name()) {
            (Some(parent), Some(name)) => (parent, name),
            _ => (self.path.as_path(), OsStr::new(".")),
        };
        // What no file can be called must not cost a ready overlay.
        let impossible = if name.len() > NAME_MAX {
            Some(Errno::NAMETOOLONG)
        } else {
            name.as_bytes().contains(&0).then_some(Errno::INVAL)
        };
        if let Some(errno) = impossible {
            return Err((self.path, errno.into()));
        }
        let opened = match self.directory {
            Some(directory) => {
                let real = self.real.map_or_else(|| of_open(&directory), Ok);
                real.map(|real| (directory, Some(real))).map_err(io::Error::from)
            }
            None => open(parent)
                .map(|(directory, real)| (directory.into(), real))
                .map_err(|error| explained(parent, &self.path, error)),
        };
        let name = name.to_owned();
        match opened {
            Ok((directory, real)) => Ok(Spot { path: self.path, directory, name, real }),
            Err(error) => Err((self.path, error)),
        }
    }
}

impl<P: AsRef<Path>> From<P> for Target {
    fn from(path: P) -> Self {
        Self { path: path.as_ref().to_owned(), directory: None, real: None }
    }
}

/// A target whose directory is open.
#[derive(Debug)]
pub(crate) struct Spot {
    path: PathBuf,
    directory: Arc<OwnedFd>,
    name: OsString,
    /// Where the directory is, if its path doesn't say so.
    real: Option<PathBuf>,
}

impl Spot {
    /// The last component of a path, in its directory as that is found now.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        let opened = Target::from(path).absolute().and_then(Target::open);
        opened.map_err(|(_, error)| error)
    }

    /// What answers and errors call it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn into_path(self) -> PathBuf {
        self.path
    }

    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }

    /// Opens the file that is there for reading and writing; none if there is none. A symbolic link
    /// isn't followed.
    #[cfg(all(feature = "server", feature = "vm"))]
    pub(crate) fn open_file(&self) -> io::Result<Option<File>> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match openat(&self.directory, &self.name, flags, Mode::empty()) {
            Ok(file) => Ok(Some(file.into())),
            Err(Errno::NOENT | Errno::LOOP | Errno::ISDIR | Errno::NXIO) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether something is there, if only a symbolic link that leads nowhere.
    pub(crate) fn exists(&self) -> bool {
        statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// That it neither is in a directory of such an owner, nor its path leads through one's name
    /// (rule D4); nor has a name that is removed as a killed process'.
    pub(crate) fn expect_outside(&self, prefix: &str) -> io::Result<()> {
        let by_path = self.path.parent().is_some_and(|parent| leads_through(parent, prefix));
        if by_path || self.real.as_deref().is_some_and(|real| leads_through(real, prefix)) {
            let why = "its directory is named as those are that are removed with their pool; choose \
                       another";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        if self.name.to_str().and_then(Hidden::of).is_some() {
            let why = "files of such a name are removed, since killed processes leave them; choose \
                       another";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        Ok(())
    }
}

/// Opens a directory to make files in; says where it is if there are symbolic links in its path.
fn open(path: &Path) -> io::Result<(OwnedFd, Option<PathBuf>)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // Most paths have none; this spares them a look into /proc.
    if let Ok(fd) = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        return Ok((fd, None));
    }
    let fd = openat(CWD, path, flags, Mode::empty())?;
    let real = of_open(&fd)?;
    Ok((fd, Some(real)))
}

#[cfg(test)]
mod tests {
    use std::path::{PathBuf, absolute};

    use super::Target;

    /// What is absolute comes out as if it were made so.
    #[test]
    fn a_target_is_its_components_from_the_root() {
        let paths = [
            "/run/disk.qcow2",
            "/run/../disk.qcow2",
            "/.hidden/..disk",
            "/",
            "//disk.qcow2",
            "/run//disk.qcow2",
            "/run/./disk.qcow2",
            "/run/disk.qcow2/",
            "/run/disk.qcow2/.",
            "run/disk.qcow2",
        ];
        for path in paths {
            let expected: PathBuf = absolute(path).expect("a path").components().collect();
            let made = Target::from(path).absolute().expect("a path").path;
            assert_eq!(made.as_os_str(), expected.as_os_str(), "{path}");
        }
        Target::from("").absolute().expect_err("none");
    }
}
