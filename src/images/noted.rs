//! What a store is told of disks that may refer to its images.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::directory::{make_directory, read_directory};
use super::error::ImageError;
use super::store::{DISKS, LEASES, Store};

impl Store {
    /// Notes a directory below which disks may refer to the images here, whoever made them: what
    /// they refer to isn't pruned. `by` tells whose note it is, who alone forgets it.
    ///
    /// # Errors
    ///
    /// [`ImageError::File`] if it can't be noted.
    pub fn note_disks(&self, directory: &Path, by: &Path) -> Result<(), ImageError> {
        self.note(DISKS, directory, by)
    }

    /// The directories of disks that were noted.
    ///
    /// # Errors
    ///
    /// [`ImageError::File`] if they can't be read.
    pub fn disks(&self) -> Result<Vec<PathBuf>, ImageError> {
        self.noted(DISKS)
    }

    /// From now on this directory isn't among [those of disks](Self::disks), unless others noted it.
    ///
    /// # Errors
    ///
    /// [`ImageError::File`] if it stays.
    pub fn forget_disks(&self, directory: &Path, by: &Path) -> Result<(), ImageError> {
        let forgotten = || match fs::remove_file(self.link_to(DISKS, directory, by)?) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        forgotten().map_err(ImageError::file(self.path().join(DISKS)))
    }

    /// Notes a directory in which a server has records of disks: their base images aren't pruned.
    ///
    /// # Errors
    ///
    /// [`ImageError::File`] if it can't be noted.
    pub fn note_leases(&self, directory: &Path) -> Result<(), ImageError> {
        self.note(LEASES, directory, directory)
    }

    /// Whether that directory is noted here.
    #[must_use]
    pub fn has_noted_leases(&self, directory: &Path) -> bool {
        self.link_to(LEASES, directory, directory).is_ok_and(|link| link.is_symlink())
    }

    /// That such a directory isn't there.
    #[must_use]
    pub fn missing(&self, leases: &Path) -> ImageError {
        let note = self.link_to(LEASES, leases, leases).unwrap_or_default();
        ImageError::Records { leases: leases.to_owned(), note }
    }

    /// The directories of records that were noted.
    ///
    /// # Errors
    ///
    /// [`ImageError::File`] if they can't be read.
    pub fn leases(&self) -> Result<Vec<PathBuf>, ImageError> {
        self.noted(LEASES)
    }

    fn note(&self, kind: &str, directory: &Path, by: &Path) -> Result<(), ImageError> {
        // An older store lacks one.
        make_directory(&self.path().join(kind))?;
        let noted = || {
            let link = self.link_to(kind, directory, by)?;
            match symlink(std::path::absolute(directory)?, link) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                noted => noted,
            }
        };
        noted().map_err(ImageError::file(self.path().join(kind)))
    }

    fn noted(&self, kind: &str) -> Result<Vec<PathBuf>, ImageError> {
        let links = read_directory(&self.path().join(kind))?.into_iter();
        links
            .map(|link| fs::read_link(link.path()).map_err(ImageError::file(link.path())))
            .collect()
    }

    fn link_to(&self, kind: &str, directory: &Path, by: &Path) -> io::Result<PathBuf> {
        let (directory, by) = (std::path::absolute(directory)?, std::path::absolute(by)?);
        let both = [&directory, &by].map(|path| path.as_os_str().as_encoded_bytes());
        Ok(self.path().join(kind).join(Digest::of(&both.join(&0)).hex()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

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
