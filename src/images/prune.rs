//! What may leave the store.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};

use super::error::ImageError;
use super::store::{Store, Stored};

/// Why an image leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It has no name any more: its tag has moved on.
    Unnamed,
    /// The store is over its limit, and of all it was used longest ago.
    Unused,
}

/// An image that left the store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pruned {
    /// What it was.
    pub image: Stored,
    /// Why it left.
    pub reason: Reason,
}

impl Store {
    /// Removes what pulls left that died, images without a name, and then, as long as the store
    /// takes more than `max_bytes`, the image that was used longest ago. What `in_use` names, by its
    /// resolved path, stays. With `dry_run` it only tells what would go.
    ///
    /// # Errors
    ///
    /// [`ImageError::Busy`] while somebody pulls into it, [`ImageError::File`], and those of
    /// `in_use`: who can't tell what is in use removes nothing.
    pub fn prune(
        &self,
        max_bytes: Option<u64>,
        in_use: impl FnOnce() -> Result<BTreeSet<PathBuf>, ImageError>,
        dry_run: bool,
    ) -> Result<Vec<Pruned>, ImageError> {
        let _alone = self.hold_alone()?;
        let in_use = in_use()?;
        let is_used = |image: &Stored| {
            let resolved = image.path.canonicalize();
            in_use.contains(&image.path) || resolved.is_ok_and(|path| in_use.contains(&path))
        };
        if !dry_run {
            self.remove_partials()?;
            self.remove_new_links()?;
        }
        let mut images = self.list()?;
        let mut total: u64 = images.iter().map(|image| image.size).sum();
        // Those without a name first, then by their last use.
        images.sort_by_key(|image| (!image.names.is_empty(), image.used));
        let mut pruned = Vec::new();
        for image in images {
            let reason = match image.names.is_empty() {
                true => Reason::Unnamed,
                false if max_bytes.is_some_and(|most| total > most) => Reason::Unused,
                false => continue,
            };
            if is_used(&image) {
                continue;
            }
            if !dry_run {
                self.remove(&image)?;
            }
            total -= image.size;
            pruned.push(Pruned { image, reason });
        }
        Ok(pruned)
    }

    /// Removes what nobody receives any more.
    fn remove_partials(&self) -> Result<(), ImageError> {
        let directory = self.partials();
        for entry in fs::read_dir(&directory).map_err(ImageError::file(&directory))?.flatten() {
            let path = entry.path();
            let Ok(file) = fs::File::open(&path) else { continue };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                fs::remove_file(&path).map_err(ImageError::file(&path))?;
            }
        }
        Ok(())
    }
}
