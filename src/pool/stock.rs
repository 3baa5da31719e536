//! What a started pool has: its shelves, its directory and its creator; and how it is filled.

use std::fs::File;
use std::io;
use std::iter;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use tokio::sync::Notify;
use tokio::time::sleep_until;

use super::PREFIX;
use super::config::PoolConfig;
use super::shelf::{Rules, Shelf, Slot};
use super::shelves::Shelves;
use super::stats::Counters;
use crate::creator::{Creator, CreatorError};
use crate::image::Overlay;
use crate::place::{Directory, Entry, remove_leftovers};
use crate::worker::Worker;

/// How long after space was found to be low it is looked at again.
const LOW_SPACE_RETRY: Duration = Duration::from_secs(5);

/// Dropped, it leaves no process and no directory: each part removes what it holds.
#[derive(Debug)]
pub(super) struct Stock {
    pub(super) shelves: Shelves,
    pub(super) creator: Creator,
    /// Fills the shelves, if the creator blocks.
    aside: Option<Worker>,
    /// None if the pool works on demand alone.
    directory: Option<Mutex<Arc<Directory>>>,
    pub(super) rules: Arc<Rules>,
    filling: Arc<tokio::sync::Mutex<()>>,
    wake: Arc<Notify>,
    /// Ready overlays may have gone.
    vanished: AtomicBool,
    /// It is told that a target is on another filesystem.
    pub(super) other_filesystem: Once,
    max_creations: usize,
    min_free: u64,
}

impl Stock {
    pub(super) fn new(
        config: &PoolConfig,
        creator: Creator,
        counters: Arc<Counters>,
        filling: Arc<tokio::sync::Mutex<()>>,
    ) -> Self {
        let size = usize::try_from(config.pool_size()).unwrap_or(0);
        let paused = AtomicBool::new(false);
        let rules = Arc::new(Rules { size, idle: config.shelf_idle, paused, counters });
        remove_leftovers(&config.pool_dir, PREFIX);
        let directory = if size > 0 { make_directory(&config.pool_dir) } else { None };
        let wanted = directory.is_some() && creator.blocks();
        let aside = wanted.then(|| Worker::start("overlay-pool-fill")).and_then(|started| {
            let started = started.map(Worker::give_way);
            started.inspect_err(|error| tracing::warn!(%error, "no thread to fill shelves on")).ok()
        });
        Self {
            shelves: Shelves::new(config.overlay, config.references, Arc::clone(&rules)),
            creator,
            aside,
            directory,
            rules,
            filling,
            wake: Arc::default(),
            vanished: AtomicBool::new(false),
            other_filesystem: Once::new(),
            max_creations: config.max_creations.max(1),
            min_free: config.min_free,
        }
    }

    /// The pool directory, if there is one.
    pub(super) fn directory(&self) -> Option<Arc<Directory>> {
        // If it can't be told whether it is gone, what is made in it will tell.
        self.last_directory().filter(|directory| !directory.is_gone().unwrap_or(false))
    }

    fn last_directory(&self) -> Option<Arc<Directory>> {
        let directory = self.directory.as_ref()?;
        Some(Arc::clone(&directory.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Asks for the shelves to be filled again, `restock_interval` from now.
    pub(super) fn request(&self) {
        self.wake.notify_one();
    }

    /// Takes note that a ready overlay was not where it should be.
    pub(super) fn note_vanished(&self) {
        self.vanished.store(true, Ordering::Relaxed);
    }

    /// Has the creator write an overlay, and counts it.
    pub(super) async fn create(
        &self,
        overlay: &Arc<Overlay>,
        file: &Arc<File>,
    ) -> Result<(), CreatorError> {
        let result = self.creator.write(overlay, file).await;
        self.rules.counters.add(|count| match result {
            Ok(()) => count.created += 1,
            Err(_) => count.create_failed += 1,
        });
        result
    }

    /// Removes the ready overlays and the pool directory.
    pub(super) fn close(&self) -> io::Result<()> {
        self.rules.pause(true);
        self.shelves.all().iter().for_each(|shelf| drop(shelf.take_all()));
        self.last_directory().map_or(Ok(()), |directory| directory.remove())
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
            let or_now = |at: Option<Instant>| at.unwrap_or_else(Instant::now).into();
            loop {
                tokio::select! {
                    () = wake.notified(), if requested.is_none() => {
                        // An interval beyond the end of time is never.
                        requested = Instant::now().checked_add(interval);
                        continue;
                    }
                    () = sleep_until(or_now(requested)), if requested.is_some() => requested = None,
                    () = sleep_until(or_now(due)), if due.is_some() => {}
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
        self.shelves.all().iter().for_each(|shelf| self.shelves.look_again(shelf));
        let shelves = self.shelves.all();
        let vanished = self.vanished.swap(false, Ordering::Relaxed);
        for shelf in &shelves {
            // Without an image that is there, nothing is left of it.
            if shelf.give_up_idle() && !shelf.changed(None) {
                self.shelves.forget(&shelf.base);
            }
            if vanished {
                shelf.give_up_vanished(directory.as_ref());
            }
        }
        let directory = directory?;
        // More threads than one would take the cores from those who serve acquires.
        let at_once = if self.creator.blocks() { 1 } else { self.max_creations };
        let work = {
            let (stock, directory, shelves) =
                (Arc::clone(self), directory.clone(), shelves.clone());
            async move {
                let mut is_low = false;
                let slots = iter::from_fn(|| {
                    std::thread::yield_now(); // to those who serve acquires
                    is_low = stock.is_low(&directory);
                    if is_low { None } else { Self::next_slot(&shelves) }
                });
                let make = |slot| stock.make(&directory, slot);
                stream::iter(slots).for_each_concurrent(at_once, make).await;
                // Whoever waits for the end finds nothing left.
                drop((stock, directory, shelves));
                drop(filling);
                is_low
            }
        };
        let was_low = match &self.aside {
            // A slow filesystem keeps that thread, and no other.
            Some(thread) => thread.run(work).await.unwrap_or(false),
            None => work.await,
        };
        if !was_low || !shelves.iter().any(|shelf| shelf.level().is_some()) {
            return shelves.iter().filter_map(|shelf| shelf.due()).min();
        }
        // Nobody says when there is space again.
        tracing::warn!(min_free = self.min_free, "low space: no overlay is made ahead");
        Instant::now().checked_add(LOW_SPACE_RETRY)
    }

    /// The place for one more overlay, on the emptiest shelf that lacks any.
    fn next_slot(shelves: &[Arc<Shelf>]) -> Option<Slot> {
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
            self.create(&slot.overlay, &Arc::new(file)).await?;
            Ok::<_, CreatorError>(entry)
        };
        match created.await {
            // What was never ready isn't counted as discarded.
            Ok(entry) => drop(slot.put(entry)),
            Err(error) => {
                let retry_in = slot.shelf.back_off();
                let base = slot.shelf.base.path.display();
                tracing::warn!(%base, %error, ?retry_in, "overlay not made ahead");
            }
        }
    }

    /// The pool directory; made again if it was removed from outside.
    fn sound_directory(&self) -> Option<Arc<Directory>> {
        if let Some(directory) = self.directory() {
            return Some(directory);
        }
        let gone = self.last_directory()?;
        self.note_vanished();
        let again = gone.create_again().inspect_err(|error| {
            let directory = gone.path().display();
            tracing::warn!(%directory, %error, "pool directory can't be made again");
        });
        let again = Arc::new(again.ok()?);
        tracing::warn!(directory = %again.path().display(), "pool directory made again");
        let mut directory = self.directory.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        directory.clone_from(&again);
        Some(again)
    }
}

/// A start that didn't end leaves a stock in which nothing more is made.
pub(super) struct Starting(pub(super) Option<Arc<Stock>>);

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(stock) = &self.0 {
            stock.rules.pause(true);
        }
    }
}

fn make_directory(pool_dir: &Path) -> Option<Mutex<Arc<Directory>>> {
    let made = Directory::create(pool_dir, PREFIX).inspect_err(|error| {
        let directory = pool_dir.display();
        tracing::warn!(%directory, %error, "no pool directory: overlays are made on demand");
    });
    Some(Mutex::new(Arc::new(made.ok()?)))
}
