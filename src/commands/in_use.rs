//! Which images of a store are in use.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use overlay_pool::api::leased_bases;
use overlay_pool::images::{ImageError, Store, bases_below};

/// The files that disks refer to, as far as the store was told of the disks, and those that are below
/// `more`: by records of them, and by their own headers.
pub(super) fn in_use(store: &Store, more: &[PathBuf]) -> Result<BTreeSet<PathBuf>, ImageError> {
    let mut in_use = bases_below(&[&store.disks()?, more].concat())?;
    for directory in store.leases()? {
        in_use.append(&mut leased(&directory)?);
    }
    Ok(in_use)
}

fn leased(directory: &Path) -> Result<BTreeSet<PathBuf>, ImageError> {
    leased_bases(directory)
        .map_err(|source| ImageError::File { path: directory.to_owned(), source })
}
