//! Base images by the convention of their names.

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
