//! Overlays that only the server knows yet: to be opened, or to be moved to where they shall be.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Error;
use crate::image::Base;
use crate::place::{Directory, Entry, remove_leftovers};
use crate::pool::{OverlayPool, Source};

/// What the names of servers' directories begin with.
pub const PREFIX: &str = "open-";

/// A directory of the server's own, where an overlay has a name only for a moment.
///
/// It lies beside the pool's, so that ready overlays can be moved there; made when it is first
/// needed, and again if somebody removed it.
#[derive(Debug, Default)]
pub(super) struct OpenFiles(Mutex<Option<Arc<Directory>>>);

/// An overlay under a name that nobody else knows. Dropped, that name is removed.
#[derive(Debug)]
pub(super) struct Aside {
    pub(super) source: Source,
    /// The base image's resolved path.
    pub(super) base: PathBuf,
    pub(super) entry: Entry,
}

impl OpenFiles {
    /// Removes what dead servers left.
    pub(super) fn sweep(pool: &OverlayPool) {
        remove_leftovers(&pool.config().pool_dir, PREFIX);
    }

    /// Acquires an overlay, for the server alone.
    ///
    /// # Errors
    ///
    /// Those of [`OverlayPool::acquire`]; [`Error::Target`] if there can be no such directory.
    pub(super) async fn acquire(
        &self,
        pool: &OverlayPool,
        base: impl Into<Base>,
        virtual_size: Option<u64>,
    ) -> Result<Aside, Error> {
        if !pool.is_started() {
            return Err(Error::NotStarted);
        }
        let base = base.into();
        let reserved = self.directory(pool).map(|directory| Entry::reserve(&directory));
        let (entry, target) = reserved.map_err(|source| Error::Target {
            base: base.name().path,
            target: pool.config().pool_dir.clone(),
            source,
        })?;
        let acquired = match virtual_size {
            Some(size) => pool.acquire_sized(base, target, size).await?,
            None => pool.acquire(base, target).await?,
        };
        Ok(Aside { source: acquired.source, base: acquired.base, entry })
    }

    fn directory(&self, pool: &OverlayPool) -> io::Result<Arc<Directory>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(directory) = &*kept
            && !directory.is_gone()?
        {
            return Ok(Arc::clone(directory));
        }
        let made = Arc::new(Directory::create(&pool.config().pool_dir, PREFIX)?);
        Ok(Arc::clone(kept.insert(made)))
    }
}
