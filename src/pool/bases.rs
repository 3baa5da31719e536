//! The base images of a started pool: added, looked at, given up.

use std::path::PathBuf;

use super::OverlayPool;
use crate::error::Error;
use crate::image::{Base, BaseRef, Identity};

/// What a pool has of one base image.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BaseState {
    /// Its resolved path, or the one it was given by if it was never there; and its format.
    pub base: BaseRef,
    /// The size of the guest's disk in bytes; none if the image can't be used.
    pub virtual_size: Option<u64>,
    /// Which state of the file was judged; none if it wasn't there.
    pub identity: Option<Identity>,
    /// How many overlays are ready.
    pub ready: usize,
    /// How many are being made ahead, or are on their way to a target.
    pub pending: usize,
}

impl OverlayPool {
    /// Has a shelf for `base` from now on, which is filled in the background. Gives its resolved
    /// path.
    ///
    /// # Errors
    ///
    /// [`Error::NotStarted`], and [`Error::Base`] if the image can't be used.
    pub fn add_base(&self, base: impl Into<Base>) -> Result<PathBuf, Error> {
        let base = base.into().absolute()?;
        let stock = self.stock().ok_or(Error::NotStarted)?;
        let shelf = stock.shelves.open(&base)?;
        stock.request();
        Ok(shelf.base.path.clone())
    }

    /// Like [`add_base`](Self::add_base), for an image that may not be there yet or can't be used:
    /// that is a warning, as in [`start`](Self::start), and its shelf waits for another file.
    ///
    /// # Errors
    ///
    /// [`Error::NotStarted`].
    pub fn await_base(&self, base: impl Into<BaseRef>) -> Result<(), Error> {
        let base = base.into().absolute()?;
        let stock = self.stock().ok_or(Error::NotStarted)?;
        stock.shelves.await_base(&base);
        stock.request();
        Ok(())
    }

    /// Gives up the overlays of `base` and forgets it, until it is asked for again. Says how many
    /// were ready; none if the pool doesn't know it.
    ///
    /// # Errors
    ///
    /// [`Error::NotStarted`].
    pub fn remove_base(&self, base: impl Into<BaseRef>) -> Result<Option<usize>, Error> {
        let base = base.into().absolute()?;
        let stock = self.stock().ok_or(Error::NotStarted)?;
        Ok(stock.shelves.forget(&base))
    }

    /// Gives up all ready overlays and makes none ahead until [`resume`](Self::resume). Acquires go
    /// on, on demand. Says how many were ready. Cancelled, it only doesn't wait for what is being
    /// made, which is given up too.
    ///
    /// # Errors
    ///
    /// [`Error::NotStarted`].
    pub async fn pause(&self) -> Result<usize, Error> {
        let stock = self.stock().ok_or(Error::NotStarted)?;
        stock.rules.pause(true);
        let count = stock.shelves.all().iter().map(|shelf| shelf.clear("paused")).sum();
        drop(self.filling.lock().await);
        Ok(count)
    }

    /// Makes overlays ahead again.
    ///
    /// # Errors
    ///
    /// [`Error::NotStarted`].
    pub fn resume(&self) -> Result<(), Error> {
        let stock = self.stock().ok_or(Error::NotStarted)?;
        stock.rules.pause(false);
        stock.request();
        Ok(())
    }

    /// Whether the pool is started and [paused](Self::pause).
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.stock().is_some_and(|stock| stock.rules.is_paused())
    }

    /// All base images that the pool has a shelf for, by ascending path.
    #[must_use]
    pub fn bases(&self) -> Vec<BaseState> {
        let Some(stock) = self.stock().filter(|stock| stock.directory().is_some()) else {
            return Vec::new();
        };
        let mut bases: Vec<_> = stock.shelves.all().iter().map(|shelf| shelf.report()).collect();
        bases.sort_by(|one, other| one.base.path.cmp(&other.base.path));
        bases
    }
}
