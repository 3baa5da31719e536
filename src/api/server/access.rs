//! Which files a client may name.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use rustix::fs::{AtFlags, OFlags, statat};

use super::roots::{RootError, Roots};
use super::trusted::{self, Distrust, Found};
use super::verdicts::Verdicts;
use super::{open, overlooked};
use crate::image::{BaseError, BaseImage, BaseRef, Format, InUse, References, discover, in_use};
use crate::paths::explained;
use crate::place::leads_through;

/// What errors call what a path is of.
pub(super) const TARGET: &str = "target";
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
    /// Others decide what the path of a base image leads to, today or later.
    #[error(
        "base image {}: others may write to {}, and so put another file in its place; let that \
         directory belong to root or to the server's user, and take from others the right to write \
         to it (chmod go-w)",
        path.display(), directory.display()
    )]
    Untrusted {
        /// The base image.
        path: PathBuf,
        /// The directory.
        directory: PathBuf,
    },
    /// What is there can't be a base image.
    #[error(transparent)]
    Base(#[from] BaseError),
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
    pub(super) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
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
            RootError::Io(source) => {
                let source = roots.explained(&path, source);
                Self::Io { what, path, source }
            }
        }
    }

    fn distrust(path: &Path, distrust: Distrust) -> Self {
        let path = path.to_owned();
        match distrust {
            Distrust::Directory(directory) => Self::Untrusted { path, directory },
            Distrust::Replaced => {
                let why = "it was replaced each time it was looked at; try again";
                Self::Io { what: BASE, path, source: io::Error::other(why) }
            }
            Distrust::Io(source) => Self::Io { what: BASE, path, source },
        }
    }
}

/// Which files a client may name: targets below given directories; base images below others, and
/// those that the administrator named or linked to there.
///
/// A path is resolved by the kernel from the directory down and can't lead out of it, whoever
/// renames or links what meanwhile. What was opened so is what is judged and used; and since
/// overlays record the path of their base image, nobody but root and this process' user may write
/// to the directories from that one down to the image.
#[derive(Debug)]
pub struct Access {
    targets: Roots,
    images: Roots,
    named: Vec<BaseRef>,
    /// Base images that may be named wherever they lie: as they are written, and resolved.
    known: RwLock<HashSet<PathBuf>>,
    notes: RwLock<Vec<String>>,
    verdicts: Verdicts,
    /// What the server keeps for itself.
    own: RwLock<Vec<PathBuf>>,
    /// Directories of what are no base images.
    hidden: RwLock<Vec<PathBuf>>,
    tell: OnceLock<Tell>,
}

/// Is told of base images before there are disks of them.
struct Tell(Box<dyn Fn(&Path) + Send + Sync>);

impl fmt::Debug for Tell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tell").finish_non_exhaustive()
    }
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
            Roots::open(paths).map_err(|(path, source)| {
                AccessError::io(what, &path, explained(&path, &path, source))
            })
        };
        let targets = open("directory of targets", targets)?;
        let images = open("directory of base images", images)?;
        let absolute = |BaseRef { path, format }| match std::path::absolute(&path) {
            Ok(path) => Ok(BaseRef { path, format }),
            Err(source) => Err(AccessError::io(BASE, &path, source)),
        };
        let named = named.into_iter().map(absolute).collect::<Result<_, _>>()?;
        let (known, notes) = (RwLock::default(), RwLock::default());
        let (verdicts, own, hidden) = (Verdicts::default(), RwLock::default(), RwLock::default());
        let tell = OnceLock::new();
        let access = Self { targets, images, named, known, notes, verdicts, own, hidden, tell };
        access.look();
        Ok(access)
    }

    /// The base images to keep ready: those that were named, and those that are in the directories
    /// of images now by the convention of their names. From now on clients may name these, also
    /// where a symbolic link in such a directory leads out of it. What was written as a link leads
    /// where it leads now. Those that others may replace are left out, with a warning.
    pub fn bases(&self) -> Vec<BaseRef> {
        self.targets.resolve_again();
        self.images.resolve_again();
        let is_trusted = |base: &BaseRef| match trusted::named(&base.path) {
            Err(distrust @ Distrust::Directory(_)) => {
                let error = AccessError::distrust(&base.path, distrust);
                tracing::warn!(%error, "base image not kept ready");
                false
            }
            Ok(found) => {
                self.tell_of(&found.path);
                true
            }
            Err(Distrust::Io(_) | Distrust::Replaced) => true,
        };
        self.look().into_iter().filter(is_trusted).collect()
    }

    /// Finds base images, and lets clients name them and no others outside of the directories.
    fn look(&self) -> Vec<BaseRef> {
        let found = self.images.paths().flat_map(|path| discover(&path));
        let bases: Vec<_> = self.named.iter().cloned().chain(found).collect();
        let both = |base: &BaseRef| [base.path.canonicalize().ok(), Some(base.path.clone())];
        let known = bases.iter().flat_map(both).flatten().collect();
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
        let notes = overlooked::notes(bases.len(), self.images.paths());
        *self.notes.write().unwrap_or_else(PoisonError::into_inner) = notes;
        self.verdicts.forget();
        bases
    }

    /// What is to be known of the last look for base images, a sentence each: that there is none,
    /// or which files in the directories of images aren't kept ready.
    pub fn notes(&self) -> Vec<String> {
        self.notes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a base image may still be named: one that isn't there only if it was named by the
    /// administrator, or discovered, at the last look.
    pub(super) fn still_allows(&self, base: &BaseRef) -> bool {
        self.knows(&base.path) || self.images.open_below(&base.path, OFlags::empty()).is_ok()
    }

    /// Opens the directory that a target is in; gives its resolved path too.
    ///
    /// # Errors
    ///
    /// All that an [`AccessError`] can be.
    pub(super) fn target(&self, path: &Path) -> Result<(Arc<OwnedFd>, PathBuf), AccessError> {
        let failed = |source| AccessError::io(TARGET, path, source);
        // `file_name` doesn't see a last `/` or `/.`, after which comes no file's name.
        let bytes = path.as_os_str().as_encoded_bytes();
        let named = !bytes.ends_with(b"/") && !bytes.ends_with(b"/.");
        let (directory, name) = match (path.parent(), path.file_name()) {
            (Some(directory), Some(name)) if named => (directory, name.as_encoded_bytes()),
            _ => return Err(AccessError::NoName { what: TARGET, path: path.to_owned() }),
        };
        let (directory, real) = self
            .targets
            .directory(directory)
            .map_err(|error| AccessError::of(TARGET, path, &self.targets, error))?;
        // One that exists is refused for that (rule A1).
        let is_free = || statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW).is_err();
        if SWEPT.iter().any(|prefix| leads_through(&real, prefix)) && is_free() {
            let why = "what is in this directory is removed with its owner; choose another";
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, why)));
        }
        if self.is_own(&real, name) && is_free() {
            let why = "this directory is the server's own; choose another";
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, why)));
        }
        Ok((directory.into(), real))
    }

    /// Which base images are in use by what lies below the directories of targets, of which `most`
    /// files and directories are looked at. It waits for disks: call it aside.
    #[must_use]
    pub fn in_use(&self, most: usize) -> InUse {
        in_use(&self.targets.paths().collect::<Vec<_>>(), most)
    }

    /// Has `tell` told the resolved path of each base image before there are disks of it, some more than
    /// once. It may wait for a disk. Said twice, the first one stays.
    pub fn tell_of_bases(&self, tell: impl Fn(&Path) + Send + Sync + 'static) {
        let _ = self.tell.set(Tell(Box::new(tell)));
    }

    pub(super) fn tell_of(&self, base: &Path) {
        if let Some(Tell(tell)) = self.tell.get() {
            tell(base);
        }
    }

    /// Lets nothing be handed over at this path or below it: it is the server's own.
    pub fn keep_out(&self, own: &Path) {
        let resolved = own
            .canonicalize()
            .ok()
            .or_else(|| Some(own.parent()?.canonicalize().ok()?.join(own.file_name()?)));
        let resolved = resolved.unwrap_or_else(|| own.to_owned());
        self.own.write().unwrap_or_else(PoisonError::into_inner).push(resolved);
    }

    /// Lets nothing below this path be a base image: it is none, or not whole yet.
    pub fn hide(&self, path: &Path) {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        self.hidden.write().unwrap_or_else(PoisonError::into_inner).push(path);
    }

    /// Whether a name in a directory is the server's own, or below what is.
    fn is_own(&self, directory: &Path, name: &[u8]) -> bool {
        let own = self.own.read().unwrap_or_else(PoisonError::into_inner);
        own.iter().any(|own| is_in(own, directory, name))
    }

    /// Opens a base image and judges it.
    ///
    /// # Errors
    ///
    /// All that an [`AccessError`] can be.
    pub fn base(&self, base: &BaseRef, references: References) -> Result<BaseImage, AccessError> {
        let distrust = |error| AccessError::distrust(&base.path, error);
        if self.knows(&base.path) {
            if let Some(image) = self.verdicts.known(base) {
                return Ok(image);
            }
            let found = trusted::named(&base.path).map_err(distrust)?;
            let image = self.judge(found, base.format, references)?;
            self.verdicts.remember(base.clone(), &image);
            return Ok(image);
        }
        let below = || match self.images.open_below(&base.path, OFlags::empty()) {
            Ok((root, file)) => trusted::below(&root, file).map(Ok),
            Err(error) => Ok(Err(error)),
        };
        let found = match trusted::settled(below).map_err(distrust)? {
            Ok(found) => found,
            Err(error) => {
                let linked = matches!(error, RootError::Outside) && self.images.hold(&base.path);
                let refused = AccessError::of(BASE, &base.path, &self.images, error);
                match linked.then(|| trusted::named(&base.path)) {
                    Some(Ok(found)) if self.knows(&found.path) => found,
                    Some(Err(error @ Distrust::Directory(_))) => return Err(distrust(error)),
                    _ => return Err(refused),
                }
            }
        };
        self.judge(found, base.format, references)
    }

    fn judge(
        &self,
        found: Found,
        format: Format,
        references: References,
    ) -> Result<BaseImage, AccessError> {
        let hidden = self.hidden.read().unwrap_or_else(PoisonError::into_inner);
        if hidden.iter().any(|hidden| found.path.starts_with(hidden)) {
            let why = "it is not whole yet, or being removed; name the image itself";
            let why = io::Error::new(io::ErrorKind::PermissionDenied, why);
            return Err(AccessError::io(BASE, &found.path, why));
        }
        drop(hidden);
        let image = self.verdicts.judge(found, format, references)?;
        self.tell_of(image.path());
        Ok(image)
    }

    fn knows(&self, path: &Path) -> bool {
        self.known.read().unwrap_or_else(PoisonError::into_inner).contains(path)
    }
}

/// Whether a name in a directory is this path, or is below it.
fn is_in(own: &Path, directory: &Path, name: &[u8]) -> bool {
    let is_own = own.file_name().is_some_and(|own| own.as_encoded_bytes() == name);
    directory.starts_with(own) || is_own && own.parent() == Some(directory)
}
