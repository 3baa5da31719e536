//! What image stores are told of a server, so that nothing that its disks need is pruned.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use overlay_pool::PoolConfig;
use overlay_pool::api::{leased_bases, leases_seal};
use overlay_pool::image::{References, references_of};
use overlay_pool::images::{ImageError, Store};

/// Where disks of a server are, for each store that it takes base images from.
#[derive(Debug)]
pub(super) struct Notes {
    /// Whether its base images may refer to others.
    references: References,
    /// Directories below which they are looked for.
    disks: Vec<PathBuf>,
    /// Those below which there is a record of each.
    recorded: Vec<PathBuf>,
    /// Where the records are, if there are any.
    leases: PathBuf,
    /// The stores that were to be told, and whether they could be.
    told: Mutex<HashMap<PathBuf, bool>>,
}

impl Notes {
    /// Of a server with this pool and these targets; if it goes `by_leases`, all disks there have records.
    pub(super) fn new(
        PoolConfig { pool_dir, references, .. }: &PoolConfig,
        targets: &[PathBuf],
        leases: &Path,
        by_leases: bool,
    ) -> Self {
        let (mut disks, mut recorded) = (vec![pool_dir.clone()], Vec::new());
        // A link may lead elsewhere later.
        let resolved = |path: &PathBuf| path.canonicalize().ok().filter(|real| real != path);
        let both = |path: &PathBuf| [Some(path.clone()), resolved(path)].into_iter().flatten();
        let others = targets.iter().filter(|targets| *targets != pool_dir).flat_map(both);
        if by_leases {
            recorded.extend(others);
        } else {
            disks.extend(others);
        }
        let (references, leases) = (*references, leases.to_owned());
        Self { references, disks, recorded, leases, told: Mutex::default() }
    }

    /// Tells a store.
    pub(super) fn write(&self, store: &Store) -> Result<(), ImageError> {
        let by = &self.leases;
        self.disks.iter().try_for_each(|directory| store.note_disks(directory, by))?;
        let Some(seal) = self.seal()? else { return Ok(()) };
        store.note_leases(&self.leases, &seal)?;
        self.recorded.iter().try_for_each(|directory| store.forget_disks(directory, by))
    }

    /// What tells the directory of records from any other that its path may lead to.
    fn seal(&self) -> Result<Option<String>, ImageError> {
        leases_seal(&self.leases)
            .map_err(|source| ImageError::File { path: self.leases.clone(), source })
    }

    /// Has nobody expect records of a server that ends and has none.
    pub(super) fn withdraw(&self) {
        let Ok(Some(seal)) = self.seal() else { return };
        if !leased_bases(&self.leases, &seal).is_ok_and(|bases| bases.is_empty()) {
            return;
        }
        let told: Vec<_> = self.told().keys().cloned().collect();
        for store in told.iter().filter_map(|path| Store::at(path)) {
            if let Err(error) = store.forget_leases(&self.leases, &seal) {
                tracing::debug!(%error, "a note of no records stays");
            }
        }
    }

    /// Never held while a store is looked at, which may not answer.
    fn told(&self) -> MutexGuard<'_, HashMap<PathBuf, bool>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the stores that a base image needs, if they weren't told yet. One that can't be told is a
    /// warning: it may be nobody's to write to.
    pub(super) fn tell_of(&self, base: &Path) {
        let others = match self.references {
            References::Deny => BTreeSet::new(),
            References::Allow => references_of(base),
        };
        let needed = others.iter().map(PathBuf::as_path).chain([base]);
        needed.filter_map(Store::of).for_each(|store| self.tell(&store));
    }

    fn tell(&self, store: &Store) {
        let before = self.told().get(store.path()).copied();
        // It may be another one at the same place by now.
        if before == Some(true) && self.is_noted(store) {
            return;
        }
        let written = self.write(store);
        self.told().insert(store.path().to_owned(), written.is_ok());
        if let Err(error) = written
            && before != Some(false)
        {
            tracing::warn!(
                store = %store.path().display(), %error,
                "the store can't be told of this server's disks: let its user write to it, or have \
                 `images prune` look for them (--targets)"
            );
        }
    }

    fn is_noted(&self, store: &Store) -> bool {
        let has_records = match self.seal() {
            Ok(Some(seal)) => store.has_noted_leases(&self.leases, &seal),
            Ok(None) => true,
            Err(_) => false,
        };
        has_records && self.disks.iter().all(|disks| store.has_noted_disks(disks, &self.leases))
    }
}
