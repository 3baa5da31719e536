//! What a pool under test stands on: its folder, its base images and its targets.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::harness::pool_process::is_whole;
use crate::harness::qcow2::Image;

/// A target at which there is a file that nobody may touch.
pub(super) const PRECIOUS: &str = "precious";
/// Targets with this name, or one that begins with it, are of a disk that is larger than its base
/// image.
pub(super) const LARGER: (&str, u64) = ("larger", 2 << 20);
/// A target of a disk of the other base image.
pub(super) const OTHER: &str = "other";

pub(super) struct Ground {
    pub(super) folder: PathBuf,
    pub(super) one: PathBuf,
    pub(super) other: PathBuf,
}

impl Ground {
    pub(super) fn new(folder: &Path) -> Self {
        std::fs::create_dir_all(folder.join("vm")).expect("a folder");
        let folder = folder.to_owned();
        let [one, other] = ["one.qcow2", "other.qcow2"].map(|name| folder.join(name));
        Image::new(1 << 20).write(&one);
        Image::new(1 << 20).write(&other);
        let ground = Self { folder, one, other };
        std::fs::write(ground.target(PRECIOUS), PRECIOUS).expect("a file");
        ground
    }

    pub(super) fn target(&self, name: &str) -> PathBuf {
        self.folder.join("vm").join(name)
    }

    /// Rules A1 to A4, A7 and A11: at the targets are whole overlays, what was there before, and
    /// nothing else; and no file is at two of them. Gives the names of the overlays.
    pub(super) fn overlays(&self) -> Result<HashSet<String>, String> {
        let (mut names, mut inodes, mut precious) = (HashSet::new(), HashSet::new(), false);
        for entry in std::fs::read_dir(self.folder.join("vm")).expect("the targets") {
            let path = entry.expect("a target").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            let bytes = std::fs::read(&path).expect("a target");
            let metadata = path.symlink_metadata().expect("a target");
            if name == PRECIOUS {
                precious = bytes == PRECIOUS.as_bytes();
                continue;
            }
            let base = if name == OTHER { &self.other } else { &self.one };
            let size = name.starts_with(LARGER.0).then_some(LARGER.1);
            if metadata.mode() & 0o7777 != 0o600 || !is_whole(&bytes, base, size) {
                return Err(format!("A2: {name} is no whole overlay: {metadata:?}"));
            }
            if !inodes.insert(metadata.ino()) || metadata.nlink() != 1 {
                return Err(format!("A4: {name} was handed out twice"));
            }
            names.insert(name);
        }
        if precious { Ok(names) } else { Err(format!("A1: {PRECIOUS} was overwritten")) }
    }
}
