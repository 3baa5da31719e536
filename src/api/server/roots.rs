//! Directories that a client's paths may not lead out of.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Stat, fstat, openat2, statat};
use rustix::io::Errno;

use crate::paths::of_open;

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
    /// As the administrator wrote it.
    written: PathBuf,
    held: RwLock<Arc<Held>>,
}

/// A directory, and the resolved path at which it was found.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) path: PathBuf,
    pub(super) fd: OwnedFd,
    identity: (u64, u64),
}

impl Roots {
    /// Opens the directories; if one can't be opened, says which.
    pub(super) fn open(paths: &[PathBuf]) -> Result<Self, (PathBuf, io::Error)> {
        let open = |path: &PathBuf| Root::open(path).map_err(|source| (path.clone(), source));
        Ok(Self(paths.iter().map(open).collect::<Result<_, _>>()?))
    }

    /// Resolves again what the administrator wrote. What leads nowhere stays what it was.
    pub(super) fn resolve_again(&self) {
        for root in &self.0 {
            match Held::resolve(&root.written) {
                Ok(held) => root.hold(held),
                Err(error) => {
                    let directory = root.written.display();
                    tracing::warn!(%directory, %error, "can't be resolved again");
                    continue;
                }
            };
        }
    }

    /// Their resolved paths.
    pub(super) fn paths(&self) -> impl Iterator<Item = PathBuf> {
        self.0.iter().map(|root| root.held().path.clone())
    }

    /// Whether a path, as it is written, begins with that of a root.
    pub(super) fn hold(&self, path: &Path) -> bool {
        self.0.iter().any(|root| root.rest(&root.held(), path).is_some())
    }

    /// Opens `path` below the root that it is in.
    pub(super) fn open_below(
        &self,
        path: &Path,
        flags: OFlags,
    ) -> Result<(Arc<Held>, OwnedFd), RootError> {
        self.in_root(path, |root, rest| {
            let held = root.current()?;
            let file = held.open_below(rest, flags)?;
            Ok((held, file))
        })
    }

    /// Opens the directory `path` below the root that it is in, and gives its resolved path.
    pub(super) fn directory(&self, path: &Path) -> Result<(OwnedFd, PathBuf), RootError> {
        self.in_root(path, |root, rest| {
            // Most paths have no links: what has such a name now lies where it says.
            let is_plain = rest.components().all(|part| matches!(part, Component::Normal(_)));
            let named = root.held().path.join(rest);
            if is_plain && let Ok(directory) = open_directory(&named) {
                return Ok((directory, named));
            }
            let directory = root.current()?.open_below(rest, OFlags::DIRECTORY)?;
            let real = of_open(&directory)?;
            Ok((directory, real))
        })
    }

    /// The error of looking `path` up, with the directory on its way that is missing or is none. What lies
    /// outside of the roots isn't looked at.
    pub(super) fn explained(&self, path: &Path, error: io::Error) -> io::Error {
        let kind = error.kind();
        if !matches!(kind, ErrorKind::NotFound | ErrorKind::NotADirectory) {
            return error;
        }
        let parts: Vec<_> = path.ancestors().skip(1).filter(|part| self.hold(part)).collect();
        let why = parts.into_iter().rev().find_map(|part| {
            let Err(RootError::Io(error)) = self.open_below(part, OFlags::DIRECTORY) else {
                return None;
            };
            let why = match error.kind() {
                ErrorKind::NotADirectory => "is not a directory",
                ErrorKind::NotFound if self.open_below(part, OFlags::NOFOLLOW).is_ok() => {
                    "is a link to what is missing"
                }
                ErrorKind::NotFound => "is missing",
                _ => return None,
            };
            Some(format!("{} {why}", part.display()))
        });
        why.map_or(error, |why| io::Error::new(kind, why))
    }

    /// Opens something in the first root that holds `path`, with what comes after the root's own.
    fn in_root<T>(
        &self,
        path: &Path,
        open: impl Fn(&Root, &Path) -> Result<T, Errno>,
    ) -> Result<T, RootError> {
        if path.is_relative() {
            return Err(RootError::Relative);
        }
        let below = |root: &Root| Some(open(root, root.rest(&root.held(), path)?));
        match self.0.iter().find_map(below) {
            Some(Ok(opened)) => Ok(opened),
            None | Some(Err(Errno::XDEV | Errno::LOOP)) => Err(RootError::Outside),
            Some(Err(errno)) => Err(RootError::Io(errno.into())),
        }
    }
}

impl Root {
    fn open(path: &Path) -> io::Result<Self> {
        let written = std::path::absolute(path)?;
        let held = RwLock::new(Arc::new(Held::resolve(&written)?));
        Ok(Self { written, held })
    }

    fn held(&self) -> Arc<Held> {
        Arc::clone(&self.held.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn hold(&self, held: Held) -> Arc<Held> {
        let held = Arc::new(held);
        self.held.write().unwrap_or_else(PoisonError::into_inner).clone_from(&held);
        held
    }

    /// What of a path comes after this root's own, written or resolved.
    fn rest<'a>(&self, held: &Held, path: &'a Path) -> Option<&'a Path> {
        [&held.path, &self.written].into_iter().find_map(|root| path.strip_prefix(root).ok())
    }

    /// The directory that its path names now: not one that was moved away or mounted over since.
    fn current(&self) -> Result<Arc<Held>, Errno> {
        let held = self.held();
        let named = statat(CWD, &held.path, AtFlags::SYMLINK_NOFOLLOW);
        if named.is_ok_and(|named| identity(&named) == held.identity) {
            return Ok(held);
        }
        Ok(self.hold(Held::open(held.path.clone())?))
    }
}

impl Held {
    fn resolve(written: &Path) -> io::Result<Self> {
        Ok(Self::open(written.canonicalize()?)?)
    }

    /// Opens a directory by its resolved path, which no symbolic link is in.
    pub(super) fn open(path: PathBuf) -> Result<Self, Errno> {
        let fd = open_directory(&path)?;
        let identity = identity(&fstat(&fd)?);
        Ok(Self { path, fd, identity })
    }

    fn open_below(&self, rest: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let rest = if rest.components().next().is_none() {
            Path::new(Component::CurDir.as_os_str())
        } else {
            rest
        };
        let open = || openat2(&self.fd, rest, flags, Mode::empty(), resolve);
        settled(open, |errno| *errno == Errno::AGAIN)
    }
}

/// Opens what a path without symbolic links names now.
fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
}

/// Looks again as long as something is renamed on the way, as `is_moving` tells: what is found is the
/// old file or the new one.
pub(super) fn settled<T, E>(
    look: impl Fn() -> Result<T, E>,
    is_moving: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let mut attempts = 1;
    loop {
        match look() {
            Err(error) if attempts < ATTEMPTS && is_moving(&error) => attempts += 1,
            looked => return looked,
        }
    }
}

/// What tells one file from another.
pub(super) fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::{ATTEMPTS, settled};

    /// Looks until there is something else than `first` at the `n`-th look; says how often.
    fn look(first: &'static str, n: usize) -> (Result<(), &'static str>, usize) {
        let looks = Cell::new(0);
        let one = || {
            looks.set(looks.get() + 1);
            if looks.get() < n { Err(first) } else { Ok(()) }
        };
        let found = settled(one, |error| *error == "moving");
        (found, looks.get())
    }

    #[test]
    fn what_moves_is_looked_at_again_and_not_for_ever() {
        assert_eq!(look("moving", 3), (Ok(()), 3));
        assert_eq!(look("moving", ATTEMPTS), (Ok(()), ATTEMPTS));
        assert_eq!(look("moving", usize::MAX), (Err("moving"), ATTEMPTS));
        assert_eq!(look("missing", 2), (Err("missing"), 1));
    }
}
