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
