//! What a started pool has: its shelves, its directory and its creator; and how it is filled.

use std::fs::File;
use std::io;
use std::iter;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::sleep_until;

use super::PREFIX;
use super::config::PoolConfig;
use super::shelf::{Rules, Shelf, Slot};
use super::shelves::Shelves;
use super::stats::Counters;
use crate::creator::{Creator, CreatorError};
use crate::image::Overlay;
use crate::place::{Directory, Entry, Sweep, sweep};

/// How long after space was found to be low it is looked at again.
const LOW_SPACE_RETRY: Duration = Duration::from_secs(5);

/// Dropped, it leaves no process and no directory: each part removes what it holds.
#[derive(Debug)]
pub(super) struct Stock {
    pub(super) shelves: Shelves,
    pub(super) creator: Creator,
    /// None if the pool works on demand alone.
    directory: Option<Mutex<Made>>,
    rules: Arc<Rules>,
    /// Held while shelves are filled, by whatever works at it.
    filling: Arc<tokio::sync::Mutex<()>>,
    wake: Arc<Notify>,
    /// Ready overlays may have gone.
    vanished: AtomicBool,
    /// It was told that a target is on another filesystem.
    warned: AtomicBool,
    max_creations: usize,
    min_free: u64,
}

/// The pool directory that was made last.
#[derive(Debug)]
struct Made {
    directory: Arc<Directory>,
    /// It was removed from outside, and no other could be made.
    is_gone: bool,
}

impl Stock {
    pub(super) fn new(config: &PoolConfig, creator: Creator, counters: Arc<Counters>) -> Self {
        let size = usize::try_from(config.pool_size()).unwrap_or(0);
        let paused = AtomicBool::new(false);
        let rules = Arc::new(Rules { size, idle: config.shelf_idle, paused, counters });
        remove_leftovers(&config.pool_dir);
        let directory = if size > 0 { make_directory(&config.pool_dir) } else { None };
        Self {
            shelves: Shelves::new(config.overlay, config.references, Arc::clone(&rules)),
            creator,
            directory,
            rules,
            filling: Arc::default(),
            wake: Arc::default(),
            vanished: AtomicBool::new(false),
            warned: AtomicBool::new(false),
            max_creations: config.max_creations.max(1),
            min_free: config.min_free,
        }
    }

    /// The pool directory, if there is one.
    pub(super) fn directory(&self) -> Option<Arc<Directory>> {
        let made = self.directory.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        (!made.is_gone).then(|| Arc::clone(&made.directory))
    }

    /// Asks for the shelves to be filled again, `restock_interval` from now.
    pub(super) fn request(&self) {
        self.wake.notify_one();
    }

    /// Takes note that a ready overlay was not where it should be.
    pub(super) fn note_vanished(&self) {
        self.vanished.store(true, Ordering::Relaxed);
    }

    /// Tells once that targets lie where no ready overlay can be moved.
    pub(super) fn warn_of_other_filesystem(&self, target: &Path) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            let target = target.display();
            tracing::warn!(
                %target,
                "on another filesystem than the pool directory, an overlay can't be moved there \
                 but is made on demand; put the pool directory beside the targets"
            );
        }
    }

    /// Has the creator write an overlay, and counts it.
    pub(super) async fn create(
        &self,
        overlay: &Arc<Overlay>,
        file: &Arc<File>,
    ) -> Result<(), CreatorError> {
        let result = self.creator.write(overlay, file).await;
        let counters = &self.rules.counters;
        let counter = if result.is_ok() { &counters.created } else { &counters.create_failed };
        counter.add(1);
        result
    }

    pub(super) fn is_paused(&self) -> bool {
        self.rules.paused.load(Ordering::Relaxed)
    }

    /// Has nothing kept ready, or something again.
    pub(super) fn set_paused(&self, paused: bool) {
        self.rules.paused.store(paused, Ordering::Relaxed);
    }

    /// Waits until nothing is made ahead any more, in a stock that is paused.
    pub(super) async fn settled(&self) {
        drop(self.filling.lock().await);
    }

    /// Removes the ready overlays and the pool directory.
    pub(super) fn close(&self) -> io::Result<()> {
        self.set_paused(true);
        self.shelves.all().iter().for_each(|shelf| shelf.close());
        self.directory().map_or(Ok(()), |directory| directory.remove())
    }

    /// Fills the shelves again after each request and when one is `due`, until the stock is gone.
    pub(super) fn keep_filled(
        self: &Arc<Self>,
        interval: Duration,
        mut due: Option<Instant>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (stock, wake) = (Arc::downgrade(self), Arc::clone(&self.wake));
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
                let Some(stock) = stock.upgrade() else { return };
                due = stock.fill().await;
            }
        }
    }

    /// Fills every shelf up to its size, never above, the emptiest first. Says when a shelf wants
    /// to be looked at again without a request.
    pub(super) async fn fill(self: &Arc<Self>) -> Option<Instant> {
        let filling = Arc::clone(&self.filling).lock_owned().await;
        let directory = self.sound_directory();
        self.shelves.refresh();
        let shelves = self.shelves.all();
        let vanished = self.vanished.swap(false, Ordering::Relaxed);
        for shelf in &shelves {
            shelf.give_up_idle();
            if vanished {
                shelf.give_up_vanished(directory.as_ref());
            }
        }
        let directory = directory?;
        let blocks = self.creator.blocks();
        // More threads than one would take the cores from those who serve acquires.
        let at_once = if blocks { 1 } else { self.max_creations };
        let work = {
            let (stock, directory, shelves) =
                (Arc::clone(self), directory.clone(), shelves.clone());
            async move {
                let slots = iter::from_fn(|| stock.next_slot(&directory, &shelves));
                let make = |slot| stock.make(&directory, slot);
                stream::iter(slots).for_each_concurrent(at_once, make).await;
                drop(filling);
            }
        };
        if blocks {
            // A slow filesystem keeps that thread, and no other.
            let runtime = Handle::current();
            let _ = spawn_blocking(move || runtime.block_on(work)).await;
        } else {
            work.await;
        }
        let due = shelves.iter().filter_map(|shelf| shelf.due()).min();
        if !shelves.iter().any(|shelf| shelf.level().is_some()) || !self.is_low(&directory) {
            return due;
        }
        // Nobody says when there is space again.
        tracing::warn!(min_free = self.min_free, "low space: no overlay is made ahead");
        due.into_iter().chain(Instant::now().checked_add(LOW_SPACE_RETRY)).min()
    }

    /// The place for one more overlay, on the emptiest shelf that lacks any.
    fn next_slot(&self, directory: &Directory, shelves: &[Arc<Shelf>]) -> Option<Slot> {
        if self.is_low(directory) {
            return None;
        }
        loop {
            let lacking = shelves.iter().filter_map(|shelf| Some((shelf.level()?, shelf)));
            let (_, emptiest) = lacking.min_by_key(|(level, _)| *level)?;
            if let Some(slot) = emptiest.claim() {
                return Some(slot);
            }
        }
    }

    /// Whether there is less space than shall be left free. If that can't be told, what is made
    /// there will tell.
    fn is_low(&self, directory: &Directory) -> bool {
        self.min_free > 0 && directory.bytes_free().is_ok_and(|free| free < self.min_free)
    }

    async fn make(&self, directory: &Arc<Directory>, slot: Slot) {
        let created = async {
            let (entry, file) = Entry::create(directory)?;
            self.create(slot.overlay(), &Arc::new(file)).await?;
            Ok::<_, CreatorError>(entry)
        };
        match created.await {
            // What was never ready isn't counted as discarded.
            Ok(entry) => drop(slot.put(entry)),
            Err(error) => {
                let retry_in = slot.shelf().back_off();
                let base = slot.shelf().path().display();
                tracing::warn!(%base, %error, ?retry_in, "overlay not made ahead");
            }
        }
    }

    /// The pool directory; made again if it was removed from outside.
    fn sound_directory(&self) -> Option<Arc<Directory>> {
        let made = self.directory.as_ref()?;
        let directory = {
            let made = made.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(&made.directory)
        };
        // If that can't be told, what is made in it will tell.
        if !directory.is_gone().unwrap_or(false) {
            return Some(directory);
        }
        self.note_vanished();
        let again = directory.create_again();
        let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
        match again {
            Ok(again) => {
                tracing::warn!(directory = %again.path().display(), "pool directory made again");
                *made = Made { directory: Arc::new(again), is_gone: false };
                Some(Arc::clone(&made.directory))
            }
            Err(error) => {
                let directory = directory.path().display();
                tracing::warn!(%directory, %error, "pool directory can't be made again");
                made.is_gone = true;
                None
            }
        }
    }
}

/// A start that didn't end leaves a stock in which nothing more is made.
pub(super) struct Starting(pub(super) Option<Arc<Stock>>);

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(stock) = &self.0 {
            stock.set_paused(true);
        }
    }
}

fn make_directory(pool_dir: &Path) -> Option<Mutex<Made>> {
    match Directory::create(pool_dir, PREFIX) {
        Ok(directory) => Some(Mutex::new(Made { directory: Arc::new(directory), is_gone: false })),
        Err(error) => {
            let directory = pool_dir.display();
            tracing::warn!(%directory, %error, "no pool directory: overlays are made on demand");
            None
        }
    }
}

/// Removes what dead owners left.
fn remove_leftovers(pool_dir: &Path) {
    let leftovers = match sweep(pool_dir, PREFIX, Sweep::Remove) {
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

async fn until(due: Option<Instant>) {
    match due {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
