//! Which files a client may name.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use rustix::fs::{AtFlags, OFlags, statat};

use super::open;
use super::roots::{RootError, Roots};
use crate::image::{BaseRef, discover};
use crate::place::leads_through;

/// What errors call what a path is of.
const TARGET: &str = "target";
const BASE: &str = "base image";

/// Whose directories are removed with all that is in them, beside the pools', which they see to
/// themselves.
const SWEPT: [&str; 2] = [open::PREFIX, "vm-"];

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
        /// `target` or `base image`, or what a directory is that they are in.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl AccessError {
    fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), source }
    }

    /// What `roots` say of a path, in a client's words.
    fn of(what: &'static str, path: &Path, roots: &Roots, error: RootError) -> Self {
        let path = path.to_owned();
        match error {
            RootError::Relative => Self::Relative { what, path },
            RootError::Outside => {
                let allowed: Vec<_> =
                    roots.paths().map(|root| root.display().to_string()).collect();
                let allowed =
                    if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
                Self::Denied { what, path, allowed }
            }
            RootError::Io(source) => Self::Io { what, path, source },
        }
    }
}

/// Which files a client may name: targets below given directories; base images below others, and
/// those that the administrator named or linked to there.
///
/// A path is resolved by the kernel from the directory down and can't lead out of it, whoever
/// renames or links what meanwhile.
#[derive(Debug)]
pub struct Access {
    targets: Roots,
    images: Roots,
    named: Vec<BaseRef>,
    /// Base images that may be named wherever they lie: as they are written, and resolved.
    known: RwLock<HashSet<PathBuf>>,
}

impl Access {
    /// Allows targets below `targets`, base images below `images`, and the base images `named`.
    /// Relative paths are those of this call's working directory.
    ///
    /// # Errors
    ///
    /// [`AccessError::Io`] where a directory can't be opened, or isn't known.
    pub fn new(
        targets: &[PathBuf],
        images: &[PathBuf],
        named: Vec<BaseRef>,
    ) -> Result<Self, AccessError> {
        let open = |what, paths| {
            Roots::open(paths).map_err(|(path, source)| AccessError::io(what, &path, source))
        };
        let targets = open("directory of targets", targets)?;
        let images = open("directory of base images", images)?;
        let absolute = |BaseRef { path, format }| match std::path::absolute(&path) {
            Ok(path) => Ok(BaseRef { path, format }),
            Err(source) => Err(AccessError::io(BASE, &path, source)),
        };
        let named = named.into_iter().map(absolute).collect::<Result<_, _>>()?;
        let access = Self { targets, images, named, known: RwLock::default() };
        access.bases();
        Ok(access)
    }

    /// The base images to keep ready: those that were named, and those that are in the directories
    /// of images now by the convention of their names. From now on clients may name these, also
    /// where a symbolic link in such a directory leads out of it.
    pub fn bases(&self) -> Vec<BaseRef> {
        let found = self.images.paths().flat_map(discover);
        let bases: Vec<_> = self.named.iter().cloned().chain(found).collect();
        let both = |base: &BaseRef| [base.path.canonicalize().ok(), Some(base.path.clone())];
        let known = bases.iter().flat_map(both).flatten().collect();
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
        bases
    }

    /// Opens the directory that a target is in.
    ///
    /// # Errors
    ///
    /// All that an [`AccessError`] can be.
    pub fn target(&self, path: &Path) -> Result<OwnedFd, AccessError> {
        let failed = |source| AccessError::io(TARGET, path, source);
        // `file_name` doesn't see a last `/` or `/.`, after which comes no file's name.
        let bytes = path.as_os_str().as_encoded_bytes();
        let named = !bytes.ends_with(b"/") && !bytes.ends_with(b"/.");
        let (directory, name) = match (path.parent(), path.file_name()) {
            (Some(directory), Some(name)) if named => (directory, name.as_encoded_bytes()),
            _ => return Err(AccessError::NoName { what: TARGET, path: path.to_owned() }),
        };
        let directory = self
            .targets
            .open_below(directory, OFlags::DIRECTORY)
            .map_err(|error| AccessError::of(TARGET, path, &self.targets, error))?;
        // One that exists is refused for that (rule A1).
        let is_free = || statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW).is_err();
        let real = path_of(&directory).map_err(failed)?;
        if SWEPT.iter().any(|prefix| leads_through(&real, prefix)) && is_free() {
            let why = "what is in this directory is removed with its owner; choose another";
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, why)));
        }
        Ok(directory)
    }

    /// Resolves the path of a base image.
    ///
    /// # Errors
    ///
    /// All that an [`AccessError`] can be.
    pub fn base(&self, path: &Path) -> Result<PathBuf, AccessError> {
        if self.knows(path) {
            return Ok(path.to_owned());
        }
        match self.images.open_below(path, OFlags::empty()) {
            Ok(file) => path_of(&file).map_err(|source| AccessError::io(BASE, path, source)),
            Err(error) => {
                // The resolved path is what is handed on: the link may be another by then.
                let linked = matches!(error, RootError::Outside) && self.images.hold(path);
                let resolved = linked.then(|| path.canonicalize().ok()).flatten();
                resolved
                    .filter(|resolved| self.knows(resolved))
                    .ok_or_else(|| AccessError::of(BASE, path, &self.images, error))
            }
        }
    }

    fn knows(&self, path: &Path) -> bool {
        self.known.read().unwrap_or_else(PoisonError::into_inner).contains(path)
    }
}

fn path_of(file: &OwnedFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}
