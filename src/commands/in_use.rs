//! Which images of a store are in use.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use overlay_pool::api::leased_bases;
use overlay_pool::images::{ImageError, Store, bases_below};

/// The files that disks need, as far as the store was told of the disks, and that `more` does, or what is
/// below it: by records of them, and by their own headers.
pub(super) fn in_use(store: &Store, more: &[PathBuf]) -> Result<BTreeSet<PathBuf>, ImageError> {
    let mut leased = BTreeSet::new();
    for directory in store.leases()? {
        leased.append(&mut leased_below(store, directory)?);
    }
    let named: Vec<_> = leased.iter().cloned().collect();
    leased.append(&mut bases_below(&[&store.disks()?, more, &named].concat())?);
    Ok(leased)
}

fn leased_below(store: &Store, directory: PathBuf) -> Result<BTreeSet<PathBuf>, ImageError> {
    leased_bases(&directory).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => store.missing(&directory),
        _ => ImageError::File { path: directory, source },
    })
}
