//! All shelves of a pool, and how a caller's name for a base image finds its own.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::shelf::{Rules, Shelf, Taken};
use crate::image::{Base, BaseError, BaseImage, BaseRef, Identity, OverlayOptions, References};

/// How many ways to name base images are remembered; over it they are forgotten and resolved
/// again, so that a caller who always finds a new way can't fill the memory.
const MAX_NAMES: usize = 4096;

#[derive(Debug)]
pub(super) struct Shelves {
    options: OverlayOptions,
    references: References,
    rules: Arc<Rules>,
    /// Absolute paths as callers gave them, symbolic links and all. A shelf is there for as long as
    /// its own name leads to it.
    names: RwLock<HashMap<BaseRef, Arc<Shelf>>>,
}

impl Shelves {
    pub(super) fn new(options: OverlayOptions, references: References, rules: Arc<Rules>) -> Self {
        Self { options, references, rules, names: RwLock::default() }
    }

    fn names(&self) -> RwLockReadGuard<'_, HashMap<BaseRef, Arc<Shelf>>> {
        self.names.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn names_mut(&self) -> RwLockWriteGuard<'_, HashMap<BaseRef, Arc<Shelf>>> {
        self.names.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes from a shelf that is known and whose base image didn't change: one `statx`, and
    /// another if the caller's path isn't the resolved one; none if the image was judged. None
    /// also if its overlays aren't of `size`.
    pub(super) fn take_known(&self, base: &Base, size: Option<u64>) -> Option<Taken> {
        let (shelf, seen) = match base {
            Base::Judged(image) => (self.names().get(&image.name()).cloned()?, image.identity()),
            Base::Named(name) => {
                let shelf = self.names().get(name).cloned()?;
                let seen = Identity::of(&name.path).ok()?;
                if *name != shelf.base && Identity::of(&shelf.base.path).ok() != Some(seen) {
                    return None;
                }
                (shelf, seen)
            }
        };
        shelf.take(seen, size)
    }

    /// Judges the base image, finds or makes its shelf, and takes from it.
    pub(super) fn take_new(&self, base: &Base, size: Option<u64>) -> Result<Taken, BaseError> {
        let image = base.judged(self.references).inspect_err(|_| {
            let known = self.names().get(&base.name()).cloned();
            let _ = known.map(|shelf| self.look_again(&shelf));
        })?;
        let shelf = self.shelve(base.name(), &image);
        if let Some(taken) = shelf.ok().and_then(|shelf| shelf.take(image.identity(), size)) {
            return Ok(taken);
        }
        // Of another size, or the image changed since it was judged.
        let virtual_size = size.or(self.options.virtual_size);
        let overlay = image.overlay(OverlayOptions { virtual_size, ..self.options })?;
        Ok(Taken { overlay: Arc::new(overlay), ready: None })
    }

    /// Judges a base image and sees to its shelf.
    pub(super) fn open(&self, base: &Base) -> Result<Arc<Shelf>, BaseError> {
        self.shelve(base.name(), &base.judged(self.references)?)
    }

    /// Sees to the shelf of a base image that goes by this name.
    fn shelve(&self, name: BaseRef, image: &BaseImage) -> Result<Arc<Shelf>, BaseError> {
        let overlay = image.overlay(self.options)?;
        let own = image.name();
        let shelf = {
            let mut names = self.names_mut();
            if names.len() >= MAX_NAMES {
                names.retain(|name, shelf| *name == shelf.base);
            }
            let new = || Arc::new(Shelf::new(own.clone(), None, Arc::clone(&self.rules)));
            let shelf = Arc::clone(names.entry(own.clone()).or_insert_with(new));
            names.insert(name, Arc::clone(&shelf));
            shelf
        };
        shelf.renew(image, overlay);
        Ok(shelf)
    }

    /// Sees to the shelf of a base image that may not be there yet.
    pub(super) fn await_base(&self, base: &BaseRef) {
        if let Err(error) = self.open(&base.clone().into()) {
            tracing::warn!(%error, "base image can't be used");
            let seen = Identity::of(&base.path).ok();
            let waiting = || Arc::new(Shelf::new(base.clone(), seen, Arc::clone(&self.rules)));
            self.names_mut().entry(base.clone()).or_insert_with(waiting);
        }
    }

    /// Looks again at a base image if its file is another than the one that was judged.
    pub(super) fn look_again(&self, shelf: &Shelf) {
        let seen = Identity::of(&shelf.base.path).ok();
        // One that appeared behind a symbolic link has the shelf of its resolved path, and its name
        // leads there from now on.
        if shelf.changed(seen)
            && let Err(error) = self.open(&shelf.base.clone().into())
        {
            tracing::warn!(%error, "base image can't be used");
            shelf.refuse(seen);
        }
    }

    /// Gives up a base image's overlays and its shelf; says how many were ready.
    pub(super) fn forget(&self, base: &BaseRef) -> Option<usize> {
        let shelf = {
            let mut names = self.names_mut();
            let shelf = names.get(base).cloned().or_else(|| {
                let path = base.path.canonicalize().ok()?;
                names.get(&BaseRef { path, ..*base }).cloned()
            })?;
            names.retain(|_, named| !Arc::ptr_eq(named, &shelf));
            shelf
        };
        // What is being made for it is given up when it is done.
        Some(shelf.refuse(None))
    }

    /// How many overlays are ready, by base path; those that can't be used are left out.
    pub(super) fn ready(&self) -> BTreeMap<PathBuf, usize> {
        let mut ready = BTreeMap::new();
        for state in self.all().iter().map(|shelf| shelf.report()) {
            if state.virtual_size.is_some() {
                *ready.entry(state.base.path).or_default() += state.ready;
            }
        }
        ready
    }

    pub(super) fn all(&self) -> Vec<Arc<Shelf>> {
        let names = self.names();
        let own = names.iter().filter(|(name, shelf)| **name == shelf.base);
        own.map(|(_, shelf)| Arc::clone(shelf)).collect()
    }
}
