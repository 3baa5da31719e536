//! Which base images overlays refer to, by their headers.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::ImageError;
use crate::image::{BaseError, Header, read_start};

/// How many files are looked at; over it nobody can tell what is in use.
const MAX_FILES: usize = 1_000_000;

/// The backing files of all qcow2 images below some directories, resolved. Links aren't followed; a
/// directory that isn't there has none.
///
/// # Errors
///
/// [`ImageError::File`] if something there can't be read: then it may be in use.
pub fn bases_below(directories: &[PathBuf]) -> Result<BTreeSet<PathBuf>, ImageError> {
    let mut bases = BTreeSet::new();
    let mut left = directories.to_vec();
    let mut files = 0;
    while let Some(directory) = left.pop() {
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.map_err(ImageError::file(&directory))?,
        };
        for entry in entries {
            let entry = entry.map_err(ImageError::file(&directory))?;
            let kind = entry.file_type().map_err(ImageError::file(entry.path()))?;
            if kind.is_dir() {
                left.push(entry.path());
            } else if kind.is_file() {
                files += 1;
                if files > MAX_FILES {
                    let why = io::Error::other(format!("more than {MAX_FILES} files are below it"));
                    return Err(ImageError::file(&directory)(why));
                }
                bases.extend(base_of(&entry.path())?);
            }
        }
    }
    Ok(bases)
}

/// The backing file of an image; none of what is gone, has none, or is no image.
fn base_of(overlay: &Path) -> Result<Option<PathBuf>, ImageError> {
    let bytes = match read_start(overlay) {
        Ok((bytes, _)) => bytes,
        Err(BaseError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(BaseError::Io { path, source }) => return Err(ImageError::File { path, source }),
        Err(_) => return Ok(None),
    };
    let base = Header::parse(&bytes).ok().and_then(|header| header.backing_file);
    let base = base.map(|base| overlay.parent().unwrap_or(overlay).join(base));
    Ok(base.map(|base| base.canonicalize().unwrap_or(base)))
}
