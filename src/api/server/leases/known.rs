//! What the server knows of disks, once it has read it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::process::geteuid;
use tokio::sync::{OnceCell, oneshot};

use super::book::Book;
use super::error::LeaseError;
use super::key::Claims;
use crate::api::server::turns::Turns;

/// Where a server's records of disks are, in the pool's place, unless it is said otherwise.
pub const LEASES: &str = "leases";

/// The records, once they were read.
#[derive(Debug)]
pub(in crate::api::server) struct Leases {
    pool_dir: PathBuf,
    told: OnceLock<PathBuf>,
    book: OnceCell<Arc<Book>>,
    /// How many a user may have who is neither root nor the server's own.
    pub(in crate::api::server) per_user: usize,
    /// Who does something with which of them.
    pub(super) claims: Claims,
    /// Those that a VM has.
    pub(super) lent: Claims,
}

impl Leases {
    pub(in crate::api::server) fn new(pool_dir: &Path, per_user: usize) -> Self {
        Self {
            pool_dir: pool_dir.to_owned(),
            told: OnceLock::new(),
            book: OnceCell::new(),
            per_user,
            claims: Claims::default(),
            lent: Claims::default(),
        }
    }

    /// Keeps the records in this directory. Said twice, the first one stays.
    pub(in crate::api::server) fn keep_in(&self, directory: PathBuf) {
        let _ = self.told.set(directory);
    }

    /// Where the records are.
    pub(in crate::api::server) fn place(&self) -> PathBuf {
        self.told.get().cloned().unwrap_or_else(|| self.pool_dir.join(LEASES))
    }

    /// The records, of those that were read by now.
    pub(in crate::api::server) fn read(&self) -> Option<&Arc<Book>> {
        self.book.get()
    }

    /// The records, which are read first if that wasn't done; a place for them is made.
    pub(super) async fn book(&self, turns: &Turns) -> Result<Arc<Book>, LeaseError> {
        let place = self.place();
        let read = || in_turn(turns, move || Book::open(&place).map(Arc::new));
        self.book.get_or_try_init(read).await.cloned()
    }

    /// The records; none if there is no place for them.
    pub(super) async fn known(&self, turns: &Turns) -> Result<Option<Arc<Book>>, LeaseError> {
        if let Some(book) = self.book.get() {
            return Ok(Some(Arc::clone(book)));
        }
        let place = self.place();
        let is_there = in_turn(turns, move || Ok(place.symlink_metadata().is_ok())).await?;
        if is_there { self.book(turns).await.map(Some) } else { Ok(None) }
    }
}

/// Has work done that may wait for a disk, when it is the turn of this process' user.
pub(super) async fn in_turn<T: Send + 'static>(
    turns: &Turns,
    work: impl FnOnce() -> Result<T, LeaseError> + Send + 'static,
) -> Result<T, LeaseError> {
    let (done, result) = oneshot::channel();
    let work = move |_| drop(done.send(work()));
    turns.add(geteuid().as_raw(), work).map_err(LeaseError::NoThread)?;
    result.await.map_err(|_| LeaseError::GivenUp)?
}
