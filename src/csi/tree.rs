//! A tree of files, removed however deep it is, without what is mounted in it.
//!
//! A Pod that runs as root may put directories into each other until no thread's stack, no number of
//! open files and no path has room for them. So two are open at a time, and the way back up is `..`, which
//! has to lead to where the way down began. Each level takes 32 bytes of memory.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags, fstat, openat, openat2, unlinkat};
use rustix::io::Errno;

use super::base_mount;
use crate::paths;

/// What stands for a path that is too long.
const ELSEWHERE: &str = "…";
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);

/// What can't be removed, and why.
#[derive(Debug)]
pub(super) struct Stuck {
    pub(super) path: PathBuf,
    pub(super) source: io::Error,
}

impl From<Errno> for Stuck {
    fn from(errno: Errno) -> Self {
        Self { path: ELSEWHERE.into(), source: errno.into() }
    }
}

/// What became of a name.
enum Entry {
    Removed,
    /// Nothing has it any more.
    Gone,
    /// It is that of a directory that isn't empty.
    Filled(OwnedFd),
}

/// Removes what has a name in a directory, with all that is in it. It may be gone.
///
/// # Errors
///
/// Those of the system. If something is mounted in it, that is [`io::ErrorKind::ResourceBusy`]: the mount
/// stays as it is, and so do the directories above it.
pub(super) fn remove(parent: &OwnedFd, name: &OsStr) -> Result<(), Stuck> {
    while let Entry::Filled(directory) = remove_or_open(parent.as_fd(), name)? {
        if empty(directory)? == 0 {
            return Err(stuck(parent.as_fd(), name, Errno::NOTEMPTY));
        }
    }
    Ok(())
}

/// Removes all that is in a directory. Says how many files that was.
fn empty(directory: OwnedFd) -> Result<u64, Stuck> {
    let (mut here, mut above) = (Reader::new(directory)?, Vec::new());
    let (mut removed, mut tried) = (0, None);
    loop {
        let Some(name) = here.read()? else {
            let Some((place, before)) = above.pop() else { return Ok(removed) };
            here = here.back_to(&place)?;
            // It isn't gone into again unless something was removed in it: else that would have no end.
            tried = Some(before);
            continue;
        };
        let name = OsStr::from_bytes(name.to_bytes());
        match remove_or_open(here.fd()?, name)? {
            Entry::Filled(_) if tried == Some(removed) => {
                return Err(stuck(here.fd()?, name, Errno::NOTEMPTY));
            }
            Entry::Filled(directory) => {
                above.push((here.place()?, removed));
                here = Reader::new(directory)?;
            }
            Entry::Removed => removed += 1,
            Entry::Gone => {}
        }
        tried = None;
    }
}

/// Removes a file or an empty directory, and opens any other directory.
fn remove_or_open(parent: BorrowedFd<'_>, name: &OsStr) -> Result<Entry, Stuck> {
    let removed = match unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => unlinkat(parent, name, AtFlags::REMOVEDIR),
        removed => removed,
    };
    let found = match removed {
        Err(Errno::NOTEMPTY | Errno::EXIST) => {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            openat2(parent, name, DIRECTORY, Mode::empty(), resolve).map(Entry::Filled)
        }
        removed => removed.map(|()| Entry::Removed),
    };
    match found {
        Err(Errno::NOENT) => Ok(Entry::Gone),
        found => found.map_err(|errno| stuck(parent, name, errno)),
    }
}

fn stuck(parent: BorrowedFd<'_>, name: &OsStr, errno: Errno) -> Stuck {
    let path = paths::of_open(parent).unwrap_or_else(|_| ELSEWHERE.into()).join(name);
    let is_mount = match errno {
        Errno::XDEV => true,
        Errno::BUSY => base_mount::is_mounted(parent, name).unwrap_or(false),
        _ => false,
    };
    let source = if is_mount { base_mount::in_the_way() } else { errno.into() };
    Stuck { path, source }
}

/// A directory that is read while its entries are removed.
struct Reader {
    entries: Dir,
    /// Where the entry is that was read last, and where the next one is.
    position: (i64, i64),
}

/// A place in a directory that is closed.
struct Place {
    id: (u64, u64),
    position: i64,
}

impl Reader {
    fn new(directory: OwnedFd) -> Result<Self, Stuck> {
        Ok(Self { entries: Dir::new(directory)?, position: (0, 0) })
    }

    fn fd(&self) -> Result<BorrowedFd<'_>, Stuck> {
        Ok(self.entries.fd()?)
    }

    fn read(&mut self) -> Result<Option<CString>, Stuck> {
        while let Some(entry) = self.entries.read() {
            let entry = entry.or_else(|errno| Err(stuck(self.fd()?, "".as_ref(), errno)))?;
            self.position = (self.position.1, entry.offset());
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                return Ok(Some(entry.file_name().to_owned()));
            }
        }
        Ok(None)
    }

    /// Where the entry is that was read last.
    fn place(&self) -> Result<Place, Stuck> {
        Ok(Place { id: id(self.fd()?)?, position: self.position.0 })
    }

    /// Reads the directory above from an entry on.
    fn back_to(&self, place: &Place) -> Result<Self, Stuck> {
        let above = openat(self.fd()?, "..", DIRECTORY, Mode::empty())?;
        if id(above.as_fd())? != place.id {
            let path = paths::of_open(self.fd()?).unwrap_or_else(|_| ELSEWHERE.into());
            return Err(Stuck { path, source: io::Error::other("moved while it was removed") });
        }
        let mut entries = Dir::new(above)?;
        if entries.seek(place.position).is_err() {
            entries.rewind();
        }
        Ok(Self { entries, position: (place.position, place.position) })
    }
}

/// What tells a directory from all others that there are.
fn id(directory: BorrowedFd<'_>) -> Result<(u64, u64), Errno> {
    let found = fstat(directory)?;
    Ok((found.st_dev, found.st_ino))
}

#[cfg(test)]
mod tests {
    use std::fs::{File, create_dir, create_dir_all, read, rename, write};
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use rustix::fs::mkdirat;
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        File::open(path).expect("it opens").into()
    }

    #[test]
    fn what_links_lead_to_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let [tree, kept] = ["tree", "kept"].map(|name| folder.path().join(name));
        create_dir_all(tree.join("a/b/c")).expect("folders");
        create_dir(&kept).expect("a folder");
        write(kept.join("file"), "kept").expect("a file");
        symlink(&kept, tree.join("a/b/link")).expect("a link");
        symlink(&kept, folder.path().join("link")).expect("a link");
        let parent = open(folder.path());
        for name in ["tree", "link", "tree"] {
            remove(&parent, name.as_ref()).expect("it is removed");
            assert!(folder.path().join(name).symlink_metadata().is_err(), "{name}");
        }
        assert_eq!(read(kept.join("file")).expect("it is kept"), b"kept");
    }

    /// Deep, wide and both, with few open files and in a thread with a small stack.
    #[test]
    fn its_shape_is_no_matter() {
        let folder = tempfile::tempdir().expect("a folder");
        let parent = open(folder.path());
        let tree = folder.path().join("tree");
        create_dir(&tree).expect("a folder");
        let mut at = open(&tree);
        for level in 0..1500 {
            // The last one that is read is deep, or the first one, or one amid others.
            for (name, every) in [("a", 7), ("b", 1), ("c", 11)] {
                if level % every == 0 {
                    mkdirat(&at, name, Mode::RWXU).expect("a folder");
                    let inner = openat(&at, name, DIRECTORY, Mode::empty()).expect("it opens");
                    mkdirat(&inner, "inner", Mode::RWXU).expect("a folder");
                }
            }
            at = openat(&at, "b", DIRECTORY, Mode::empty()).expect("it opens");
        }
        let wide = tree.join("wide");
        for number in 0..500 {
            create_dir_all(wide.join(format!("{number}/inner"))).expect("folders");
            write(wide.join(format!("{number}.file")), "").expect("a file");
        }
        drop(at);
        // Each test is a process of its own.
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(32), ..limit }).expect("a limit");
        let small = std::thread::Builder::new().stack_size(64 << 10);
        let removal = small.spawn(move || remove(&parent, "tree".as_ref())).expect("a thread");
        removal.join().expect("it ends").expect("it is removed");
        assert!(!tree.exists());
    }

    /// Whatever else is where it was moved to stays.
    #[test]
    fn a_directory_that_is_moved_away_leads_nowhere() {
        let folder = tempfile::tempdir().expect("a folder");
        let [above, moved] = ["above", "moved"].map(|name| folder.path().join(name));
        create_dir_all(above.join("below")).expect("folders");
        let above_it = Reader::new(open(&above)).expect("it is read");
        let below = Reader::new(open(&above.join("below"))).expect("it is read");
        let place = above_it.place().expect("a place");
        below.back_to(&place).expect("it is there");
        rename(above.join("below"), &moved).expect("it is moved");
        let stuck = below.back_to(&place).err().expect("it is elsewhere");
        assert_eq!(stuck.path, moved, "{stuck:?}");
    }

    /// The path of what stays is in the error.
    #[test]
    fn what_stays_is_named() {
        let parent = open(Path::new("/proc/self"));
        let stuck = remove(&parent, "task".as_ref()).expect_err("nobody can remove it");
        assert!(stuck.path.starts_with("/proc"), "{stuck:?}");
        assert!(stuck.path.ends_with("task"), "{stuck:?}");
    }
}
