//! Work on all base images, aside from the threads that serve.

use std::io;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::worker::Kept;

/// One thread for what goes through all base images: there may be thousands, each is looked at on
/// disk, and clients that only want an overlay don't wait for that. A filesystem that hangs keeps
/// this thread, and no other.
#[derive(Clone, Debug)]
pub(super) struct Aside {
    /// What waits for its turn can still be cancelled.
    turn: Arc<Semaphore>,
    worker: Arc<Kept>,
}

impl Default for Aside {
    fn default() -> Self {
        Self { turn: Arc::new(Semaphore::new(1)), worker: Arc::new(Kept::new("base-images")) }
    }
}

impl Aside {
    /// Does the work when it is its turn.
    ///
    /// # Errors
    ///
    /// That there can be no thread.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let turn = Arc::clone(&self.turn).acquire_owned().await.map_err(io::Error::other)?;
        let worker = self.worker.get()?;
        let work = async move {
            // Kept to the end, also if nobody waits for it any more.
            let _turn = turn;
            work()
        };
        worker.run(work).await
    }
}
