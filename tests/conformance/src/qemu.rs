//! QEMU's tools, which make base images and judge overlays.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// Runs a tool to its end, and gives what it said.
///
/// # Errors
///
/// It can't be run, or fails: what it said, with its command.
pub(crate) fn run(
    program: &str,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(args);
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        return Ok(stdout.into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}\n{stdout}{stderr}", output.status))
}

/// Copies an image that is kept in a folder, and made there the first time: many cases want the
/// same one.
///
/// # Errors
///
/// It can't be made or copied.
pub(crate) fn copy_of(
    kept: &Path,
    path: &Path,
    make: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<(), String> {
    let told = |error: std::io::Error| format!("{}: {error}", kept.display());
    if !kept.exists() {
        let folder = kept.parent().unwrap_or(kept);
        std::fs::create_dir_all(folder).map_err(told)?;
        let draft = tempfile::Builder::new().tempfile_in(folder).map_err(told)?;
        make(draft.path())?;
        // Many may make it at once, and each the same.
        draft.persist(kept).map_err(|error| told(error.error))?;
    }
    std::fs::write(path, std::fs::read(kept).map_err(told)?).map_err(told)
}
