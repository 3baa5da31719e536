//! The base images of a running pool: found, added, given up.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{OverlayPool, absolute_base, paths};
use crate::error::Error;
use crate::image::{BaseRef, Format};

/// What a pool has of one base image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[non_exhaustive]
pub struct BaseState {
    /// Its resolved path.
    #[serde(serialize_with = "paths::one")]
    #[schema(value_type = String, example = "/var/lib/vms/images/python-3-base-x86_64.qcow2")]
    pub path: PathBuf,
    /// Its declared format.
    pub format: Format,
    /// The size of the guest's disk in bytes; none where the image can't be used now.
    pub virtual_size: Option<u64>,
    /// How many overlays are ready.
    pub ready: usize,
    /// How many of them are of another state of the image than the one on disk now: they will be
    /// discarded and not handed over.
    pub stale: usize,
    /// How many are being made ahead.
    pub pending: usize,
    /// How many shall be ready.
    pub target: usize,
}

impl OverlayPool {
    /// Has a shelf for `base` from now on, which is filled in the background. Gives its resolved
    /// path.
    ///
    /// # Errors
    ///
    /// [`Error::NotStarted`], and [`Error::Base`] where the image can't be used.
    pub fn add_base(&self, base: impl Into<BaseRef>) -> Result<PathBuf, Error> {
        let base = absolute_base(&base.into())?;
        let stock = self.stock().ok_or(Error::NotStarted)?;
        let (shelf, _) = stock.shelves.open(&base)?;
        stock.request();
        Ok(shelf.path().to_owned())
    }

    /// Gives up the overlays of `base` and forgets it, until it is asked for again. Says how many
    /// were ready; none where the pool doesn't know it.
    ///
    /// # Errors
    ///
    /// [`Error::NotStarted`].
    pub fn remove_base(&self, base: impl Into<BaseRef>) -> Result<Option<usize>, Error> {
        let base = absolute_base(&base.into())?;
        let stock = self.stock().ok_or(Error::NotStarted)?;
        Ok(stock.shelves.forget(&base))
    }

    /// Gives up all ready overlays and makes none ahead until [`rescan`](Self::rescan). Acquires
    /// go on, on demand. Says how many were ready.
    ///
    /// # Errors
    ///
    /// [`Error::NotStarted`].
    pub async fn drain(&self) -> Result<usize, Error> {
        let stock = self.stock().ok_or(Error::NotStarted)?;
        Ok(stock.drain().await)
    }

    /// Has a shelf for each of `bases` too, or, given no list, for what is in `images_path` now, as
    /// [`start`](Self::start) does, and fills all shelves in the background. Ends a
    /// [`drain`](Self::drain).
    ///
    /// # Errors
    ///
    /// [`Error::NotStarted`], [`Error::Path`].
    pub fn rescan(&self, bases: Option<Vec<BaseRef>>) -> Result<(), Error> {
        let stock = self.stock().ok_or(Error::NotStarted)?;
        let bases = self.wanted(bases)?;
        if stock.directory().is_some() {
            for base in &bases {
                stock.shelves.await_base(base);
            }
        }
        stock.resume();
        Ok(())
    }

    /// The base images of a list, or those that are found where there is none.
    pub(super) fn wanted(&self, bases: Option<Vec<BaseRef>>) -> Result<Vec<BaseRef>, Error> {
        match bases {
            Some(bases) => bases.iter().map(absolute_base).collect(),
            None => Ok(discover(&self.config.images_path)),
        }
    }

    /// All base images that the pool has a shelf for, by ascending path.
    #[must_use]
    pub fn bases(&self) -> Vec<BaseState> {
        let Some(stock) = self.stock().filter(|stock| stock.directory().is_some()) else {
            return Vec::new();
        };
        let target = usize::try_from(self.pool_size()).unwrap_or(0);
        let shelves = stock.shelves.all();
        let mut bases: Vec<_> = shelves.iter().map(|shelf| shelf.report(target)).collect();
        bases.sort_by(|one, other| one.path.cmp(&other.path));
        bases
    }
}

/// The base images in a directory by the convention of their names, `*-base-*.qcow2`: resolved and
/// sorted (rule L9). A directory that can't be read is a warning, and has none.
#[must_use]
pub fn discover(images_path: &Path) -> Vec<BaseRef> {
    let entries = match std::fs::read_dir(images_path) {
        Ok(entries) => entries,
        Err(error) => {
            let directory = images_path.display();
            tracing::warn!(%directory, %error, "no base images discovered");
            return Vec::new();
        }
    };
    // As a shell's *-base-*.qcow2, hidden files are left out.
    let is_base = |name: &str| {
        let stem = name.strip_suffix(".qcow2").filter(|stem| !stem.starts_with('.'));
        stem.is_some_and(|stem| stem.contains("-base-"))
    };
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(is_base))
        .map(|entry| entry.path().canonicalize().unwrap_or_else(|_| entry.path()))
        .collect();
    paths.sort();
    paths.dedup();
    paths.into_iter().map(BaseRef::qcow2).collect()
}
