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
    /// The note, whose name is the directory's seal.
    note: PathBuf,
    /// Where they are.
    pub directory: PathBuf,
}

impl NotedLeases {
    /// What tells the directory from any other at its path.
    #[must_use]
    pub fn seal(&self) -> &str {
        self.note.file_name().and_then(OsStr::to_str).unwrap_or_default()
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
        let noted = || {
            let link = self.link_to(directory, by)?;
            match symlink(std::path::absolute(directory)?, link) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                noted => noted,
            }
        };
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
        let forgotten = || match fs::remove_file(self.link_to(directory, by)?) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        forgotten().map_err(ImageError::file(self.path().join(DISKS)))
    }

    /// Notes a directory in which a server has records of disks: their base images aren't pruned. If it has
    /// another path by now, that is noted in place of the one before. `seal` tells it from any other.
    ///
    /// # Errors
    ///
    /// [`ImageError::File`] if it can't be noted.
    pub fn note_leases(&self, directory: &Path, seal: &str) -> Result<(), ImageError> {
        let links = self.path().join(LEASES);
        make_directory(&links)?;
        let (link, new) = (links.join(seal), links.join(format!(".{seal}")));
        let noted = || {
            let directory = std::path::absolute(directory)?;
            if fs::read_link(&link).is_ok_and(|noted| noted == directory) {
                return Ok(());
            }
            let _ = fs::remove_file(&new);
            symlink(&directory, &new).and_then(|()| fs::rename(&new, &link))
        };
        noted().map_err(ImageError::file(&link))
    }

    /// Whether the directory of records with this seal is noted here.
    #[must_use]
    pub fn has_noted_leases(&self, seal: &str) -> bool {
        self.path().join(LEASES).join(seal).is_symlink()
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
        let is_hidden = |link: &PathBuf| {
            link.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
        };
        links
            .filter(|link| !is_hidden(link))
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn records_are_noted_where_they_are_now() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(dir.path()).expect("a store");
        for path in ["/before", "/now", "/now"].map(Path::new) {
            store.note_leases(path, "seal").expect("it is noted");
        }
        store.note_leases(Path::new("/now"), "other").expect("it is noted");
        let mut noted = store.leases().expect("notes");
        noted.sort_by(|one, other| one.seal().cmp(other.seal()));
        let noted: Vec<_> = noted.iter().map(|noted| (noted.seal(), &*noted.directory)).collect();
        assert_eq!(noted, [("other", Path::new("/now")), ("seal", Path::new("/now"))]);
        assert!(store.has_noted_leases("seal") && !store.has_noted_leases("none"));
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
