//! Programs that behave badly in place of QEMU's.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Writes an executable shell script.
pub(crate) fn script(path: &Path, body: &str) -> PathBuf {
    std::fs::write(path, format!("#!/bin/sh\n{body}\n")).expect("a script");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    path.to_owned()
}

/// A `qemu-img` in a folder whose creations wait until there is a file at `gate`. What it does then,
/// and for all else that it is asked for at once, is up to `rest`.
pub(crate) fn waiting_qemu_img(folder: &Path, gate: &Path, rest: &str) -> PathBuf {
    let wait = format!("while ! [ -e {} ]; do sleep 0.01; done", gate.display());
    script(&folder.join("qemu-img"), &format!("[ \"$1\" != create ] || {wait}\n{rest}"))
}
