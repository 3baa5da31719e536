//! Directories of which only the newest entries are kept.

use std::fs;
use std::io;
use std::path::Path;

/// Removes all but the newest `kept` of the entries of a directory whose names are `ours`.
pub(super) fn prune(directory: &Path, kept: usize, ours: impl Fn(&str) -> bool) -> io::Result<()> {
    let mut entries = Vec::new();
    for entry in directory.read_dir()? {
        let entry = entry?;
        // What another process has removed by now is gone already.
        let Ok(metadata) = entry.metadata() else { continue };
        if entry.file_name().to_str().is_some_and(&ours) {
            entries.push((metadata.modified()?, entry.path(), metadata.is_dir()));
        }
    }
    entries.sort_by(|one, other| other.cmp(one));
    for (_, path, is_dir) in entries.into_iter().skip(kept) {
        let removed = if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    Ok(())
}
