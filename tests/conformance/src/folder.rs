//! The folder that all cases' folders lie in, and what is added to one that is kept.

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::qemu;

/// Where the cases' folders lie.
pub(crate) struct Folder {
    path: PathBuf,
    /// Removed in the end, unless something in it is to be kept.
    temporary: Option<TempDir>,
}

impl Folder {
    /// A named one, made where it is missing, or else a new one in the directory for temporary
    /// files.
    ///
    /// # Errors
    ///
    /// It can't be made, or something is in it: nothing there shall be taken for the cases'.
    pub(crate) fn make(named: Option<&Path>) -> io::Result<Self> {
        let Some(named) = named else {
            let temporary =
                tempfile::Builder::new().prefix("overlay-pool-conformance-").tempdir()?;
            let path = temporary.path().canonicalize()?;
            return Ok(Self { path, temporary: Some(temporary) });
        };
        std::fs::create_dir_all(named)?;
        if named.read_dir()?.next().is_some() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        Ok(Self { path: named.canonicalize()?, temporary: None })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves everything where it is.
    pub(crate) fn keep(mut self) {
        // What all cases share is nothing to look at.
        let _ = std::fs::remove_dir_all(self.path.join("images"));
        if let Some(temporary) = self.temporary.take() {
            let _ = temporary.keep();
        }
    }
}

/// Writes `headers.txt` into a case's folder: what `qemu-img` says of each qcow2 file there.
pub(crate) fn describe(folder: &Path) {
    let mut text = String::new();
    describe_all(folder, folder, &mut text);
    if !text.is_empty() {
        let _ = std::fs::write(folder.join("headers.txt"), text);
    }
}

fn describe_all(root: &Path, folder: &Path, text: &mut String) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let Ok(metadata) = path.symlink_metadata() else { continue };
        if metadata.is_dir() {
            describe_all(root, &path, text);
        } else if metadata.is_file()
            && path.extension().is_some_and(|extension| extension == "qcow2")
        {
            let args = ["info", "-U", "-f", "qcow2", "--output=json", "--"];
            let args = args.iter().map(AsRef::as_ref).chain([path.as_os_str()]);
            let (Ok(told) | Err(told)) = qemu::run("qemu-img", args);
            let name = path.strip_prefix(root).unwrap_or(&path).display();
            let _ = writeln!(text, "{name}, {} bytes: {}\n", metadata.len(), told.trim());
        }
    }
}
