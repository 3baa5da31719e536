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
    /// they refer to isn't pruned.
    ///
    /// # Errors
    ///
    /// [`ImageError::File`] if it can't be noted.
    pub fn note_disks(&self, directory: &Path) -> Result<(), ImageError> {
        self.note(DISKS, directory)
    }

    /// The directories of disks that were noted.
    ///
    /// # Errors
    ///
    /// [`ImageError::File`] if they can't be read.
    pub fn disks(&self) -> Result<Vec<PathBuf>, ImageError> {
        self.noted(DISKS)
    }

    /// From now on this directory isn't among [those of disks](Self::disks).
    ///
    /// # Errors
    ///
    /// [`ImageError::File`] if it stays.
    pub fn forget_disks(&self, directory: &Path) -> Result<(), ImageError> {
        let forgotten = || {
            let link = self.link_to(DISKS, &std::path::absolute(directory)?);
            match fs::remove_file(link) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed,
            }
        };
        forgotten().map_err(ImageError::file(self.path().join(DISKS)))
    }

    /// Notes a directory in which a server has records of disks: their base images aren't pruned.
    ///
    /// # Errors
    ///
    /// [`ImageError::File`] if it can't be noted.
    pub fn note_leases(&self, directory: &Path) -> Result<(), ImageError> {
        self.note(LEASES, directory)
    }

    /// The directories of records that were noted.
    ///
    /// # Errors
    ///
    /// [`ImageError::File`] if they can't be read.
    pub fn leases(&self) -> Result<Vec<PathBuf>, ImageError> {
        self.noted(LEASES)
    }

    fn note(&self, kind: &str, directory: &Path) -> Result<(), ImageError> {
        // An older store lacks one.
        make_directory(&self.path().join(kind))?;
        let noted = || {
            let directory = std::path::absolute(directory)?;
            match symlink(&directory, self.link_to(kind, &directory)) {
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

    fn link_to(&self, kind: &str, directory: &Path) -> PathBuf {
        let name = Digest::of(directory.as_os_str().as_encoded_bytes()).hex();
        self.path().join(kind).join(name)
    }
}
