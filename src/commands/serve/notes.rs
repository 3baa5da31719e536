//! What image stores are told of a server, so that nothing that its disks need is pruned.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use overlay_pool::PoolConfig;
use overlay_pool::api::leases_seal;
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
    /// Where the records are, if there are any.
    leases: PathBuf,
    /// What tells that directory from any other, once it was seen.
    seal: OnceLock<String>,
    /// The stores that were to be told, and what they could be.
    told: Mutex<HashMap<PathBuf, Told>>,
}

/// What a store was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// It couldn't be.
    Nothing,
    /// Where disks are; there were no records yet.
    Disks,
    All,
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
        let (seal, told) = (OnceLock::new(), Mutex::default());
        Self { references, disks, recorded, leases, seal, told }
    }

    /// Tells a store.
    pub(super) fn write(&self, store: &Store) -> Result<(), ImageError> {
        let by = &self.leases;
        if let Some(seal) = self.seal() {
            store.note_leases(&self.leases, seal)?;
        }
        self.disks.iter().try_for_each(|directory| store.note_disks(directory, by))?;
        self.recorded.iter().try_for_each(|directory| store.forget_disks(directory, by))
    }

    fn seal(&self) -> Option<&str> {
        if self.seal.get().is_none()
            && let Ok(Some(seal)) = leases_seal(&self.leases)
        {
            let _ = self.seal.set(seal);
        }
        self.seal.get().map(String::as_str)
    }

    /// Never held while a store is looked at, which may not answer.
    fn told(&self) -> MutexGuard<'_, HashMap<PathBuf, Told>> {
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
        let all = if self.seal().is_some() { Told::All } else { Told::Disks };
        // It may be another one at the same place by now.
        if before == Some(all) && self.is_noted(store) {
            return;
        }
        let written = self.write(store);
        let told = if written.is_ok() { all } else { Told::Nothing };
        self.told().insert(store.path().to_owned(), told);
        if let Err(error) = written
            && before != Some(Told::Nothing)
        {
            tracing::warn!(
                store = %store.path().display(), %error,
                "the store can't be told of this server's disks: let its user write to it, or have \
                 `images prune` look for them (--targets)"
            );
        }
    }

    fn is_noted(&self, store: &Store) -> bool {
        self.seal().is_none_or(|seal| store.has_noted_leases(seal))
            && self.disks.iter().all(|disks| store.has_noted_disks(disks, &self.leases))
    }
}
