//! Removing one file and no other.

use std::ffi::OsStr;
use std::io;

use rustix::fs::{AtFlags, unlinkat};

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
    rename_new(directory, name, &spot.beside(aside)?)?;
    if finish_removal(spot, file, aside)? {
        return Ok(true);
    }
    rename_new(directory, aside, spot).map_err(|errno| {
        let why = format!("another file came there meanwhile and is {}", aside.display());
        io::Error::new(io::Error::from(errno).kind(), why)
    })?;
    Ok(false)
}
