//! What sets overlays that are made ahead apart from those that are made at their target.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::ioctl_getflags;
use rustix::io::Errno;

use super::directory::Directory;
use super::draft::Draft;
use super::entry::Entry;
use super::hidden::{Hidden, remove_hidden, remove_name};
use super::target::Target;

/// Why a pool doesn't serve a directory of targets as well as it could.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Misfit {
    /// Nothing can be moved there from the pool's place.
    Apart {
        /// Where it lies, seen from there.
        why: &'static str,
    },
    /// A file that is made there gets other attributes than one that is moved there.
    Attributes {
        /// Those of a file that is made there, as `lsattr` has them.
        there: String,
        /// Those of a file from the pool's place.
        here: String,
    },
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apart { why } => write!(
                f,
                "overlays can't be moved there from the pool directory, since it is {why}; each is \
                 made on demand"
            ),
            Self::Attributes { there, here } => write!(
                f,
                "overlays that are made on demand there have the file attributes {there}, those \
                 from the pool {here}"
            ),
        }
    }
}

/// Makes a file in `place`, as a pool with this prefix does, and moves it to `targets`: what is in
/// the way of that, and how it differs from a file that is made there. Nothing is left of it, nor of
/// an earlier one that was killed.
///
/// # Errors
///
/// Why no file can be made in either of them, which the path says.
pub fn misfit(
    place: &Path,
    prefix: &'static str,
    targets: &Path,
) -> Result<Option<Misfit>, (PathBuf, io::Error)> {
    let here = |error| (place.to_owned(), error);
    let there = |error| (targets.to_owned(), error);
    let directory = Arc::new(Directory::create(place, prefix).map_err(here)?);
    let (entry, file) = Entry::create(&directory).map_err(here)?;
    remove_hidden(targets);
    let name = Hidden::Trial.name();
    let spot = Target::from(targets.join(name)).open().map_err(|(_, error)| there(error))?;
    let made = attributes(Draft::begin(&spot).map_err(there)?.file());
    let why = entry.why_apart(&spot);
    match entry.move_to(&spot) {
        Ok(()) => remove_name(spot.directory(), spot.name()).map_err(there)?,
        Err((_, Errno::XDEV)) => return Ok(Some(Misfit::Apart { why })),
        Err((_, errno)) => return Err(there(errno.into())),
    }
    let moved = attributes(&file);
    Ok((made != moved).then_some(Misfit::Attributes { there: made, here: moved }))
}

/// The attributes that a file has from its directory, as `lsattr` has them; none on a filesystem
/// that doesn't know any.
fn attributes(file: &File) -> String {
    let flags = ioctl_getflags(file).map_or(0, |flags| flags.bits());
    let named = INHERITED.iter().filter(|(bit, _)| flags & bit != 0);
    let letters: String = named.map(|(_, letter)| letter).collect();
    if letters.is_empty() { "none".to_owned() } else { letters }
}

/// `FS_*_FL` in Linux' `fs.h`, and `lsattr`'s letter.
const INHERITED: [(u32, char); 9] = [
    (0x0000_0004, 'c'), // compressed
    (0x0000_0008, 'S'), // synchronous
    (0x0000_0040, 'd'), // not dumped
    (0x0000_0080, 'A'), // no access times
    (0x0000_0400, 'm'), // not compressed
    (0x0000_4000, 'j'), // its data are journalled
    (0x0000_8000, 't'), // no tail merging
    (0x0080_0000, 'C'), // no copy-on-write
    (0x0200_0000, 'x'), // direct access
];
