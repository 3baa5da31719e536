//! Directories of a store.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use rustix::fs::CWD;
use rustix::io::Errno;

use super::error::ImageError;
use crate::place::{Spot, open_trusted, rename_new};

/// Makes a directory that others may look into, whatever the umask; one that is there stays as it is,
/// and is refused if another user may change it: what was hashed is found by its path.
pub(super) fn make_directory(path: &Path) -> Result<(), ImageError> {
    match DirBuilder::new().recursive(false).mode(0o755).create(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(0o755)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // What is above the store.
            DirBuilder::new().recursive(true).mode(0o755).create(path)
        }
        Err(error) => Err(error),
    }
    .and_then(|()| open_trusted(path).map(drop))
    .map_err(ImageError::file(path))
}

/// Moves a file to where an image shall be. One that is there already has the same bytes, and stays.
pub(super) fn put(from: &Path, to: &Path) -> io::Result<()> {
    match rename_new(CWD, from.as_os_str(), &Spot::at(to)?) {
        Err(Errno::EXIST) => fs::remove_file(from),
        moved => Ok(moved?),
    }
}

pub(super) fn read_directory(path: &Path) -> Result<Vec<fs::DirEntry>, ImageError> {
    match fs::read_dir(path).and_then(Iterator::collect::<io::Result<_>>) {
        // Removed meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(ImageError::file(path)),
    }
}
