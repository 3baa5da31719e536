//! Which base images are in use, as far as overlays tell.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde_json::Value;

use super::base::{BaseError, read};
use super::header::Header;
use crate::paths::{MAX_LINKS, link_to};

/// The files that images refer to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InUse {
    /// As they are written, and resolved.
    pub files: BTreeSet<PathBuf>,
    /// Whether everything was looked at. If not, nothing is known to be out of use.
    pub whole: bool,
}

impl InUse {
    /// Whether a file is in use, or may be.
    #[must_use]
    pub fn may_hold(&self, path: &Path) -> bool {
        let is_named = |path: &Path| self.files.contains(path);
        !self.whole || is_named(path) || path.canonicalize().is_ok_and(|real| is_named(&real))
    }
}

/// Looks at each regular file among `paths` and below those that are directories, and at what those refer
/// to, for the base images, backing files and external data files that they name: `most` files and
/// directories at most, and of each file its first 64 KiB. Symbolic links aren't followed but for `paths`.
///
/// It waits for the disk, and takes some microseconds a file: call it aside. An overlay that is made
/// or moved meanwhile may be missed; who keeps book of those that are made asks there too.
///
/// # Example
///
/// ```
/// use overlay_pool::image::in_use;
///
/// # let dir = tempfile::tempdir()?;
/// # let (targets, image) = (dir.path().to_owned(), dir.path().join("python-base-1.qcow2"));
/// let in_use = in_use(&[targets], 100_000);
/// if !in_use.may_hold(&image) {
///     println!("{} can be removed", image.display());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn in_use(paths: &[PathBuf], most: usize) -> InUse {
    let mut look = Look { left: most, in_use: InUse { files: BTreeSet::new(), whole: true } };
    for path in paths {
        look.below(path);
    }
    look.in_use
}

/// What a base image refers to, and what that does, as far as it is there: its first thousand files.
#[must_use]
pub fn references_of(base: &Path) -> BTreeSet<PathBuf> {
    const MOST: usize = 1000;
    in_use(&[base.to_owned()], MOST).files
}

struct Look {
    left: usize,
    in_use: InUse,
}

impl Look {
    fn below(&mut self, path: &Path) {
        let mut directories = vec![path.to_owned()];
        while let Some(directory) = directories.pop() {
            let entries = match std::fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                    self.file(directory.canonicalize().unwrap_or(directory));
                    continue;
                }
                Err(error) => {
                    self.unknown(&directory, &error);
                    continue;
                }
            };
            for entry in entries {
                let kind = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)));
                match kind {
                    Ok(_) if self.left == 0 => {
                        self.in_use.whole = false;
                        return;
                    }
                    Ok((path, kind)) if kind.is_dir() => {
                        self.left -= 1;
                        directories.push(path);
                    }
                    Ok((path, kind)) if kind.is_file() => self.file(path),
                    Ok(_) => {}
                    Err(error) => self.unknown(&directory, &error),
                }
            }
        }
    }

    /// Looks at a file, and at those that it refers to.
    fn file(&mut self, path: PathBuf) {
        let mut files = vec![path];
        while let Some(path) = files.pop() {
            if self.left == 0 {
                self.in_use.whole = false;
                return;
            }
            self.left -= 1;
            let named = match named(&path) {
                Ok(named) => named,
                Err(BaseError::Io { source, .. }) => {
                    self.unknown(&path, &source);
                    continue;
                }
                // It is no image that anything could use.
                Err(_) => continue,
            };
            for name in named {
                // Relative to the file that it stands in.
                let written = path.parent().unwrap_or(Path::new("/")).join(name);
                let resolved = resolved(&written);
                if self.in_use.files.insert(written)
                    && let Some(resolved) = resolved
                {
                    self.in_use.files.insert(resolved.clone());
                    files.push(resolved);
                }
            }
        }
    }

    fn unknown(&mut self, path: &Path, error: &io::Error) {
        // It was removed meanwhile.
        if error.kind() != io::ErrorKind::NotFound {
            tracing::warn!(path = %path.display(), %error, "which base image it is of isn't known");
            self.in_use.whole = false;
        }
    }
}

/// The files that an image refers to; none if it is no qcow2 image.
fn named(path: &Path) -> Result<Vec<PathBuf>, BaseError> {
    let failed = |source| BaseError::Io { path: path.to_owned(), source };
    // Whoever may write a header has nothing but files opened: a device may do something then.
    let flags = i32::try_from((OFlags::PATH | OFlags::NOFOLLOW).bits()).unwrap_or(0);
    let found = File::options().read(true).custom_flags(flags).open(path).map_err(failed)?;
    if !found.metadata().map_err(failed)?.is_file() {
        return Err(BaseError::NotAFile { path: path.to_owned() });
    }
    let file = File::open(link_to(&found)).map_err(failed)?;
    let (bytes, _) = read(&file, path)?;
    let Ok(header) = Header::parse(&bytes) else { return Ok(Vec::new()) };
    let names = [header.backing_file, header.extensions.data_file].into_iter().flatten();
    Ok(names.flat_map(files_of).collect())
}

/// Where a path leads, also if nothing is there: who removes a file moves it aside before.
fn resolved(path: &Path) -> Option<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        if let Ok(real) = path.canonicalize() {
            return Some(real);
        }
        let parent = path.parent()?.canonicalize().ok()?;
        let here = parent.join(path.file_name()?);
        match here.read_link() {
            Ok(to) => path = parent.join(to),
            Err(_) => return Some(here),
        }
    }
    None
}

/// The files that a name means: a path, or what QEMU also understands.
fn files_of(name: PathBuf) -> Vec<PathBuf> {
    let bytes = name.as_os_str().as_bytes();
    if let Some(json) = bytes.strip_prefix(b"json:") {
        let mut files = Vec::new();
        paths_in(&serde_json::from_slice(json).unwrap_or_default(), &mut files);
        return files;
    }
    match bytes.strip_prefix(b"file:") {
        Some(path) => vec![std::ffi::OsStr::from_bytes(path).into()],
        None => vec![name],
    }
}

/// Each string in it that could be a path.
fn paths_in(value: &Value, paths: &mut Vec<PathBuf>) {
    match value {
        Value::String(text) => paths.extend(files_of(text.into())),
        Value::Array(values) => values.iter().for_each(|value| paths_in(value, paths)),
        Value::Object(fields) => fields.values().for_each(|value| paths_in(value, paths)),
        _ => {}
    }
}
