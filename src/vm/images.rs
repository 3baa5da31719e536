//! The guest images: finding them, and telling whether they are what was built.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::VmError;
use super::hashes::sha256;
use super::language::Language;
use super::languages::Languages;

/// A manifest of more bytes than this isn't one.
const MAX_MANIFEST: u64 = 1 << 20;

/// The base image of a language: of several the last by name, which is the newest version.
pub(super) fn find(directory: &Path, language: Language) -> Result<PathBuf, VmError> {
    let missing = || VmError::NoImage { language, directory: directory.to_owned() };
    let entries = match directory.read_dir() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
        Err(source) => {
            let path = directory.to_owned();
            return Err(VmError::File { what: "directory of base images", path, source });
        }
        Ok(entries) => entries,
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let found = names.filter(|name| language.is_base_name(name)).max_by_key(|name| version(name));
    found.map(|name| directory.join(name)).ok_or_else(missing)
}

/// Where this project's guest images are looked for: the first of the usual directories that has a
/// base image, or else where they would be built.
pub(super) fn usual(dir: &Path, languages: &Languages) -> PathBuf {
    let built = built(dir);
    let places = [
        Path::new("images"),
        Path::new("target/guest-images"),
        &built,
        Path::new("/var/lib/overlay-pool/guest-images"),
    ];
    let has_one = |place: &Path| languages.iter().any(|language| find(place, language).is_ok());
    places.into_iter().find(|place| has_one(place)).unwrap_or(&built).to_owned()
}

/// Where they are built.
pub(super) fn built(dir: &Path) -> PathBuf {
    dir.join("guest-images")
}

/// A name's numbers are compared as numbers: 3.9 is older than 3.13.
fn version(name: &str) -> (Vec<u64>, String) {
    let numbers = name.split(|char: char| !char.is_ascii_digit());
    (numbers.filter_map(|number| number.parse().ok()).collect(), name.to_owned())
}

/// What the recipe of the guest images says that it made.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Manifest {
    /// Which state of the recipe it was.
    pub recipe: String,
    /// The guests' architecture.
    pub arch: String,
    /// The files, by name.
    pub files: BTreeMap<String, ManifestFile>,
}

/// What a file is said to be.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ManifestFile {
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256, in hexadecimal digits.
    pub sha256: String,
}

/// Whether a file is what the manifest says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileCheck {
    /// It is.
    Good,
    /// It isn't there.
    Missing,
    /// It has other bytes.
    Different,
}

/// Why the guest images can't be judged.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct ImagesError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub source: io::Error,
}

impl Manifest {
    /// Reads the manifest in a directory of guest images.
    ///
    /// # Errors
    ///
    /// An [`ImagesError`] if it isn't there or isn't a manifest.
    pub fn read(directory: &Path) -> Result<Self, ImagesError> {
        let path = directory.join("manifest.json");
        let read = || {
            let mut text = String::new();
            File::open(&path)?.take(MAX_MANIFEST).read_to_string(&mut text)?;
            let manifest: Self = serde_json::from_str(&text)?;
            match manifest.files.keys().find(|name| name.contains('/')) {
                Some(name) => Err(io::Error::other(format!("the file name {name:?} is a path"))),
                None => Ok(manifest),
            }
        };
        read().map_err(|source| ImagesError { path: path.clone(), source })
    }

    /// Reads a file of the manifest and compares it.
    ///
    /// # Errors
    ///
    /// An [`ImagesError`] if the file is there but can't be read.
    pub fn check(&self, directory: &Path, name: &str) -> Result<FileCheck, ImagesError> {
        let path = directory.join(name);
        let Some(expected) = self.files.get(name) else { return Ok(FileCheck::Different) };
        match File::open(&path).and_then(|mut file| sha256(&mut file)) {
            Ok(sha256) if sha256 == expected.sha256 => Ok(FileCheck::Good),
            Ok(_) => Ok(FileCheck::Different),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(FileCheck::Missing),
            Err(source) => Err(ImagesError { path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    fn the_newest_version_is_found() {
        let dir = tempfile::tempdir().expect("a folder");
        for version in ["3.9", "3.13", "3.2"] {
            let name = format!("python-{version}-base-x86_64.qcow2");
            std::fs::write(dir.path().join(name), "").expect("a file");
        }
        let found = find(dir.path(), Language::PYTHON).expect("an image");
        assert_eq!(found, dir.path().join("python-3.13-base-x86_64.qcow2"));
        let missing = find(dir.path(), Language::RAW).expect_err("no image");
        assert!(matches!(missing, VmError::NoImage { .. }), "{missing}");
    }
}
