//! Which file it is, whatever is done with its name and its number.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, FsWord, StatxFlags, fstatfs, makedev, statx};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::target::Spot;
use crate::sys;

/// `FUSE_SUPER_MAGIC`, statfs(2).
const FUSE: FsWord = 0x6573_5546;

/// What tells one file from all others, also from those that come after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
    /// When it was made, in seconds and nanoseconds, if the filesystem knows.
    born: Option<(i64, u32)>,
    /// What the filesystem calls it for good, if it has a word for that. An inode's number is given
    /// away again at once, and the time is that of the last tick.
    handle: Option<Vec<u8>>,
}

impl FileId {
    pub(crate) fn of(file: impl AsFd) -> io::Result<Self> {
        Self::look(file, c"").map_err(Into::into)
    }

    /// Of what is at a spot, if only a symbolic link; none if nothing is.
    pub(crate) fn at(spot: &Spot) -> io::Result<Option<Self>> {
        Self::named(spot.directory(), spot.name())
    }

    pub(super) fn named(directory: impl AsFd, name: &OsStr) -> io::Result<Option<Self>> {
        match Self::look(directory, &CString::new(name.as_bytes())?) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// That a file at a spot can be told by its id for good. A filesystem in user space numbers its
    /// files anew when it is mounted, or when the kernel has forgotten them.
    ///
    /// # Errors
    ///
    /// It can't, or the system doesn't say.
    pub(crate) fn expect_to_last(spot: &Spot) -> io::Result<()> {
        if fstatfs(spot.directory())?.f_type == FUSE {
            let why = "on a filesystem in user space (FUSE), where the disk could not be found again \
                       by its id; leave the id out, or choose a target elsewhere";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        Ok(())
    }

    fn look(at: impl AsFd, name: &CStr) -> Result<Self, Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        let found = statx(&at, name, flags, StatxFlags::INO | StatxFlags::BTIME)?;
        let is_known = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
        Ok(Self {
            device: makedev(found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            born: is_known.then_some((found.stx_btime.tv_sec, found.stx_btime.tv_nsec)),
            handle: sys::file_handle(at, name).ok(),
        })
    }

    /// Whether the file's filesystem is mounted where `path`, the file's own, leads to: the next
    /// directory on its way that is there is on it. If that can't be told, it isn't.
    pub(crate) fn is_mounted_at(&self, path: &Path) -> bool {
        let found = path.ancestors().skip(1).map(Path::metadata).find(|found| match found {
            Err(error) => {
                !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
            }
            Ok(_) => true,
        });
        found.is_some_and(|found| found.is_ok_and(|found| found.dev() == self.device))
    }

    /// Whether both are of one file. If its filesystem calls it by a handle, its device's number
    /// isn't asked for, which another boot may have changed.
    pub(crate) fn is(&self, other: &Self) -> bool {
        let device = if self.handle.is_some() { self.device } else { other.device };
        *self == Self { device, ..other.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, remove_file, rename};
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::FileId;

    /// Also in the same tick.
    #[test]
    fn a_file_stays_itself_and_its_number_s_next_file_is_another() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, moved) = (folder.path().join("file"), folder.path().join("moved"));
        let file = File::create(&path).expect("a file");
        let mut id = FileId::of(&file).expect("its id");
        rename(&path, &moved).expect("moved");
        let named = || {
            let folder = File::open(folder.path()).expect("it opens");
            FileId::named(folder, Path::new("moved").as_os_str()).expect("its id").expect("it")
        };
        assert!(id.is(&named()), "{id:?} {:?}", named());
        drop(file);
        for _ in 0..100 {
            remove_file(&moved).expect("removed");
            File::create(&moved).expect("a file");
            assert!(id.handle.is_none() || !id.is(&named()), "{id:?} {:?}", named());
            id = named();
        }
        remove_file(&moved).expect("removed");
        symlink("nowhere", &moved).expect("a link");
        assert!(!id.is(&named()), "a link is itself");
    }

    #[test]
    fn a_device_s_number_tells_only_if_nothing_better_does() {
        let known = FileId { device: 1, inode: 2, born: Some((3, 4)), handle: Some(vec![5]) };
        assert!(known.is(&FileId { device: 9, ..known.clone() }));
        for other in [
            FileId { inode: 9, ..known.clone() },
            FileId { born: None, ..known.clone() },
            FileId { born: Some((3, 9)), ..known.clone() },
            FileId { handle: None, ..known.clone() },
            FileId { handle: Some(vec![6]), ..known.clone() },
        ] {
            assert!(!known.is(&other) && !other.is(&known), "{other:?}");
        }
        let unknown = FileId { handle: None, ..known };
        assert!(unknown.is(&unknown) && !unknown.is(&FileId { device: 9, ..unknown.clone() }));
    }
}
