//! Base images by the convention of their names.

use std::ffi::OsString;
use std::fs::DirEntry;
use std::path::{Path, PathBuf};

use super::base::BaseRef;

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
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(is_base))
        .map(|entry| entry.path().canonicalize().unwrap_or_else(|_| entry.path()))
        .collect();
    paths.sort();
    paths.dedup();
    paths.into_iter().map(BaseRef::qcow2).collect()
}

/// The names of the files in a directory that [`discover`] leaves out, since they don't fit its
/// convention; sorted. Hidden files and directories are no base images by any name.
#[must_use]
pub fn overlooked(images_path: &Path) -> Vec<OsString> {
    let Ok(entries) = std::fs::read_dir(images_path) else { return Vec::new() };
    let is_file = |entry: &DirEntry| {
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        !hidden && entry.path().is_file()
    };
    let entries = entries.flatten().filter(is_file).map(|entry| entry.file_name());
    let mut names: Vec<_> = entries.filter(|name| !name.to_str().is_some_and(is_base)).collect();
    names.sort();
    names
}

/// As a shell's `*-base-*.qcow2`, without hidden files.
fn is_base(name: &str) -> bool {
    let stem = name.strip_suffix(".qcow2").filter(|stem| !stem.starts_with('.'));
    stem.is_some_and(|stem| stem.contains("-base-"))
}
