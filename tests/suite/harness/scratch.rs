//! A folder for each test, kept when the test fails.

use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;

use rstest::fixture;
use tempfile::TempDir;

use super::artefacts;
use super::requirements::SECOND_FILESYSTEM;

/// A test's folder. Removed when the test passes; kept, and named, when it fails.
pub(crate) struct Scratch {
    dir: Option<TempDir>,
    path: PathBuf,
}

/// Beside the build, so that folders lie on a disk and not on a /tmp that is tmpfs.
pub(crate) const ON_DISK: &str = env!("CARGO_TARGET_TMPDIR");

#[fixture]
pub(crate) fn scratch() -> Scratch {
    std::fs::create_dir_all(ON_DISK).expect("the folder of the tests' folders");
    Scratch::new(Path::new(ON_DISK)).expect("a new folder")
}

/// One on tmpfs where there is one, for tests that make files by the thousand and of which no rule
/// is about what a disk does: ext4 looks for a long time for an inode that wasn't in use just now.
#[fixture]
pub(crate) fn scratch_in_memory() -> Scratch {
    Scratch::new(Path::new(SECOND_FILESYSTEM)).unwrap_or_else(|_| scratch())
}

impl Scratch {
    fn new(parent: &Path) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("test-").tempdir_in(parent)?;
        let path = dir.path().canonicalize()?;
        artefacts::begin(&path);
        Ok(Self { dir: Some(dir), path })
    }
}

/// Keeps a folder, on the disk; says where.
fn keep(dir: TempDir) -> PathBuf {
    if dir.path().starts_with(ON_DISK) {
        return dir.keep();
    }
    let copied = Command::new("cp").arg("--archive").arg(dir.path()).arg(ON_DISK).status();
    match (copied, dir.path().file_name()) {
        (Ok(status), Some(name)) if status.success() => Path::new(ON_DISK).join(name),
        _ => dir.keep(),
    }
}

impl Deref for Scratch {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

impl AsRef<Path> for Scratch {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return artefacts::forget(&self.path);
        }
        if let Some(dir) = self.dir.take() {
            artefacts::keep(&self.path);
            eprintln!("this test's folder is kept: {}", keep(dir).display());
        }
    }
}

/// The names in a directory, sorted; none if it is not there.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The records of disks in a server's directory of them.
pub(crate) fn record_names(directory: &Path) -> Vec<String> {
    names(directory).into_iter().filter(|name| name != "seal").collect()
}
