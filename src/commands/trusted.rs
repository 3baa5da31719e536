//! Directories that decide what a VM runs.

use std::io;
use std::path::Path;

use overlay_pool::place::open_trusted;

use super::exit::Exit;
use super::failure::Failure;

/// The directory that something lies in: the working directory where its path names none.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Refuses a directory of saved states or images that others may write to. One that isn't there is
/// made, or missed later.
pub(super) fn expect(directory: &Path, exit: Exit) -> Result<(), Failure> {
    match open_trusted(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let cause = format!("{}: {error}", directory.display());
            Err(Failure::new(exit, cause, ""))
        }
        _ => Ok(()),
    }
}
