//! Directories that a client's paths may not lead out of.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

/// How often a look-up is tried again that met a rename somewhere on the way.
const ATTEMPTS: usize = 16;

/// Why a path can't be opened below a root.
#[derive(Debug)]
pub(super) enum RootError {
    /// It is relative.
    Relative,
    /// It is outside of all roots, or a symbolic link leads out of them.
    Outside,
    /// The system says why not.
    Io(io::Error),
}

/// Directories that paths may not lead out of.
#[derive(Debug)]
pub(super) struct Roots(Vec<Root>);

#[derive(Debug)]
struct Root {
    written: PathBuf,
    resolved: PathBuf,
    /// The directory itself, whatever is later at its path.
    open: RwLock<Arc<OwnedFd>>,
}

impl Roots {
    /// Opens the directories; where one can't be opened, says which.
    pub(super) fn open(paths: &[PathBuf]) -> Result<Self, (PathBuf, io::Error)> {
        let open = |path: &PathBuf| Root::open(path).map_err(|source| (path.clone(), source));
        Ok(Self(paths.iter().map(open).collect::<Result<_, _>>()?))
    }

    /// Their resolved paths.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|root| root.resolved.as_path())
    }

    /// Whether a path, as it is written, begins with that of a root.
    pub(super) fn hold(&self, path: &Path) -> bool {
        self.0.iter().any(|root| root.rest(path).is_some())
    }

    /// Opens `path` below the root that it is in.
    pub(super) fn open_below(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, RootError> {
        if path.is_relative() {
            return Err(RootError::Relative);
        }
        let below = |root: &'_ Root| Some(root.open_below(root.rest(path)?, flags));
        match self.0.iter().find_map(below) {
            Some(Ok(file)) => Ok(file),
            None | Some(Err(Errno::XDEV | Errno::LOOP)) => Err(RootError::Outside),
            Some(Err(errno)) => Err(RootError::Io(errno.into())),
        }
    }
}

impl Root {
    fn open(path: &Path) -> io::Result<Self> {
        let (written, resolved) = (std::path::absolute(path)?, path.canonicalize()?);
        let open = RwLock::new(Arc::new(open_directory(&resolved)?));
        Ok(Self { written, resolved, open })
    }

    /// What of a path comes after this root's own, written or resolved.
    fn rest<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        let roots = [&self.resolved, &self.written];
        roots.into_iter().find_map(|root| path.strip_prefix(root).ok())
    }

    fn open_below(&self, rest: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
        open_beneath(&*self.directory()?, rest, flags)
    }

    /// The directory, or that which was made in its place since it was removed.
    fn directory(&self) -> Result<Arc<OwnedFd>, Errno> {
        let open = Arc::clone(&self.open.read().unwrap_or_else(PoisonError::into_inner));
        if !is_removed(&open) {
            return Ok(open);
        }
        let new = Arc::new(open_directory(&self.resolved)?);
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&new);
        Ok(new)
    }
}

/// Opens a directory by its resolved path, which no symbolic link is in.
fn open_directory(resolved: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(CWD, resolved, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
}

fn is_removed(directory: &OwnedFd) -> bool {
    fstat(directory).is_ok_and(|stat| stat.st_nlink == 0)
}

fn open_beneath(root: &OwnedFd, rest: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let rest = if rest.components().next().is_none() {
        Path::new(Component::CurDir.as_os_str())
    } else {
        rest
    };
    let mut attempts = 1;
    loop {
        match openat2(root, rest, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if attempts < ATTEMPTS => attempts += 1,
            result => return result,
        }
    }
}
