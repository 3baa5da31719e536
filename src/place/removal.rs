//! Removing one file and no other.

use std::ffi::OsStr;
use std::io;

use rustix::fs::{AtFlags, RenameFlags, renameat, renameat_with, unlinkat};
use rustix::io::Errno;

use super::file_id::FileId;
use super::rename::rename_new;
use super::target::Spot;

/// Removes a file that a removal, which was cut off, left aside; says whether there was one.
pub(crate) fn finish_removal(spot: &Spot, file: &FileId, aside: &OsStr) -> io::Result<bool> {
    let found = FileId::named(spot.directory(), aside)?;
    let is_meant = found.is_some_and(|found| found.is(file));
    if is_meant {
        unlinkat(spot.directory(), aside, AtFlags::empty())?;
    }
    Ok(is_meant)
}

/// Removes the file at a spot if it is the one that is meant; says whether it was there.
///
/// Between a look at a name and its removal, anybody who may write to the directory can put another
/// file there. So the file is moved to the name `aside` first, which nobody else uses, and looked
/// at again: another one goes back. A removal that was cut off leaves the file aside, where the
/// next one finds it.
///
/// # Errors
///
/// Those of the system. What isn't meant is never removed; it is left aside if by then a third
/// file is at the spot, which the error says.
pub(crate) fn remove_only(spot: &Spot, file: &FileId, aside: &OsStr) -> io::Result<bool> {
    let (directory, name) = (spot.directory(), spot.name());
    if finish_removal(spot, file, aside)? {
        return Ok(true);
    }
    if !FileId::at(spot)?.is_some_and(|found| found.is(file)) {
        return Ok(false);
    }
    match renameat_with(directory, name, directory, aside, RenameFlags::NOREPLACE) {
        // Not by a link, as `rename_new` does it: what loses the name after that may be another one.
        Err(Errno::INVAL | Errno::NOSYS) => renameat(directory, name, directory, aside)?,
        moved => moved?,
    }
    if finish_removal(spot, file, aside)? {
        return Ok(true);
    }
    rename_new(directory, aside, spot).map_err(|errno| {
        let why = format!("another file came there meanwhile and is {}", aside.display());
        io::Error::new(io::Error::from(errno).kind(), why)
    })?;
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs::{File, read, rename, write};
    use std::path::Path;
    use std::thread;

    use super::{FileId, Spot, finish_removal, remove_only};
    use crate::place::Target;

    const ASIDE: &str = ".aside";

    fn spot(path: &Path) -> Spot {
        Target::from(path).open().expect("its directory opens")
    }

    fn made(path: &Path) -> FileId {
        write(path, "ours").expect("a file");
        FileId::of(File::open(path).expect("it opens")).expect("its id")
    }

    #[test]
    fn the_one_that_is_meant_is_removed_and_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let (ours, aside) = (made(&path), OsStr::new(ASIDE));
        let spot = spot(&path);
        assert!(remove_only(&spot, &ours, aside).expect("removed"));
        assert!(!remove_only(&spot, &ours, aside).expect("it is gone"));
        write(&path, "another's").expect("a file");
        assert!(!remove_only(&spot, &ours, aside).expect("it is another"));
        assert_eq!(read(&path).expect("the file"), b"another's");
    }

    /// As a removal that was cut off leaves it: by then another file may be there.
    #[test]
    fn what_was_left_aside_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let [path, aside] = ["file", ASIDE].map(|name| folder.path().join(name));
        let ours = made(&path);
        rename(&path, &aside).expect("aside");
        write(&path, "another's").expect("a file");
        assert!(remove_only(&spot(&path), &ours, OsStr::new(ASIDE)).expect("removed"));
        assert!(!aside.exists() && path.exists());
        write(&aside, "another's").expect("a file");
        assert!(!finish_removal(&spot(&path), &ours, OsStr::new(ASIDE)).expect("it is another"));
        assert!(aside.exists());
    }

    /// Another file takes its place at any moment of a removal.
    #[test]
    fn what_comes_meanwhile_is_never_lost() {
        let folder = tempfile::tempdir().expect("a folder");
        let [path, other] = ["file", "other"].map(|name| folder.path().join(name));
        let spot = spot(&path);
        for round in 0..500 {
            let ours = made(&path);
            write(&other, "another's").expect("a file");
            thread::scope(|scope| {
                scope.spawn(|| {
                    for _ in 0..round {
                        std::hint::spin_loop();
                    }
                    rename(&other, &path).expect("it takes the place");
                });
                remove_only(&spot, &ours, OsStr::new(ASIDE)).expect("whichever it is");
            });
            assert_eq!(read(&path).expect("the other's file"), b"another's", "round {round}");
            assert!(!folder.path().join(ASIDE).exists());
            std::fs::remove_file(&path).expect("removed");
        }
    }
}
