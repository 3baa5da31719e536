//! All shelves of a pool, and how a caller's path finds its own.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::directory::Entry;
use super::shelf::{Shelf, Taken, resolved};
use super::stats::Counters;
use crate::image::{BaseError, BaseImage, BaseRef, Identity, OverlayOptions, References};

/// How many ways to name base images are remembered; over it they are forgotten and resolved
/// again, so that a caller who always finds a new way can't fill the memory.
const MAX_NAMES: usize = 4096;

#[derive(Debug)]
pub(crate) struct Shelves {
    options: OverlayOptions,
    references: References,
    counters: Arc<Counters>,
    maps: RwLock<Maps>,
}

#[derive(Debug, Default)]
struct Maps {
    by_base: HashMap<BaseRef, Arc<Shelf>>,
    /// Absolute paths as callers gave them, symbolic links and all.
    by_name: HashMap<BaseRef, Arc<Shelf>>,
}

impl Shelves {
    pub(crate) fn new(
        options: OverlayOptions,
        references: References,
        counters: Arc<Counters>,
    ) -> Self {
        Self { options, references, counters, maps: RwLock::default() }
    }

    fn maps(&self) -> RwLockReadGuard<'_, Maps> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn maps_mut(&self) -> RwLockWriteGuard<'_, Maps> {
        self.maps.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes from a shelf that is known and whose base image didn't change: one `statx`, and
    /// another where the caller's path isn't the resolved one. None also where its overlays aren't
    /// of `size`.
    pub(crate) fn take_known(
        &self,
        base: &BaseRef,
        size: Option<u64>,
    ) -> Option<(Arc<Shelf>, Taken)> {
        let shelf = Arc::clone(self.maps().by_name.get(base)?);
        let seen = Identity::of(&base.path).ok()?;
        if base.path != shelf.path() && Identity::of(shelf.path()).ok() != Some(seen) {
            return None;
        }
        let taken = shelf.take(seen, size)?;
        Some((shelf, taken))
    }

    /// Resolves and judges the base image, finds or makes its shelf, and takes from it.
    pub(crate) fn take_new(&self, base: &BaseRef) -> Result<(Arc<Shelf>, Taken), BaseError> {
        loop {
            let (shelf, identity) = self.open(base)?;
            if let Some(taken) = shelf.take(identity, None) {
                return Ok((shelf, taken));
            }
            // The image changed again since it was judged.
        }
    }

    /// Resolves and judges a base image and sees to its shelf.
    pub(crate) fn open(&self, base: &BaseRef) -> Result<(Arc<Shelf>, Identity), BaseError> {
        let judged = BaseImage::open(base, self.references)
            .and_then(|image| image.overlay(self.options).map(|overlay| (image, overlay)));
        let (image, overlay) = match judged {
            Ok(judged) => judged,
            Err(error) => {
                self.refuse(base);
                return Err(error);
            }
        };
        let shelf = {
            let key = resolved(&image);
            let mut maps = self.maps_mut();
            if maps.by_name.len() >= MAX_NAMES {
                maps.by_name.clear();
            }
            let new = || Arc::new(Shelf::waiting(key.clone(), None));
            let shelf = Arc::clone(maps.by_base.entry(key.clone()).or_insert_with(new));
            maps.by_name.insert(key, Arc::clone(&shelf));
            maps.by_name.insert(base.clone(), Arc::clone(&shelf));
            shelf
        };
        self.discard(&shelf, shelf.renew(&image, overlay), "base image changed");
        Ok((shelf, image.identity()))
    }

    /// Sees to the shelf of a base image that was asked for, where it has none.
    pub(crate) fn get_to_know(&self, base: &BaseRef) {
        let is_known = self.maps().by_name.contains_key(base);
        if !is_known && let Err(error) = self.open(base) {
            tracing::debug!(%error, "no shelf");
        }
    }

    /// Sees to the shelf of a base image that may not be there yet; says why it can't be used.
    pub(crate) fn await_base(&self, base: &BaseRef) {
        if let Err(error) = self.open(base) {
            tracing::warn!(%error, "base image can't be used");
            let seen = Identity::of(&base.path).ok();
            let waiting = || Arc::new(Shelf::waiting(base.clone(), seen));
            self.maps_mut().by_base.entry(base.clone()).or_insert_with(waiting);
        }
    }

    /// Looks again at base images whose file is another than the one that was judged.
    pub(crate) fn refresh(&self) {
        for shelf in self.all() {
            if !shelf.changed(Identity::of(shelf.path()).ok()) {
                continue;
            }
            match self.open(shelf.base()) {
                // It appeared, behind a symbolic link: its shelf is that of the resolved path.
                Ok((other, _)) if !Arc::ptr_eq(&other, &shelf) => {
                    self.maps_mut().by_base.remove(shelf.base());
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "base image can't be used"),
            }
        }
    }

    /// Gives up a base image's overlays and its shelf; says how many were ready.
    pub(crate) fn forget(&self, base: &BaseRef) -> Option<usize> {
        let path = base.path.canonicalize().unwrap_or_else(|_| PathBuf::from(&base.path));
        let shelf = {
            let mut maps = self.maps_mut();
            let shelf = maps.by_base.remove(&BaseRef { path, ..*base })?;
            maps.by_name.retain(|_, named| !Arc::ptr_eq(named, &shelf));
            shelf
        };
        // Nothing more is made for it; what is being made is given up when it is done.
        let ready = shelf.refuse(Identity::of(shelf.path()).ok());
        let count = ready.len();
        self.discard(&shelf, ready, "base image removed");
        Some(count)
    }

    /// How many overlays are ready, by base image; those that can't be used are left out.
    pub(crate) fn ready(&self) -> BTreeMap<PathBuf, usize> {
        let mut ready = BTreeMap::new();
        for shelf in self.all() {
            if let Some(count) = shelf.ready() {
                *ready.entry(shelf.path().to_owned()).or_default() += count;
            }
        }
        ready
    }

    pub(crate) fn all(&self) -> Vec<Arc<Shelf>> {
        self.maps().by_base.values().cloned().collect()
    }

    /// Removes overlays that nobody shall have, and counts them.
    pub(crate) fn discard(&self, shelf: &Shelf, entries: Vec<Entry>, reason: &'static str) {
        if !entries.is_empty() {
            self.counters.discarded.add(entries.len());
            let base = shelf.path().display();
            tracing::info!(%base, count = entries.len(), reason, "discard");
        }
        drop(entries);
    }

    /// Gives up what lies on the shelf of a base image that can't be used.
    fn refuse(&self, base: &BaseRef) {
        let path = base.path.canonicalize().unwrap_or_else(|_| PathBuf::from(&base.path));
        let shelf = self.maps().by_base.get(&BaseRef { path, ..*base }).cloned();
        if let Some(shelf) = shelf {
            let seen = Identity::of(shelf.path()).ok();
            self.discard(&shelf, shelf.refuse(seen), "base image can't be used");
        }
    }
}
