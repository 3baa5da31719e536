//! Files that are opened, and the paths by which nobody but who is trusted can have others found.
//!
//! An overlay records a path, which QEMU looks up later. So each directory that the path leads
//! through belongs to root or to the server's user, and nobody else can write to it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

use super::roots::{self, Held, identity};
use crate::paths::{MAX_LINKS, of_open};
use crate::place::{is_anothers, is_shared, others_may_change};

/// A file that is open (`O_PATH`), and the resolved path at which it is found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) file: File,
}

/// Why a path can't be relied on.
#[derive(Debug)]
pub(super) enum Distrust {
    /// Others may change what this directory's names lead to.
    Directory(PathBuf),
    /// The name led to another file meanwhile.
    Replaced,
    Io(io::Error),
}

impl From<Errno> for Distrust {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// Looks again as long as what is looked at is replaced meanwhile.
pub(super) fn settled<T>(look: impl Fn() -> Result<T, Distrust>) -> Result<T, Distrust> {
    roots::settled(look, |distrust| matches!(distrust, Distrust::Replaced))
}

/// Says where a file is that was opened below a root.
pub(super) fn below(root: &Held, file: OwnedFd) -> Result<Found, Distrust> {
    let opened = fstat(&file)?;
    // A directory is refused for what it is.
    if FileType::from_raw_mode(opened.st_mode) != FileType::RegularFile {
        return Ok(Found { path: of_open(&file)?, file: file.into() });
    }
    let [top, path] = [&root.fd, &file].map(of_open);
    let (top, path) = (top?, path?);
    let rest = path.strip_prefix(&top).map_err(|_| Distrust::Replaced)?;
    let (folders, name) = (rest.parent().unwrap_or(Path::new("")), rest.file_name());
    let name = name.ok_or(Distrust::Replaced)?;

    let mut at = openat(&root.fd, ".", DIRECTORY, Mode::empty())?;
    let mut walked = top;
    expect_trusted(&at, &walked)?;
    for folder in folders {
        at = openat(&at, folder, DIRECTORY, Mode::empty())?;
        walked.push(folder);
        expect_trusted(&at, &walked)?;
    }
    expect_same(&at, &walked, name, &opened)?;
    Ok(Found { path, file: file.into() })
}

/// Opens what an administrator's path leads to, link by link.
pub(super) fn named(path: &Path) -> Result<Found, Distrust> {
    settled(|| follow(path))
}

fn follow(path: &Path) -> Result<Found, Distrust> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::ISDIR.into());
        };
        // Those above are the administrator's.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let at = openat(rustix::fs::CWD, parent, flags, Mode::empty())?;
        let file =
            openat(&at, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let opened = fstat(&file)?;
        let real = of_open(&at)?;
        expect_trusted(&at, &real)?;
        expect_same(&at, &real, name, &opened)?;
        if FileType::from_raw_mode(opened.st_mode) != FileType::Symlink {
            return Ok(Found { path: real.join(name), file: file.into() });
        }
        let to = readlinkat(&file, "", Vec::new())?;
        path = real.join(OsString::from_vec(to.into_bytes()));
        if matches!(path.components().next_back(), Some(std::path::Component::ParentDir)) {
            return Err(Errno::ISDIR.into());
        }
    }
    Err(Errno::LOOP.into())
}

const DIRECTORY: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn expect_trusted(directory: &OwnedFd, path: &Path) -> Result<(), Distrust> {
    if others_may_change(&fstat(directory)?) {
        return Err(Distrust::Directory(path.to_owned()));
    }
    Ok(())
}

/// That a directory's name leads to the file that was opened. Where others may put files, each may
/// rename those of their own.
fn expect_same(at: &OwnedFd, path: &Path, name: &OsStr, opened: &Stat) -> Result<(), Distrust> {
    if is_shared(&fstat(at)?) && is_anothers(opened) {
        return Err(Distrust::Directory(path.to_owned()));
    }
    match statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) if identity(&found) == identity(opened) => Ok(()),
        Ok(_) | Err(Errno::NOENT) => Err(Distrust::Replaced),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::stat;

    use super::*;

    /// What was opened is what the name leads to, or it is looked up again.
    #[test]
    fn a_name_that_leads_to_another_file_is_noticed() {
        let folder = tempfile::tempdir().expect("a folder");
        let [opened, other] = ["opened", "other"].map(|name| folder.path().join(name));
        for path in [&opened, &other] {
            std::fs::write(path, "").expect("a file");
        }
        let at = File::open(folder.path()).expect("it opens").into();
        let stat = stat(&opened).expect("it is there");
        let leads = || expect_same(&at, folder.path(), "opened".as_ref(), &stat);
        assert!(matches!(leads(), Ok(())));
        std::fs::rename(&opened, folder.path().join("moved")).expect("it is moved");
        assert!(matches!(leads(), Err(Distrust::Replaced)));
        std::fs::rename(&other, &opened).expect("another takes its place");
        assert!(matches!(leads(), Err(Distrust::Replaced)));
    }
}
