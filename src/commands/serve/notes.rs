//! What image stores are told of a server, so that nothing that its disks need is pruned.

use std::collections::{BTreeSet, HashMap};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use overlay_pool::PoolConfig;
use overlay_pool::image::{References, in_use};
use overlay_pool::images::{ImageError, Store};

/// How many files one base image may refer to, in a chain.
const MAX_FILES: usize = 1000;

/// Where disks of a server are, for each store that it takes base images from.
#[derive(Debug)]
pub(super) struct Notes {
    /// Whether its base images may refer to others.
    references: References,
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

    /// Tells a store. That the records aren't there is from then on a sign that they are missing.
    pub(super) fn write(&self, store: &Store) -> Result<(), ImageError> {
        let made = DirBuilder::new().mode(0o700).recursive(true).create(&self.leases);
        made.map_err(|source| ImageError::File { path: self.leases.clone(), source })?;
        store.note_leases(&self.leases)?;
        let by = &self.leases;
        self.disks.iter().try_for_each(|directory| store.note_disks(directory, by))?;
        self.recorded.iter().try_for_each(|directory| store.forget_disks(directory, by))
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
            References::Allow => in_use(&[base.to_owned()], MAX_FILES).files,
        };
        let needed = others.iter().map(PathBuf::as_path).chain([base]);
        needed.filter_map(Store::of).for_each(|store| self.tell(&store));
    }

    fn tell(&self, store: &Store) {
        let before = self.told().get(store.path()).copied();
        // It may be another one at the same place by now.
        if before == Some(true) && store.has_noted_leases(&self.leases) {
            return;
        }
        let written = self.write(store);
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
