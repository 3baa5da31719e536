//! Looking after the place of pool directories without being a pool.

use std::io;
use std::path::{Path, PathBuf};

use super::directory::{self, Directory};

/// What to do with the pool directories that dead owners left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// Only tell.
    Look,
    /// Remove them, and the overlays in them.
    Remove,
}

/// A pool directory that a dead owner left.
#[derive(Debug)]
#[non_exhaustive]
pub struct Leftover {
    /// Where it is, or was.
    pub path: PathBuf,
    /// Why it is still there, where it should have been removed.
    pub error: Option<io::Error>,
}

/// A place where no pool directory can be made.
#[derive(Debug, thiserror::Error)]
#[error("pool directory {}: {source}", path.display())]
pub struct PoolDirError {
    /// The place.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// Finds what dead owners left in `pool_dir`, by ascending path, and removes it on demand.
///
/// Every pool does so when it starts. What a live owner holds is never touched: its lock tells,
/// in whatever PID namespace it lives. Where `pool_dir` isn't there nothing is left over.
///
/// # Errors
///
/// A [`PoolDirError`] where `pool_dir` can't be read or another user may change it.
///
/// # Example
///
/// ```
/// use overlay_pool::{Sweep, sweep};
///
/// # let dir = tempfile::tempdir()?;
/// # let pool_dir = dir.path();
/// for leftover in sweep(pool_dir, Sweep::Look)? {
///     println!("{}", leftover.path.display());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn sweep(pool_dir: &Path, what: Sweep) -> Result<Vec<Leftover>, PoolDirError> {
    directory::sweep(pool_dir, what)
        .map_err(|source| PoolDirError { path: pool_dir.to_owned(), source })
}

/// Makes, locks and removes a pool directory in `pool_dir`, as a pool does when it starts and
/// stops.
///
/// # Errors
///
/// A [`PoolDirError`] that says why a pool couldn't; it would run on demand (rule L8).
pub fn try_pool_dir(pool_dir: &Path) -> Result<(), PoolDirError> {
    Directory::create(pool_dir)
        .and_then(|directory| directory.remove())
        .map_err(|source| PoolDirError { path: pool_dir.to_owned(), source })
}
