//! What dead owners left.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::Dir;

use super::directory::{Directory, open_parent, own, remove};
use super::names::is_named;

/// What to do with the directories that dead owners left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// Only tell.
    Look,
    /// Remove them, with all that is in them.
    Remove,
}

/// A directory that a dead owner left.
#[derive(Debug)]
#[non_exhaustive]
pub struct Leftover {
    /// Where it is, or was.
    pub path: PathBuf,
    /// Why it is still there, though it should have been removed.
    pub error: Option<io::Error>,
}

/// A place in which no owned directory can be made.
#[derive(Debug, thiserror::Error)]
#[error("pool directory {}: {source}", path.display())]
pub struct PlaceError {
    /// The place.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// Finds what dead owners with this prefix left in `place`, by ascending path, and removes it on
/// demand.
///
/// Every owner does so when it starts. What a live owner holds is never touched: its lock tells,
/// in whatever PID namespace it lives. If `place` isn't there, nothing is left over.
///
/// # Errors
///
/// A [`PlaceError`] if `place` can't be read or another user may change it.
///
/// # Example
///
/// ```
/// use overlay_pool::place::{Sweep, sweep};
///
/// # let dir = tempfile::tempdir()?;
/// # let pool_dir = dir.path();
/// for leftover in sweep(pool_dir, overlay_pool::PREFIX, Sweep::Look)? {
///     println!("{}", leftover.path.display());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn sweep(place: &Path, prefix: &str, what: Sweep) -> Result<Vec<Leftover>, PlaceError> {
    let failed = |source| PlaceError { path: place.to_owned(), source };
    find(place, prefix, what).map_err(failed)
}

fn find(place: &Path, prefix: &str, what: Sweep) -> io::Result<Vec<Leftover>> {
    let parent = match open_parent(place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result?,
    };
    let mut dead = Vec::new();
    for entry in Dir::read_from(&parent)? {
        let entry = entry?;
        let is_ours = |name: &&str| is_named(name, prefix);
        let Some(name) = entry.file_name().to_str().ok().filter(is_ours) else { continue };
        // Another user's, a live owner's, or gone by now: not ours to judge.
        let Ok(Some(fd)) = own(&parent, name) else { continue };
        let error = match what {
            Sweep::Look => None,
            Sweep::Remove => remove(&parent, name, &fd).err(),
        };
        dead.push(Leftover { path: place.join(name), error: error.map(Into::into) });
    }
    dead.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(dead)
}

/// Makes, locks and removes a directory in `place`, as an owner does when it starts and stops.
///
/// # Errors
///
/// A [`PlaceError`] that says why an owner couldn't; a pool would run on demand (rule L8).
pub fn try_directory(place: &Path, prefix: &'static str) -> Result<(), PlaceError> {
    Directory::create(place, prefix)
        .and_then(|directory| directory.remove())
        .map_err(|source| PlaceError { path: place.to_owned(), source })
}

/// Removes what dead owners with this prefix left, and tells in the log what was found.
pub(crate) fn remove_leftovers(place: &Path, prefix: &str) {
    let leftovers = match sweep(place, prefix, Sweep::Remove) {
        Ok(leftovers) => leftovers,
        Err(error) => return tracing::warn!(%error, "not swept"),
    };
    for leftover in leftovers {
        let directory = leftover.path.display();
        match leftover.error {
            None => tracing::info!(%directory, "removed what a dead owner left"),
            Some(error) => tracing::warn!(%directory, %error, "left-over directory not removed"),
        }
    }
}
