//! Which images of a store are in use.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use overlay_pool::api::leased_bases;
use overlay_pool::images::{ImageError, NotedLeases, Store, bases_below};

/// The files that disks need, as far as the store was told of the disks, and that `more` does, or what is
/// below it: by records of them, and by their own headers.
pub(super) fn in_use(store: &Store, more: &[PathBuf]) -> Result<BTreeSet<PathBuf>, ImageError> {
    let mut in_use = bases_below(&[&store.disks()?, more].concat())?;
    for noted in store.leases()? {
        in_use.append(&mut leased(noted)?);
    }
    Ok(in_use)
}

fn leased(noted: NotedLeases) -> Result<BTreeSet<PathBuf>, ImageError> {
    leased_bases(&noted.directory, noted.seal()).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => noted.missing(),
        _ => ImageError::File { path: noted.directory, source },
    })
}
