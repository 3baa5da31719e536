//! What image stores are told of a server, so that nothing that its disks need is pruned.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use overlay_pool::images::{ImageError, Store};

/// Where disks of a server are, for each store that it takes base images from.
#[derive(Debug)]
pub(super) struct Notes {
    /// Directories below which they are looked for.
    disks: Vec<PathBuf>,
    /// Those below which there is a record of each.
    recorded: Vec<PathBuf>,
    /// Where the records are.
    leases: PathBuf,
    /// The stores that were to be told, and whether they could be.
    told: Mutex<HashMap<PathBuf, bool>>,
}

impl Notes {
    /// Of a server with this pool and these targets; if it goes `by_leases`, all disks there have records.
    pub(super) fn new(
        pool_dir: &Path,
        targets: &[PathBuf],
        leases: &Path,
        by_leases: bool,
    ) -> Self {
        let (mut disks, mut recorded) = (vec![pool_dir.to_owned()], Vec::new());
        // A link may lead elsewhere later.
        let resolved = |path: &PathBuf| path.canonicalize().ok().filter(|real| real != path);
        let both = |path: &PathBuf| [Some(path.clone()), resolved(path)].into_iter().flatten();
        let others = targets.iter().filter(|targets| *targets != pool_dir).flat_map(both);
        if by_leases {
            recorded.extend(others);
        } else {
            disks.extend(others);
        }
        Self { disks, recorded, leases: leases.to_owned(), told: Mutex::default() }
    }

    /// Tells a store.
    pub(super) fn write(&self, store: &Store) -> Result<(), ImageError> {
        store.note_leases(&self.leases)?;
        let by = &self.leases;
        self.disks.iter().try_for_each(|directory| store.note_disks(directory, by))?;
        self.recorded.iter().try_for_each(|directory| store.forget_disks(directory, by))
    }

    /// Never held while a store is looked at, which may not answer.
    fn told(&self) -> MutexGuard<'_, HashMap<PathBuf, bool>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the store that a base image is in, if it is in one that wasn't told yet. One that can't be
    /// told is a warning: it may be nobody's to write to.
    pub(super) fn tell_of(&self, base: &Path) {
        let Some(store) = Store::of(base) else { return };
        let before = self.told().get(store.path()).copied();
        // It may be another one at the same place by now.
        if before == Some(true) && store.has_noted_leases(&self.leases) {
            return;
        }
        let written = self.write(&store);
        let before = self.told().insert(store.path().to_owned(), written.is_ok());
        if let (Err(error), None) = (written, before) {
            tracing::warn!(
                store = %store.path().display(), %error,
                "the store can't be told of this server's disks: let its user write to it, or have \
                 `images prune` look for them (--targets)"
            );
        }
    }
}
