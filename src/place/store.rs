//! A directory that stays: small files of one owner at a time, for the next one to read.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, Dir, FlockOperation, Mode, OFlags, flock, fstat, openat, statat, unlinkat,
};
use rustix::io::Errno;

use super::directory::{make_parent, same};
use super::draft::Draft;
use super::target::Target;
use super::trust::is_anothers;

/// The longest file that is read, in bytes.
const LONGEST: u64 = 1 << 20;
/// How often it is tried for if it is removed before it is locked.
const ATTEMPTS: usize = 16;

/// Files that outlive their owner, in a directory that is locked as long as it is open. Each
/// appears whole or not at all; nothing is synced.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    fd: Arc<OwnedFd>,
}

impl Store {
    /// Opens the directory, which belongs to this user alone, and makes it if it is missing.
    ///
    /// # Errors
    ///
    /// Those of the system; [`io::ErrorKind::PermissionDenied`] if others may open it, and
    /// [`io::ErrorKind::WouldBlock`] if another owner has it.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        for _ in 0..ATTEMPTS {
            make_parent(path)?;
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = match openat(CWD, path, flags, Mode::empty()) {
                Err(Errno::NOENT) => continue,
                result => result?,
            };
            let found = fstat(&fd)?;
            // Whoever may open it may lock it.
            if is_anothers(&found) || found.st_mode & 0o077 != 0 {
                let why = "another user may open this directory; let it belong to the server's \
                           user, mode 0700";
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
            }
            match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => return Err(io::ErrorKind::WouldBlock.into()),
                result => result?,
            }
            let store = Self { path: path.to_owned(), fd: fd.into() };
            if !store.is_gone()? {
                return Ok(store);
            }
        }
        Err(io::Error::other("the directory was removed again and again"))
    }

    /// Opens the directory only to read in it, whoever has it.
    pub(crate) fn open_to_read(path: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(CWD, path, flags, Mode::empty())?;
        Ok(Self { path: path.to_owned(), fd: fd.into() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it was removed from outside, or moved away.
    pub(crate) fn is_gone(&self) -> io::Result<bool> {
        let ours = fstat(&self.fd)?;
        match statat(CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => Ok(!same(&ours, &there)),
            Err(Errno::NOENT) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether it is removed for good, and not only where its path doesn't lead to it, as below a mount.
    pub(crate) fn is_removed(&self) -> io::Result<bool> {
        Ok(fstat(&self.fd)?.st_nlink == 0)
    }

    /// The names of its files, but for hidden ones.
    pub(crate) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            // The latter is where a filesystem begins.
            if !name.starts_with('.') && name != "lost+found" {
                names.push(name);
            }
        }
        Ok(names)
    }

    pub(crate) fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = std::fs::File::from(openat(&self.fd, name, flags, Mode::empty())?);
        let mut bytes = Vec::new();
        file.take(LONGEST).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes a file, in place of one of that name.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let (real, path) = (self.path.clone(), self.path.join(name));
        let target = Target::found_at(real, Arc::clone(&self.fd), path);
        let spot = target.open().map_err(|(_, error)| error)?;
        let write = || {
            let draft = Draft::begin(&spot)?;
            draft.file().as_ref().write_all(bytes)?;
            draft.finish()
        };
        match write() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.remove(name)?;
                write()
            }
            result => result,
        }
    }

    /// Removes a file, if it is there.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.fd, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            result => Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};
    use std::io;
    use std::os::unix::fs::PermissionsExt;

    use super::Store;

    #[test]
    fn files_outlive_their_owner() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("new/store");
        let store = Store::open(&path).expect("it is made");
        for text in ["first", "second"] {
            store.write("file", text.as_bytes()).expect("written");
        }
        store.write("other", b"").expect("written");
        store.remove("other").expect("removed");
        store.remove("other").expect("removed before");
        std::fs::create_dir(path.join("lost+found")).expect("a folder");
        drop(store);
        let store = Store::open(&path).expect("it opens");
        assert_eq!(store.names().expect("names"), ["file"]);
        assert_eq!(store.read("file").expect("its bytes"), b"second");
    }

    #[test]
    fn it_has_one_owner_at_a_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store");
        let store = Store::open(&path).expect("it is made");
        let error = Store::open(&path).expect_err("another has it");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(store);
        Store::open(&path).expect("it is free");
    }

    #[test]
    fn one_that_others_may_open_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        for mode in [0o770, 0o702, 0o1777, 0o755, 0o704] {
            set_permissions(folder.path(), Permissions::from_mode(mode)).expect("a mode");
            let error = Store::open(folder.path()).expect_err("others may lock it");
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{mode:o}");
        }
    }
}
