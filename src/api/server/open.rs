//! Overlays for clients that have no path in common with the pool: open files without a name.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};

use crate::error::Error;
use crate::image::Base;
use crate::place::{Directory, Target, remove_leftovers};
use crate::pool::{OverlayPool, Source};

/// What the names of servers' directories begin with.
pub const PREFIX: &str = "open-";

/// A directory of the server's own, where an overlay has a name only until it is open.
///
/// It lies beside the pool's, so that ready overlays can be moved there; made when it is first
/// needed, and again if somebody removed it.
#[derive(Debug, Default)]
pub(super) struct OpenFiles(Mutex<Option<Arc<Directory>>>);

/// An overlay that is open for reading and writing, and has no name.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) source: Source,
    /// The base image's resolved path.
    pub(super) base: PathBuf,
    pub(super) file: File,
}

impl OpenFiles {
    /// Removes what dead servers left.
    pub(super) fn sweep(pool: &OverlayPool) {
        remove_leftovers(&pool.config().pool_dir, PREFIX);
    }

    /// Acquires an overlay and takes its name away.
    ///
    /// # Errors
    ///
    /// Those of [`OverlayPool::acquire`]; [`Error::Target`] if there can be no such directory.
    pub(super) async fn acquire(
        &self,
        pool: &OverlayPool,
        base: impl Into<Base>,
        virtual_size: Option<u64>,
    ) -> Result<Opened, Error> {
        if !pool.is_started() {
            return Err(Error::NotStarted);
        }
        let base = base.into();
        let place = &pool.config().pool_dir;
        let failed = |source: io::Error| Error::Target {
            base: base.name().path,
            target: place.clone(),
            source,
        };
        let directory = self.directory(pool).map_err(failed)?;
        let name = format!("{}.qcow2", directory.next_number());
        let at = directory.fd().try_clone().map_err(failed)?;
        let target = Target::within(at, directory.path().join(&name));
        let acquired = match virtual_size {
            Some(size) => pool.acquire_sized(base.clone(), target, size).await?,
            None => pool.acquire(base.clone(), target).await?,
        };
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = openat(directory.fd(), &name, flags, Mode::empty());
        // Nobody else knows it.
        let _ = unlinkat(directory.fd(), &name, AtFlags::empty());
        let file = opened.map_err(|errno| failed(errno.into()))?.into();
        Ok(Opened { source: acquired.source, base: acquired.base, file })
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
