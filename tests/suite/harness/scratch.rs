//! A folder for each test, kept when the test fails.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use rstest::fixture;
use tempfile::TempDir;

use super::artefacts;

/// A test's folder. Removed when the test passes; kept, and named, when it fails.
pub(crate) struct Scratch {
    dir: Option<TempDir>,
    path: PathBuf,
}

#[fixture]
pub(crate) fn scratch() -> Scratch {
    // Beside the build, so that it lies on a disk and not on a /tmp that is tmpfs.
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(parent).expect("the folder of the tests' folders");
    let dir = tempfile::Builder::new().prefix("test-").tempdir_in(parent).expect("a new folder");
    let path = dir.path().canonicalize().expect("its resolved path");
    artefacts::begin(&path);
    Scratch { dir: Some(dir), path }
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
            let folder = dir.keep();
            artefacts::keep(&self.path);
            eprintln!("this test's folder is kept: {}", folder.display());
        }
    }
}
