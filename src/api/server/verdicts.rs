//! Base images that were judged, so that a header isn't read for each request.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{PoisonError, RwLock};

use rustix::fs::OFlags;

use super::trusted::Found;
use crate::image::{BaseError, BaseImage, BaseRef, Format, Identity, References};
use crate::paths::link_to;

/// How many are remembered; over it all are forgotten, so that nobody can fill the memory.
const MAX: usize = 4096;

/// What was found good, by the name that it was asked for by.
#[derive(Debug, Default)]
pub(super) struct Verdicts(RwLock<HashMap<BaseRef, BaseImage>>);

impl Verdicts {
    /// What is known of a path that only its administrator can have lead elsewhere, if the same
    /// file is there: one `statx`, and another if it isn't the resolved path.
    pub(super) fn known(&self, base: &BaseRef) -> Option<BaseImage> {
        let image = self.0.read().unwrap_or_else(PoisonError::into_inner).get(base)?.clone();
        let is_there =
            |path: &Path| Identity::of(path).is_ok_and(|found| found == image.identity());
        let same = is_there(&base.path) && (base.path == image.path() || is_there(image.path()));
        same.then_some(image)
    }

    /// Judges what was found, unless it is what was judged before.
    pub(super) fn judge(
        &self,
        found: Found,
        format: Format,
        references: References,
    ) -> Result<BaseImage, BaseError> {
        let Found { path, file } = found;
        let failed = |source| BaseError::Io { path: path.clone(), source };
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(BaseError::NotAFile { path });
        }
        let name = BaseRef { path, format };
        let judged = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&name).cloned();
        if let Some(image) = judged
            && image.identity() == Identity::from(&metadata)
        {
            return Ok(image);
        }
        let BaseRef { path, format } = name;
        let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
        let opened = File::options().read(true).custom_flags(nonblock).open(link_to(&file));
        let file = opened.map_err(|source| BaseError::Io { path: path.clone(), source })?;
        let image = BaseImage::judge(&file, path, format, references)?;
        self.remember(image.name(), &image);
        Ok(image)
    }

    /// From now on this name is known to lead to the image.
    pub(super) fn remember(&self, name: BaseRef, image: &BaseImage) {
        let mut verdicts = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if verdicts.len() >= MAX {
            verdicts.clear();
        }
        verdicts.insert(name, image.clone());
    }

    /// Judges all again when they are asked for.
    pub(super) fn forget(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    /// Makes a raw image of so many sectors, in the place of one that is there.
    fn write(path: &Path, sectors: usize) {
        let new = path.with_extension("new");
        fs::write(&new, vec![0; 512 * sectors]).expect("a file");
        fs::rename(new, path).expect("it takes its place");
    }

    fn judged(verdicts: &Verdicts, path: &Path) -> BaseImage {
        let file = File::open(path).expect("it opens");
        let found = Found { path: path.to_owned(), file };
        verdicts.judge(found, Format::Raw, References::Deny).expect("a base image")
    }

    /// A folder, its image of one sector that was judged, and all verdicts.
    fn one() -> (tempfile::TempDir, PathBuf, Verdicts, BaseImage) {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().canonicalize().expect("its path").join("images");
        fs::create_dir(&folder).expect("a folder");
        let path = folder.join("base.img");
        write(&path, 1);
        let verdicts = Verdicts::default();
        let image = judged(&verdicts, &path);
        (dir, path, verdicts, image)
    }

    /// What took its place is judged for itself.
    #[test]
    fn the_file_that_was_judged_is_known_and_no_other() {
        let (_dir, path, verdicts, image) = one();
        let base = BaseRef::raw(&path);
        assert_eq!(verdicts.known(&base).map(|known| known.virtual_size()), Some(512));
        assert_eq!(judged(&verdicts, &path).identity(), image.identity());
        write(&path, 2);
        assert!(verdicts.known(&base).is_none());
        assert_eq!(judged(&verdicts, &path).virtual_size(), 1024);
        assert_eq!(verdicts.known(&base).map(|known| known.virtual_size()), Some(1024));
        verdicts.forget();
        assert!(verdicts.known(&base).is_none());
    }

    /// Both of its names have to lead to it: an overlay records the resolved one.
    #[test]
    fn a_link_is_known_while_its_image_is_where_it_was() {
        let (dir, path, verdicts, image) = one();
        let link = dir.path().join("link.img");
        symlink(&path, &link).expect("a link");
        let base = BaseRef::raw(&link);
        verdicts.remember(base.clone(), &image);
        assert!(verdicts.known(&base).is_some() && verdicts.known(&BaseRef::raw(&path)).is_some());
        let moved = dir.path().join("moved");
        fs::rename(path.parent().expect("its folder"), &moved).expect("it is moved");
        fs::remove_file(&link).expect("it is removed");
        symlink(moved.join("base.img"), &link).expect("it leads to the same file");
        assert!(verdicts.known(&base).is_none());
    }
}
