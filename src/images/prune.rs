//! What may leave the store.

use std::collections::BTreeSet;
use std::ffi::OsString;
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
    /// Removes images without a name and then, as long as the store takes more than `max_bytes`, the
    /// image that was used longest ago; with `partials` also what broken-off pulls left, which the next
    /// one would go on with. What `in_use` names stays: by the name
    /// of its file, wherever the store is mounted for those who use it. With `dry_run` it only tells what would go.
    ///
    /// `in_use` is asked twice: what is to go is moved aside, where nobody begins to use it, and put
    /// back if somebody had begun before. Whoever makes a disk looks after that whether its base image
    /// is still there, as a server does.
    ///
    /// # Errors
    ///
    /// [`ImageError::Busy`] while somebody pulls into it, [`ImageError::File`], and those of
    /// `in_use`: who can't tell what is in use removes nothing.
    pub fn prune(
        &self,
        max_bytes: Option<u64>,
        in_use: impl Fn() -> Result<BTreeSet<PathBuf>, ImageError>,
        partials: bool,
        dry_run: bool,
    ) -> Result<Vec<Pruned>, ImageError> {
        let _alone = self.hold_alone()?;
        self.put_back()?;
        let in_use = || {
            let names = in_use()?.into_iter().filter_map(|file| Some(file.file_name()?.to_owned()));
            Ok::<BTreeSet<OsString>, ImageError>(names.collect())
        };
        let is_used = |image: &Stored, used: &BTreeSet<OsString>| {
            image.path.file_name().is_some_and(|name| used.contains(name))
        };
        let used = in_use()?;
        if !dry_run {
            if partials {
                self.remove_partials()?;
            }
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
            if is_used(&image, &used) {
                continue;
            }
            total -= image.size;
            pruned.push(Pruned { image, reason });
        }
        if dry_run || pruned.is_empty() {
            return Ok(pruned);
        }
        let mut remove = || {
            for Pruned { image, .. } in &pruned {
                self.set_aside(image)?;
            }
            // Somebody may have begun with one before, and have a disk of it by now.
            let used = in_use()?;
            pruned.retain(|pruned| !is_used(&pruned.image, &used));
            pruned.iter().try_for_each(|pruned| self.remove(&pruned.image))
        };
        let removed = remove();
        self.put_back()?;
        removed.map(|()| pruned)
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    use super::*;
    use crate::image::{BaseImage, BaseRef, OverlayOptions, References};
    use crate::images::{Digest, bases_below};

    /// A store with one image that has no name, and a directory of disks.
    fn store(dir: &Path) -> (Store, PathBuf, PathBuf) {
        let store = Store::open(dir.join("store")).expect("a store");
        let image = store.image(&Digest::of(b"disk"));
        fs::write(&image, [7; 4096]).expect("an image");
        let disks = dir.join("disks");
        fs::create_dir(&disks).expect("a folder");
        (store, image, disks)
    }

    /// Makes a disk whose header names its base image as `base`.
    fn make_disk(disks: &Path, base: &Path) {
        let image = BaseImage::open(&BaseRef::raw(base), References::Deny).expect("an image");
        let overlay = image.overlay(OverlayOptions::default()).expect("an overlay");
        let file = fs::File::create(disks.join("disk.qcow2")).expect("a file");
        for extent in overlay.extents() {
            file.write_all_at(&extent.bytes, extent.offset).expect("written");
        }
        file.set_len(overlay.file_len()).expect("its length");
    }

    /// As an acquire does that had opened the image before.
    #[test]
    fn a_disk_that_is_made_meanwhile_keeps_its_image() {
        let dir = tempfile::tempdir().expect("a folder");
        let (store, image, disks) = store(dir.path());
        let in_use = || {
            let found = bases_below(std::slice::from_ref(&disks));
            if image.exists() {
                make_disk(&disks, &image);
            }
            found
        };
        let pruned = store.prune(None, in_use, true, false).expect("pruned");
        assert_eq!(pruned, [], "a disk refers to it");
        assert_eq!(fs::read(&image).expect("the image"), [7; 4096]);
        assert_eq!(store.list().expect("a list").len(), 1);
        fs::remove_file(disks.join("disk.qcow2")).expect("removed");
        let pruned = store.prune(None, || bases_below(std::slice::from_ref(&disks)), true, false);
        assert_eq!(pruned.expect("pruned").len(), 1);
        assert!(!image.exists());
    }

    /// A server may have the store mounted elsewhere than who prunes.
    #[test]
    fn an_image_is_known_by_its_name_wherever_the_store_is_mounted() {
        let dir = tempfile::tempdir().expect("a folder");
        let (store, image, _) = store(dir.path());
        let elsewhere =
            Path::new("/elsewhere").join(image.strip_prefix(dir.path()).expect("below"));
        let pruned = store.prune(None, || Ok([elsewhere.clone()].into()), true, false);
        assert_eq!(pruned.expect("pruned"), []);
        let other = elsewhere.with_file_name(Digest::of(b"other").hex());
        let pruned = store.prune(None, || Ok([other.clone()].into()), true, false);
        assert_eq!(pruned.expect("pruned").len(), 1);
    }
}
