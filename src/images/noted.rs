//! What a store is told of disks that may refer to its images.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::directory::{make_directory, read_directory};
use super::error::ImageError;
use super::store::{DISKS, LEASES, Store};

/// Records of disks that a server noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotedLeases {
    /// The note, whose name begins with the directory's seal.
    note: PathBuf,
    /// Where they are.
    pub directory: PathBuf,
}

impl NotedLeases {
    /// What tells the directory from any other at its path.
    #[must_use]
    pub fn seal(&self) -> &str {
        self.note.file_stem().and_then(OsStr::to_str).unwrap_or_default()
    }

    /// That they aren't there.
    #[must_use]
    pub fn missing(self) -> ImageError {
        ImageError::Records { leases: self.directory, note: self.note }
    }
}

impl Store {
    /// Notes a directory below which disks may refer to the images here, whoever made them: what
    /// they refer to isn't pruned. `by` tells whose note it is, who alone forgets it.
    ///
    /// # Errors
    ///
    /// [`ImageError::File`] if it can't be noted.
    pub fn note_disks(&self, directory: &Path, by: &Path) -> Result<(), ImageError> {
        // An older store lacks one.
        make_directory(&self.path().join(DISKS))?;
        let noted = || put_link(directory, &self.link_to(directory, by)?);
        noted().map_err(ImageError::file(self.path().join(DISKS)))
    }

    /// The directories of disks that were noted.
    ///
    /// # Errors
    ///
    /// [`ImageError::File`] if they can't be read.
    pub fn disks(&self) -> Result<Vec<PathBuf>, ImageError> {
        Ok(self.noted(DISKS)?.into_iter().map(|(_, directory)| directory).collect())
    }

    /// Whether that directory of disks is noted here.
    #[must_use]
    pub fn has_noted_disks(&self, directory: &Path, by: &Path) -> bool {
        self.link_to(directory, by).is_ok_and(|link| link.is_symlink())
    }

    /// From now on this directory isn't among [those of disks](Self::disks), unless others noted it.
    ///
    /// # Errors
    ///
    /// [`ImageError::File`] if it stays.
    pub fn forget_disks(&self, directory: &Path, by: &Path) -> Result<(), ImageError> {
        let forgotten = || remove_link(&self.link_to(directory, by)?);
        forgotten().map_err(ImageError::file(self.path().join(DISKS)))
    }

    /// Notes a directory in which a server has records of disks: their base images aren't pruned. `seal`
    /// tells it from any other at its path.
    ///
    /// # Errors
    ///
    /// [`ImageError::File`] if it can't be noted.
    pub fn note_leases(&self, directory: &Path, seal: &str) -> Result<(), ImageError> {
        make_directory(&self.path().join(LEASES))?;
        let noted = || put_link(directory, &self.leases_link(directory, seal)?);
        noted().map_err(ImageError::file(self.path().join(LEASES)))
    }

    /// Whether that directory of records is noted here.
    #[must_use]
    pub fn has_noted_leases(&self, directory: &Path, seal: &str) -> bool {
        self.leases_link(directory, seal).is_ok_and(|link| link.is_symlink())
    }

    /// From now on nobody expects that directory of records.
    ///
    /// # Errors
    ///
    /// [`ImageError::File`] if the note stays.
    pub fn forget_leases(&self, directory: &Path, seal: &str) -> Result<(), ImageError> {
        let forgotten = || remove_link(&self.leases_link(directory, seal)?);
        forgotten().map_err(ImageError::file(self.path().join(LEASES)))
    }

    fn leases_link(&self, directory: &Path, seal: &str) -> io::Result<PathBuf> {
        let directory = std::path::absolute(directory)?;
        let of_path = Digest::of(directory.as_os_str().as_encoded_bytes()).hex();
        Ok(self.path().join(LEASES).join(format!("{seal}.{of_path}")))
    }

    /// The directories of records that were noted.
    ///
    /// # Errors
    ///
    /// [`ImageError::File`] if they can't be read.
    pub fn leases(&self) -> Result<Vec<NotedLeases>, ImageError> {
        let notes = self.noted(LEASES)?.into_iter();
        Ok(notes.map(|(note, directory)| NotedLeases { note, directory }).collect())
    }

    /// All links, and where they lead to.
    fn noted(&self, kind: &str) -> Result<Vec<(PathBuf, PathBuf)>, ImageError> {
        let links = read_directory(&self.path().join(kind))?.into_iter().map(|link| link.path());
        links
            .map(|link| match fs::read_link(&link) {
                Ok(directory) => Ok((link, directory)),
                Err(error) => Err(ImageError::file(&link)(error)),
            })
            .collect()
    }

    fn link_to(&self, directory: &Path, by: &Path) -> io::Result<PathBuf> {
        let (directory, by) = (std::path::absolute(directory)?, std::path::absolute(by)?);
        let both = [&directory, &by].map(|path| path.as_os_str().as_encoded_bytes());
        Ok(self.path().join(DISKS).join(Digest::of(&both.join(&0)).hex()))
    }
}

/// Has a link lead to a directory, if there is none yet.
fn put_link(directory: &Path, link: &Path) -> io::Result<()> {
    match symlink(std::path::absolute(directory)?, link) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        put => put,
    }
}

fn remove_link(link: &Path) -> io::Result<()> {
    match fs::remove_file(link) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Also copies of one directory: each may have other records by now.
    #[test]
    fn records_are_noted_by_seal_and_place() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(dir.path()).expect("a store");
        let [one, other] = ["/one", "/other"].map(Path::new);
        for (path, seal) in [(one, "seal"), (other, "seal"), (one, "seal"), (one, "another")] {
            store.note_leases(path, seal).expect("it is noted");
        }
        let noted = || {
            let noted = store.leases().expect("notes").into_iter();
            let mut noted: Vec<_> =
                noted.map(|noted| (noted.seal().to_owned(), noted.directory.clone())).collect();
            noted.sort();
            noted
        };
        let [seal, another] = ["seal", "another"].map(str::to_owned);
        let second = (seal.clone(), other.to_owned());
        assert_eq!(noted(), [(another, one.to_owned()), (seal, one.to_owned()), second.clone()]);
        assert!(
            store.has_noted_leases(one, "another") && !store.has_noted_leases(other, "another")
        );
        for seal in ["another", "seal", "seal"] {
            store.forget_leases(one, seal).expect("it is forgotten");
        }
        assert_eq!(noted(), [second]);
    }

    #[test]
    fn a_note_is_forgotten_by_its_owner_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(dir.path()).expect("a store");
        let [disks, one, other] = ["/disks", "/one", "/other"].map(Path::new);
        for by in [one, other, one] {
            store.note_disks(disks, by).expect("it is noted");
        }
        store.forget_disks(disks, one).expect("it is forgotten");
        store.forget_disks(disks, one).expect("there is none");
        assert_eq!(store.disks().expect("the other one's"), [disks]);
        store.forget_disks(disks, other).expect("it is forgotten");
        assert!(store.disks().expect("none").is_empty());
    }
}
