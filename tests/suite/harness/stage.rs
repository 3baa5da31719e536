//! What most tests begin with: a folder with a base image in it.

use std::ops::Deref;
use std::path::PathBuf;

use rstest::fixture;

use super::qcow2::Image;
use super::scratch::{Scratch, scratch};

/// A test's folder, and a base image with data in it.
pub(crate) struct Stage {
    pub(crate) base: PathBuf,
    scratch: Scratch,
}

/// The base image is `base.qcow2`, a disk of `mib` MiB: `#[with(1024)] stage: Stage` has a large one.
#[fixture]
pub(crate) fn stage(#[default(64)] mib: u64, scratch: Scratch) -> Stage {
    let stage = Stage { base: scratch.join("base.qcow2"), scratch };
    stage.another("base.qcow2", mib);
    stage
}

impl Stage {
    /// Makes another base image, which is also how one is replaced.
    pub(crate) fn another(&self, name: &str, mib: u64) -> PathBuf {
        let path = self.join(name);
        Image::with_data(mib << 20).write(&path);
        path
    }
}

impl Deref for Stage {
    type Target = Scratch;

    fn deref(&self) -> &Scratch {
        &self.scratch
    }
}
