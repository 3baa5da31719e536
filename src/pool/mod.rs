//! The pool: finished overlays of every base image, kept ready.

mod acquire;
mod bases;
mod config;
mod shelf;
mod shelves;
mod stats;
mod stock;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::sleep;

pub use acquire::{Acquired, Source};
pub use bases::BaseState;
pub use config::PoolConfig;
pub use stats::Stats;

use crate::creator::Creator;
use crate::error::Error;
use crate::image::{BaseRef, absolute, discover};
use stats::Counters;
use stock::{Starting, Stock};

/// What the names of pools' directories begin with (rule D1).
pub const PREFIX: &str = "pool-";

/// How often the removal of the pool directory is tried, and how long between two tries.
const CLOSE_TRIES: usize = 50;
const CLOSE_PAUSE: Duration = Duration::from_millis(20);

/// A pool of ready overlays.
///
/// It is shared by reference among tasks. Dropped without [`stop`](Self::stop), it still leaves
/// no process and no directory.
///
/// # Example
///
/// ```
/// use overlay_pool::{OverlayPool, PoolConfig, Source};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let (base, vm_disk) = (dir.path().join("disk.img"), dir.path().join("vm.qcow2"));
/// # std::fs::write(&base, [0; 512])?;
/// use overlay_pool::image::BaseRef;
///
/// let pool = OverlayPool::new(PoolConfig {
///     max_concurrent_vms: 4,
///     pool_dir: dir.path().join("pool"),
///     ..PoolConfig::default()
/// })?;
/// pool.start(Some(vec![BaseRef::raw(&base)])).await?;
/// let acquired = pool.acquire(BaseRef::raw(&base), &vm_disk).await?;
/// assert_eq!(acquired.source, Source::Pooled);
/// pool.stop().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct OverlayPool {
    config: PoolConfig,
    counters: Arc<Counters>,
    /// What acquires use; none when stopped.
    stock: RwLock<Option<Arc<Stock>>>,
    /// Held while shelves are filled, by whatever works at it.
    filling: Arc<Mutex<()>>,
    /// Held while starting and stopping, with the task that restocks.
    lifecycle: Mutex<Option<JoinHandle<()>>>,
}

impl OverlayPool {
    /// Makes a pool that isn't started. Relative paths in `config` are those of this call's
    /// working directory.
    ///
    /// # Errors
    ///
    /// [`Error::Path`] if a path is relative and the working directory can't be told.
    pub fn new(config: PoolConfig) -> Result<Self, Error> {
        let config = PoolConfig {
            images_path: absolute(config.images_path)?,
            pool_dir: absolute(config.pool_dir)?,
            ..config
        };
        Ok(Self {
            config,
            counters: Arc::default(),
            stock: RwLock::default(),
            filling: Arc::default(),
            lifecycle: Mutex::default(),
        })
    }

    /// What it was told, with absolute paths.
    #[must_use]
    pub fn config(&self) -> &PoolConfig {
        &self.config
    }

    /// Where the ready overlays lie while the pool is started and makes any ahead.
    #[must_use]
    pub fn directory(&self) -> Option<PathBuf> {
        Some(self.stock()?.directory()?.path().to_owned())
    }

    /// Starts the creator, removes what dead owners left, and fills a shelf for each of `bases`,
    /// or, given no list, for each `*-base-*.qcow2` in `images_path`.
    ///
    /// A base image that can't be used, or a pool directory that can't be made, is a warning.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyStarted`], [`Error::CreatorUnavailable`], [`Error::Path`]. A start that
    /// fails or is cancelled leaves nothing behind.
    pub async fn start(&self, bases: Option<Vec<BaseRef>>) -> Result<(), Error> {
        let mut lifecycle = self.lifecycle.lock().await;
        if self.stock().is_some() {
            return Err(Error::AlreadyStarted);
        }
        let bases = match bases {
            Some(bases) => {
                bases.into_iter().map(BaseRef::absolute).collect::<Result<Vec<_>, _>>()?
            }
            None => discover(&self.config.images_path),
        };
        let kind = self.config.creator;
        let creator = Creator::new(kind, &self.config.tools, self.config.create_timeout);
        let unavailable = |source| Error::CreatorUnavailable { creator: kind.as_str(), source };
        creator.start().await.map_err(unavailable)?;

        let stock = Arc::new(Stock::new(
            &self.config,
            creator,
            self.counters.clone(),
            self.filling.clone(),
        ));
        let mut starting = Starting(Some(Arc::clone(&stock)));
        if stock.directory().is_some() {
            for base in &bases {
                stock.shelves.await_base(base);
            }
            let due = stock.fill().await;
            let restock = stock.keep_filled(self.config.restock_interval, due);
            *lifecycle = Some(tokio::spawn(restock));
        }
        let directory = stock.directory();
        tracing::info!(
            creator = kind.as_str(),
            directory = directory.as_ref().map(|directory| display(directory.path().display())),
            bases = bases.len(),
            size = self.config.pool_size(),
            "start"
        );
        starting.0 = None;
        *self.stock.write().unwrap_or_else(PoisonError::into_inner) = Some(stock);
        Ok(())
    }

    /// Whether the pool is started.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.stock().is_some()
    }

    /// What the pool holds, and what it did since it was made.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let stock = self.stock().filter(|stock| stock.directory().is_some());
        self.counters.with(stock.map(|stock| stock.shelves.ready()).unwrap_or_default())
    }

    /// Removes the ready overlays, the pool directory and the creator. Acquired overlays are the
    /// callers' and stay. What can't be removed is a warning. Stopping a stopped pool is nothing.
    pub async fn stop(&self) {
        let mut lifecycle = self.lifecycle.lock().await;
        let stock = self.stock.write().unwrap_or_else(PoisonError::into_inner).take();
        let Some(stock) = stock else {
            // What a cancelled start began is removed when it ends.
            return drop(self.filling.lock().await);
        };
        stock.rules.pause(true);
        if let Some(restock) = lifecycle.take() {
            restock.abort();
            let _ = restock.await;
        }
        drop(self.filling.lock().await);
        stock.creator.stop().await;
        // On FUSE and NFS a removed file has a name until its last user's end is known there.
        let mut tries = CLOSE_TRIES;
        while let Err(error) = stock.close() {
            tries -= 1;
            if tries == 0 || error.kind() != io::ErrorKind::DirectoryNotEmpty {
                break; // told when the directory is dropped
            }
            sleep(CLOSE_PAUSE).await;
        }
        tracing::info!("stop");
    }

    fn stock(&self) -> Option<Arc<Stock>> {
        self.stock.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for OverlayPool {
    fn drop(&mut self) {
        if let Some(restock) = self.lifecycle.get_mut().take() {
            restock.abort();
        }
        // What a creation under way still holds goes when it ends.
        let _ = self.stock().map(|stock| stock.close());
    }
}
