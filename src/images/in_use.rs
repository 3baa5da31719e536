//! Which base images are in use, or nobody knows.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use super::error::ImageError;
use crate::image::{InUse, in_use};

/// How many files are looked at; over it nobody can tell what is in use.
const MAX_FILES: usize = 1_000_000;

/// The files that images refer to which are among these paths or below them, written and resolved. Links
/// aren't followed; what isn't there refers to none.
///
/// # Errors
///
/// [`ImageError::File`] if not everything there could be looked at: then anything may be in use.
pub fn bases_below(paths: &[PathBuf]) -> Result<BTreeSet<PathBuf>, ImageError> {
    let InUse { files, whole, .. } = in_use(paths, MAX_FILES);
    if whole {
        return Ok(files);
    }
    let why = format!("not all of it can be read, or it has more than {MAX_FILES} files");
    let path = paths.first().cloned().unwrap_or_default();
    Err(ImageError::file(path)(io::Error::other(why)))
}
