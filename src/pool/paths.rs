//! Paths in JSON, which has no bytes that aren't UTF-8.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

/// The path, with each byte that isn't UTF-8 as `\xNN`.
pub(crate) fn text(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        text += chunk.valid();
        text.extend(chunk.invalid().iter().map(|byte| format!(r"\x{byte:02x}")));
    }
    text
}

/// Serializes one path.
pub(crate) fn one<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text(path))
}

/// Serializes what there is of each path.
pub(crate) fn keys<S: Serializer, V: Serialize>(
    of: &BTreeMap<PathBuf, V>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(of.iter().map(|(path, value)| (text(path), value)))
}
