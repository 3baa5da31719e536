//! Disks that were acquired with an id of the caller's.
//!
//! Of each there is a record, written before the disk is where it shall be, so that the same request
//! gives the same answer, also of a server that comes after this one; and so that the disk can be
//! removed by its id. A disk that is no more where it was put is its user's affair: its record is
//! forgotten, and whatever is there is left alone.
//!
//! An id is its user's: two users may have the same one and don't hear of each other.

mod book;
mod claims;
mod endpoints;
mod error;
mod hand_over;
mod record;
mod refusals;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::process::geteuid;
use tokio::sync::{OnceCell, oneshot};
use tokio::time::sleep;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::state::Shared;
use super::turns::Turns;
pub(super) use book::Book;
use claims::Claims;
use error::LeaseError;
pub(super) use hand_over::acquire;

/// Where the records are, in the pool's place, unless it is said otherwise.
const NAME: &str = "leases";
/// How often it is looked whether the disks are still there.
const LOOK: Duration = Duration::from_secs(60);

/// The records, once they were read.
#[derive(Debug)]
pub(super) struct Leases {
    pool_dir: PathBuf,
    told: OnceLock<PathBuf>,
    book: OnceCell<Arc<Book>>,
    claims: Claims,
}

impl Leases {
    pub(super) fn new(pool_dir: &Path) -> Self {
        Self {
            pool_dir: pool_dir.to_owned(),
            told: OnceLock::new(),
            book: OnceCell::new(),
            claims: Claims::default(),
        }
    }

    /// Keeps the records in this directory. Said twice, the first one stays.
    pub(super) fn keep_in(&self, directory: PathBuf) {
        let _ = self.told.set(directory);
    }

    /// Where the records are.
    pub(super) fn place(&self) -> PathBuf {
        self.told.get().cloned().unwrap_or_else(|| self.pool_dir.join(NAME))
    }

    /// The records, of those that were read by now.
    pub(super) fn read(&self) -> Option<&Book> {
        self.book.get().map(|book| &**book)
    }

    /// The records, which are read first if that wasn't done; a place for them is made.
    async fn book(&self, turns: &Turns) -> Result<Arc<Book>, LeaseError> {
        let place = self.place();
        let read = || in_turn(turns, move || Book::open(&place).map(Arc::new));
        self.book.get_or_try_init(read).await.cloned()
    }

    /// The records; none if there is no place for them.
    async fn known(&self, turns: &Turns) -> Result<Option<Arc<Book>>, LeaseError> {
        if let Some(book) = self.book.get() {
            return Ok(Some(Arc::clone(book)));
        }
        let place = self.place();
        let is_there = in_turn(turns, move || Ok(place.symlink_metadata().is_ok())).await?;
        if is_there { self.book(turns).await.map(Some) } else { Ok(None) }
    }
}

/// Reads the records that there are, and forgets those whose disks are gone: now, and from time to
/// time. Never ends.
pub(super) async fn look_after(shared: Shared) {
    let failed = |error| tracing::warn!(%error, "disks that were acquired with an id");
    if let Err(error) = shared.leases.known(&shared.turns).await {
        failed(error);
    }
    loop {
        if let Some(book) = shared.leases.book.get().cloned() {
            let all = Arc::clone(&shared);
            let looked = in_turn(&shared.turns, move || {
                book.look(&all.leases.claims, &all.access);
                Ok(())
            });
            looked.await.unwrap_or_else(failed);
        }
        sleep(LOOK).await;
    }
}

/// Has work done that may wait for a disk, when it is the turn of this process' user.
async fn in_turn<T: Send + 'static>(
    turns: &Turns,
    work: impl FnOnce() -> Result<T, LeaseError> + Send + 'static,
) -> Result<T, LeaseError> {
    let (done, result) = oneshot::channel();
    let work = move |_| drop(done.send(work()));
    turns.add(geteuid().as_raw(), work).map_err(LeaseError::NoThread)?;
    result.await.map_err(|_| LeaseError::GivenUp)?
}

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(endpoints::list, endpoints::remove_all))
        .routes(routes!(endpoints::look, endpoints::remove))
}
