//! Filling the shelves, at start and in the background.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinSet, block_in_place, yield_now};
use tokio::time::sleep_until;

use super::config::PoolConfig;
use super::directory::{Directory, Entry};
use super::shelf::{Claim, Shelf};
use super::shelves::Shelves;
use super::space::Space;
use super::stats::Counters;
use crate::creator::{Creator, CreatorError};
use crate::image::Overlay;

/// How long after space was found to be low it is looked at again.
const LOW_SPACE_RETRY: Duration = Duration::from_secs(5);

/// For how long overlays are made ahead before others get their turn on that thread.
const TURN: Duration = Duration::from_millis(1);

/// Whether overlays are made ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restocking {
    /// They are.
    On,
    /// The pool is stopped, or makes none ahead.
    Off,
    /// The pool was drained.
    Drained,
    /// There is less space than shall be left free.
    LowSpace,
}

/// The shelves of a running pool, and what it takes to keep them full.
///
/// Dropped, it leaves no process and no directory: each part removes what it holds.
pub(crate) struct Stock {
    pub(crate) shelves: Shelves,
    pub(crate) creator: Arc<dyn Creator>,
    /// Where overlays are made ahead; none where the pool works on demand alone.
    directory: Option<RwLock<Arc<Directory>>>,
    size: usize,
    idle: Option<Duration>,
    max_creations: u32,
    /// A permit for each creation that may be under way at once.
    creations: Semaphore,
    wake: Arc<Notify>,
    /// Somebody removed ready overlays from the directory.
    vanished: AtomicBool,
    drained: AtomicBool,
    /// It was told that a target is on another filesystem.
    warned: AtomicBool,
    min_free: u64,
    counters: Arc<Counters>,
}

impl Stock {
    pub(crate) fn new(
        config: &PoolConfig,
        shelves: Shelves,
        creator: Arc<dyn Creator>,
        directory: Option<Directory>,
        counters: Arc<Counters>,
    ) -> Self {
        let max_creations = u32::try_from(config.max_creations.max(1)).unwrap_or(u32::MAX);
        Self {
            shelves,
            creator,
            directory: directory.map(|directory| RwLock::new(Arc::new(directory))),
            size: usize::try_from(config.pool_size()).unwrap_or(0),
            idle: config.shelf_idle,
            max_creations,
            creations: Semaphore::new(max_creations as usize),
            wake: Arc::default(),
            vanished: AtomicBool::new(false),
            drained: AtomicBool::new(false),
            warned: AtomicBool::new(false),
            min_free: config.min_free,
            counters,
        }
    }

    /// The pool directory in use.
    pub(crate) fn directory(&self) -> Option<Arc<Directory>> {
        let directory = self.directory.as_ref()?;
        Some(Arc::clone(&directory.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Asks for the shelves to be filled again, `restock_interval` from now.
    pub(crate) fn request(&self) {
        self.wake.notify_one();
    }

    /// Takes note that a ready overlay was not where it should be.
    pub(crate) fn note_vanished(&self) {
        self.vanished.store(true, Ordering::Relaxed);
    }

    /// Tells once that targets lie where no ready overlay can be moved.
    pub(crate) fn warn_of_other_filesystem(&self, target: &Path) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            let target = target.display();
            tracing::warn!(
                %target,
                "on another filesystem than the pool directory, an overlay can't be moved there \
                 but is made on demand; put the pool directory beside the targets"
            );
        }
    }

    /// Fills the shelves again after each request and when one is `due`, until the stock is
    /// dropped.
    pub(crate) fn keep_filled(
        self: &Arc<Self>,
        interval: Duration,
        mut due: Option<Instant>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let stock = Arc::downgrade(self);
        let wake = Arc::clone(&self.wake);
        async move {
            let mut requested = None;
            loop {
                tokio::select! {
                    () = wake.notified(), if requested.is_none() => {
                        // An interval beyond the end of time is never.
                        requested = Instant::now().checked_add(interval);
                        continue;
                    }
                    () = until(requested) => requested = None,
                    () = until(due) => {}
                }
                let Some(stock) = Weak::upgrade(&stock) else { return };
                due = stock.fill().await;
            }
        }
    }

    /// Fills every shelf up to its size, never above, the emptiest first. Says when a shelf wants
    /// to be looked at again without a request.
    pub(crate) async fn fill(self: &Arc<Self>) -> Option<Instant> {
        let directory = self.sound_directory()?;
        self.shelves.refresh();
        let shelves: Arc<[_]> = self.shelves.all().into();
        self.give_up_idle(&shelves);
        if self.vanished.swap(false, Ordering::Relaxed) {
            for shelf in shelves.iter() {
                self.shelves.discard(shelf, shelf.drop_vanished(), "removed from outside");
            }
        }
        let mut workers = JoinSet::new();
        let aside = self.creator.blocks() && has_other_threads();
        // More threads than one would take the cores from those who serve acquires.
        let at_once = if aside { 1 } else { self.max_creations as usize };
        for _ in 0..self.lacking(&shelves).min(at_once) {
            let (stock, directory) = (Arc::clone(self), Arc::clone(&directory));
            workers.spawn(work(stock, directory, Arc::clone(&shelves), aside));
        }
        let mut made = 0;
        while let Some(worker) = workers.join_next().await {
            made += worker.unwrap_or(0);
        }
        if made > 0 {
            tracing::debug!(made, "restock");
        }
        let now = Instant::now();
        let due = shelves.iter().filter_map(|shelf| shelf.due(self.size, now, self.idle)).min();
        if self.lacking(&shelves) == 0 || self.restocking() != Restocking::LowSpace {
            return due;
        }
        // Nobody says when there is space again.
        tracing::warn!(min_free = self.min_free, "low space: no overlay is made ahead");
        due.into_iter().chain(now.checked_add(LOW_SPACE_RETRY)).min()
    }

    /// Whether overlays are made ahead now.
    pub(crate) fn restocking(&self) -> Restocking {
        let Some(directory) = self.directory() else { return Restocking::Off };
        if self.drained.load(Ordering::Relaxed) {
            return Restocking::Drained;
        }
        // Where that can't be told, what is made there will tell.
        let is_low = |space: Space| space.bytes_free < self.min_free;
        if self.min_free > 0 && Space::of(&directory).is_ok_and(is_low) {
            return Restocking::LowSpace;
        }
        Restocking::On
    }

    /// Makes nothing ahead any more, and gives up what is ready; says how many. Cancelled, it only
    /// doesn't wait for what is being made, which is given up too.
    pub(crate) async fn drain(&self) -> usize {
        self.drained.store(true, Ordering::Relaxed);
        let count = self.shelves.all().iter().map(|shelf| self.give_up_drained(shelf)).sum();
        self.quiesce().await;
        count
    }

    /// Gives up what was put on a shelf after the pool was drained; says how many.
    pub(crate) fn give_up_drained(&self, shelf: &Shelf) -> usize {
        if !self.drained.load(Ordering::Relaxed) {
            return 0;
        }
        let ready = shelf.clear();
        let count = ready.len();
        self.shelves.discard(shelf, ready, "drained");
        count
    }

    /// Makes overlays ahead again.
    pub(crate) fn resume(&self) {
        self.drained.store(false, Ordering::Relaxed);
        self.request();
    }

    /// Has the creator write an overlay, and counts it.
    pub(crate) async fn create(
        &self,
        overlay: &Arc<Overlay>,
        file: &Arc<File>,
    ) -> Result<(), CreatorError> {
        let since = Instant::now();
        let result = self.creator.write(overlay, file).await;
        match &result {
            Ok(()) => self.counters.created.add(since.elapsed()),
            Err(_) => self.counters.create_failed.add(1),
        }
        result
    }

    /// Removes the ready overlays and the pool directory.
    pub(crate) fn close(&self) -> io::Result<()> {
        for shelf in self.shelves.all() {
            drop(shelf.clear());
        }
        self.directory().map_or(Ok(()), |directory| directory.remove())
    }

    /// Waits until no creation of [`Stock::fill`] is under way.
    pub(crate) async fn quiesce(&self) {
        // The semaphore is never closed.
        let _ = self.creations.acquire_many(self.max_creations).await;
    }

    /// The pool directory; made again where it was removed from outside.
    pub(crate) fn sound_directory(&self) -> Option<Arc<Directory>> {
        let directory = self.directory()?;
        // Where that can't be told, what is made in it will tell.
        if !directory.is_gone().unwrap_or(false) {
            return Some(directory);
        }
        for shelf in self.shelves.all() {
            self.shelves.discard(&shelf, shelf.clear(), "pool directory removed from outside");
        }
        match directory.create_again() {
            Ok(new) => {
                tracing::warn!(directory = %new.path().display(), "pool directory made again");
                let new = Arc::new(new);
                let slot = self.directory.as_ref()?;
                *slot.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&new);
                Some(new)
            }
            Err(error) => {
                let directory = directory.path().display();
                tracing::warn!(%directory, %error, "pool directory can't be made again");
                None
            }
        }
    }

    fn give_up_idle(&self, shelves: &[Arc<Shelf>]) {
        let Some(idle) = self.idle else { return };
        let now = Instant::now();
        for shelf in shelves.iter().filter(|shelf| shelf.is_idle(now, idle)) {
            self.shelves.discard(shelf, shelf.clear(), "idle");
        }
    }

    /// How many overlays can be made until all shelves are full.
    fn lacking(&self, shelves: &[Arc<Shelf>]) -> usize {
        let now = Instant::now();
        let levels = shelves.iter().filter_map(|shelf| shelf.level(now, self.idle));
        levels.map(|level| self.size.saturating_sub(level)).fold(0, usize::saturating_add)
    }

    fn next_claim(&self, shelves: &[Arc<Shelf>]) -> Option<Claim> {
        if self.restocking() != Restocking::On {
            return None;
        }
        let now = Instant::now();
        let level = |shelf: &&Arc<Shelf>| shelf.level(now, self.idle);
        let emptiest = shelves.iter().filter(|shelf| level(shelf).is_some()).min_by_key(level)?;
        emptiest.claim(self.size)
    }

    /// Makes overlays until `turn` is over, one at least; says how many, and whether no shelf lacks
    /// any more.
    async fn take_turn(
        &self,
        directory: &Arc<Directory>,
        shelves: &[Arc<Shelf>],
        turn: Duration,
    ) -> (usize, bool) {
        let begin = Instant::now();
        let mut made = 0;
        loop {
            // Held until everything of the creation is put away or removed.
            let Ok(_permit) = self.creations.acquire().await else { return (made, true) };
            let Some(claim) = self.next_claim(shelves) else { return (made, true) };
            let shelf = Arc::clone(claim.shelf());
            match self.make(directory, claim).await {
                Ok(()) => made += 1,
                Err(error) => {
                    let retry_in = shelf.back_off(Instant::now());
                    let base = shelf.path().display();
                    tracing::warn!(%base, %error, ?retry_in, "overlay not made ahead");
                }
            }
            if begin.elapsed() >= turn {
                return (made, false);
            }
        }
    }

    async fn make(&self, directory: &Arc<Directory>, claim: Claim) -> Result<(), CreatorError> {
        let (entry, file) = Entry::create(directory)?;
        self.create(claim.overlay(), &Arc::new(file)).await?;
        let shelf = Arc::clone(claim.shelf());
        if let Some(stale) = claim.fulfil(entry) {
            self.shelves.discard(&shelf, vec![stale], "base image changed or was removed");
        }
        self.give_up_drained(&shelf);
        Ok(())
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        self.wake.notify_one(); // the task that keeps it filled ends
    }
}

/// Makes one overlay after the other while a shelf lacks any; says how many.
async fn work(
    stock: Arc<Stock>,
    directory: Arc<Directory>,
    shelves: Arc<[Arc<Shelf>]>,
    aside: bool,
) -> usize {
    let mut made = 0;
    loop {
        let turn = stock.take_turn(&directory, &shelves, if aside { TURN } else { Duration::ZERO });
        // A slow filesystem keeps this thread; what else it had to do goes to another.
        let (count, is_last) =
            if aside { block_in_place(|| Handle::current().block_on(turn)) } else { turn.await };
        made += count;
        if is_last {
            return made;
        }
        yield_now().await;
    }
}

/// Whether the runtime has a thread besides this one.
fn has_other_threads() -> bool {
    let runtime = Handle::current();
    runtime.runtime_flavor() == RuntimeFlavor::MultiThread && runtime.metrics().num_workers() > 1
}

async fn until(due: Option<Instant>) {
    match due {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
