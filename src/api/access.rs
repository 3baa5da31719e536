//! Which files a client may name.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

/// How often a look-up is tried again that met a rename somewhere on the way.
const ATTEMPTS: usize = 16;

/// Why a file may not be named, or can't be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// The path is relative: to what, nobody knows here.
    #[error("{what} {}: give an absolute path", path.display())]
    Relative {
        /// `target` or `base image`.
        what: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// The path ends in no name.
    #[error("{what} {}: give a path that ends in a file's name", path.display())]
    NoName {
        /// `target` or `base image`.
        what: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// The path is outside of all roots, or a symbolic link leads out of them.
    #[error("{what} {}: outside of the directories that the server allows: {allowed}", path.display())]
    Denied {
        /// `target` or `base image`.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// Where it may lie.
        allowed: String,
    },
    /// The path can't be opened.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// `target` or `base image`.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Which files a client may name: targets and base images below given directories, and given base
/// images.
///
/// A path is resolved by the kernel from the directory down and can't lead out of it, whoever
/// renames or links what meanwhile.
#[derive(Debug)]
pub struct Access {
    targets: Roots,
    bases: Roots,
    /// Base images that may be named wherever they lie.
    named: HashSet<PathBuf>,
}

impl Access {
    /// Allows targets below `targets`, base images below `bases`, and the base images `named`, as
    /// they are written and as they resolve now.
    ///
    /// # Errors
    ///
    /// [`AccessError::Io`] where a directory can't be opened.
    pub fn new(
        targets: &[PathBuf],
        bases: &[PathBuf],
        named: impl IntoIterator<Item = PathBuf>,
    ) -> Result<Self, AccessError> {
        let both = |path: PathBuf| [path.canonicalize().ok(), Some(path)];
        Ok(Self {
            targets: Roots::open("target", targets)?,
            bases: Roots::open("base image", bases)?,
            named: named.into_iter().flat_map(both).flatten().collect(),
        })
    }

    /// Opens the directory that a target is in.
    ///
    /// # Errors
    ///
    /// All that an [`AccessError`] can be.
    pub fn target(&self, path: &Path) -> Result<OwnedFd, AccessError> {
        // `file_name` doesn't see a last `.`, which is a name of the directory itself.
        let named = !path.as_os_str().as_encoded_bytes().ends_with(b"/.");
        match (path.parent(), path.file_name()) {
            (Some(directory), Some(_)) if named => {
                self.targets.open_below(directory, path, OFlags::DIRECTORY)
            }
            _ => Err(AccessError::NoName { what: "target", path: path.to_owned() }),
        }
    }

    /// Resolves the path of a base image.
    ///
    /// # Errors
    ///
    /// All that an [`AccessError`] can be.
    pub fn base(&self, path: &Path) -> Result<PathBuf, AccessError> {
        if self.named.contains(path) {
            return Ok(path.to_owned());
        }
        let file = self.bases.open_below(path, path, OFlags::empty())?;
        std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
            .map_err(|source| self.bases.failed(path, source))
    }
}

/// Directories that paths may not lead out of.
#[derive(Debug)]
struct Roots {
    what: &'static str,
    /// Each by the paths that lead to it, as written and resolved.
    roots: Vec<(PathBuf, OwnedFd)>,
}

impl Roots {
    fn open(what: &'static str, paths: &[PathBuf]) -> Result<Self, AccessError> {
        let mut found = Self { what, roots: Vec::new() };
        for path in paths {
            let open = || -> io::Result<_> {
                let absolute = std::path::absolute(path)?;
                let resolved = path.canonicalize()?;
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let root = openat(CWD, &resolved, flags, Mode::empty())?;
                Ok((absolute, resolved, root))
            };
            let (absolute, resolved, root) = open().map_err(|source| found.failed(path, source))?;
            if absolute != resolved {
                let again = root.try_clone().map_err(|source| found.failed(path, source))?;
                found.roots.push((absolute, again));
            }
            found.roots.push((resolved, root));
        }
        Ok(found)
    }

    /// Opens `path` below the root that it is in. Errors are about `named`.
    fn open_below(&self, path: &Path, named: &Path, flags: OFlags) -> Result<OwnedFd, AccessError> {
        if path.is_relative() {
            return Err(AccessError::Relative { what: self.what, path: named.to_owned() });
        }
        let mut roots = self.roots.iter();
        let below = roots.find_map(|(root, fd)| Some((path.strip_prefix(root).ok()?, fd)));
        let Some((rest, root)) = below else { return Err(self.denied(named)) };
        match open_beneath(root, rest, flags | OFlags::PATH | OFlags::CLOEXEC) {
            Ok(fd) => Ok(fd),
            Err(Errno::XDEV | Errno::LOOP) => Err(self.denied(named)),
            Err(errno) => Err(self.failed(named, errno.into())),
        }
    }

    fn denied(&self, path: &Path) -> AccessError {
        let allowed = self.roots.iter().map(|(root, _)| root.display().to_string());
        let allowed = allowed.collect::<Vec<_>>().join(", ");
        let allowed = if allowed.is_empty() { "none".to_owned() } else { allowed };
        AccessError::Denied { what: self.what, path: path.to_owned(), allowed }
    }

    fn failed(&self, path: &Path, source: io::Error) -> AccessError {
        AccessError::Io { what: self.what, path: path.to_owned(), source }
    }
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
