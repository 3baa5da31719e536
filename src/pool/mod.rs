//! The pool: finished overlays of every base image, kept ready.

mod config;
mod directory;
mod draft;
mod rename;
mod restock;
mod shelf;
mod shelves;
mod stats;
mod upkeep;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustix::io::Errno;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

pub use config::PoolConfig;
pub use stats::Stats;
pub use upkeep::{Leftover, PoolDirError, Sweep, sweep, try_pool_dir};

use crate::error::Error;
use crate::image::{BaseImage, BaseRef, Overlay, OverlayOptions};
pub(crate) use directory::Directory;
use directory::Entry;
use draft::Draft;
use restock::Stock;
use shelf::{Shelf, Taken};
use shelves::Shelves;
use stats::Counters;

/// Where an acquired overlay came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A shelf.
    Pooled,
    /// Made for this call.
    OnDemand,
}

/// An overlay that was handed over. From then on it is the caller's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Acquired {
    /// Where the overlay came from.
    pub source: Source,
    /// The base image under it, absolute and resolved.
    pub base: PathBuf,
    /// Where it is, absolute.
    pub target: PathBuf,
}

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
pub struct OverlayPool {
    config: PoolConfig,
    counters: Arc<Counters>,
    /// What acquires use; none when stopped.
    stock: RwLock<Option<Arc<Stock>>>,
    /// Held while starting and stopping, with the task that restocks.
    lifecycle: Mutex<Option<JoinHandle<()>>>,
}

impl OverlayPool {
    /// Makes a pool that isn't started. Relative paths in `config` are those of this call's
    /// working directory.
    ///
    /// # Errors
    ///
    /// [`Error::Path`] where a path is relative and the working directory can't be told.
    pub fn new(config: PoolConfig) -> Result<Self, Error> {
        let config = PoolConfig {
            images_path: absolute(&config.images_path)?,
            pool_dir: absolute(&config.pool_dir)?,
            ..config
        };
        Ok(Self {
            config,
            counters: Arc::default(),
            stock: RwLock::default(),
            lifecycle: Mutex::default(),
        })
    }

    /// How many overlays each shelf holds; at 0 or less every acquire is made on demand.
    #[must_use]
    pub fn pool_size(&self) -> i64 {
        self.config.pool_size()
    }

    /// Where the ready overlays lie while the pool is started and makes any ahead.
    #[must_use]
    pub fn directory(&self) -> Option<PathBuf> {
        let directory = self.stock()?.directory()?;
        Some(directory.path().to_owned())
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
            Some(bases) => bases.iter().map(absolute_base).collect::<Result<_, _>>()?,
            None => discover(&self.config.images_path),
        };
        let creator = self.config.creator.creator(&self.config.tools, self.config.create_timeout);
        let unavailable =
            |source| Error::CreatorUnavailable { creator: self.config.creator.as_str(), source };
        creator.start().await.map_err(unavailable)?;

        let directory = (self.pool_size() > 0).then(|| self.make_directory()).flatten();
        let (options, references) = (self.config.overlay, self.config.references);
        let shelves = Shelves::new(options, references, Arc::clone(&self.counters));
        let stock = Stock::new(&self.config, shelves, creator, directory);
        let stock = Arc::new(stock);
        if stock.directory().is_some() {
            for base in &bases {
                stock.shelves.await_base(base);
            }
            let due = stock.fill().await;
            let restock = stock.keep_filled(self.config.restock_interval, due);
            *lifecycle = Some(tokio::spawn(restock));
        }
        tracing::info!(
            creator = self.config.creator.as_str(),
            directory = ?stock.directory().map(|directory| directory.path().to_owned()),
            bases = bases.len(),
            size = self.pool_size(),
            "start"
        );
        *self.stock.write().unwrap_or_else(PoisonError::into_inner) = Some(stock);
        Ok(())
    }

    /// Hands one overlay of `base` over at `target`: a ready one by one `rename`, or, where none
    /// is ready, one made there.
    ///
    /// The target appears complete or not at all, and nothing is ever overwritten. Relative
    /// paths are those of this call's working directory. A cancelled call hands nothing over.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyExists`] before anything else, then [`Error::NotStarted`],
    /// [`Error::Base`], [`Error::Target`], [`Error::Create`].
    pub async fn acquire(
        &self,
        base: impl Into<BaseRef>,
        target: impl AsRef<Path>,
    ) -> Result<Acquired, Error> {
        let (base, target) = (absolute_base(&base.into())?, absolute(target.as_ref())?);
        self.counted(self.hand_over(base, target, None).await)
    }

    /// Like [`acquire`](Self::acquire), with a disk of `virtual_size` bytes. Made on demand,
    /// unless it is the size of the ready ones.
    ///
    /// # Errors
    ///
    /// Those of [`acquire`](Self::acquire); [`Error::Base`] also where the size is smaller than
    /// the base image's or over the format's limit.
    pub async fn acquire_sized(
        &self,
        base: impl Into<BaseRef>,
        target: impl AsRef<Path>,
        virtual_size: u64,
    ) -> Result<Acquired, Error> {
        let (base, target) = (absolute_base(&base.into())?, absolute(target.as_ref())?);
        self.counted(self.hand_over(base, target, Some(virtual_size)).await)
    }

    /// What the pool holds, and what it did since it was made.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let stock = self.stock();
        let shelves = stock.as_ref().filter(|stock| stock.directory().is_some());
        Stats {
            ready: shelves.map(|stock| stock.shelves.ready()).unwrap_or_default(),
            pooled: self.counters.pooled.get(),
            on_demand: self.counters.on_demand.get(),
            failed: self.counters.failed.get(),
            discarded: self.counters.discarded.get(),
        }
    }

    /// Removes the ready overlays, the pool directory and the creator. Acquired overlays are the
    /// callers' and stay. What can't be removed is a warning. Stopping a stopped pool is nothing.
    pub async fn stop(&self) {
        let mut lifecycle = self.lifecycle.lock().await;
        let stock = self.stock.write().unwrap_or_else(PoisonError::into_inner).take();
        let Some(stock) = stock else { return };
        if let Some(restock) = lifecycle.take() {
            restock.abort();
            let _ = restock.await;
        }
        stock.quiesce().await;
        stock.creator.stop().await;
        stock.close();
        tracing::info!("stop");
    }

    fn stock(&self) -> Option<Arc<Stock>> {
        self.stock.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn make_directory(&self) -> Option<Directory> {
        let parent = &self.config.pool_dir;
        match directory::sweep(parent, Sweep::Remove) {
            Ok(dead) => dead.iter().for_each(log_leftover),
            Err(error) => tracing::warn!(directory = %parent.display(), %error, "not swept"),
        }
        match Directory::create(parent) {
            Ok(directory) => Some(directory),
            Err(error) => {
                let directory = parent.display();
                tracing::warn!(%directory, %error, "no pool directory: overlays are made on demand");
                None
            }
        }
    }

    fn counted(&self, result: Result<Acquired, Error>) -> Result<Acquired, Error> {
        match &result {
            Ok(Acquired { source: Source::Pooled, .. }) => self.counters.pooled.add(1),
            Ok(Acquired { source: Source::OnDemand, .. }) => self.counters.on_demand.add(1),
            Err(_) if self.stock().is_some() => self.counters.failed.add(1),
            Err(_) => {}
        }
        result
    }

    async fn hand_over(
        &self,
        base: BaseRef,
        target: PathBuf,
        size: Option<u64>,
    ) -> Result<Acquired, Error> {
        let Some(stock) = self.stock() else {
            refuse_existing(&target)?;
            return Err(Error::NotStarted);
        };
        if size.is_some_and(|size| Some(size) != self.config.overlay.virtual_size) {
            refuse_existing(&target)?;
            let options = OverlayOptions { virtual_size: size, ..self.config.overlay };
            let image = BaseImage::open(&base, self.config.references)?;
            let overlay = Arc::new(image.overlay(options)?);
            return make_at(&stock, &overlay, target).await;
        }
        let (shelf, taken) = if let Some(known) = stock.shelves.take_known(&base) {
            known
        } else {
            refuse_existing(&target)?;
            stock.shelves.take_new(&base)?
        };
        let Taken { entry, overlay } = taken;
        let pooled = match entry {
            Some(entry) => move_ready(&stock, &shelf, &overlay, entry, &target)?,
            None => false,
        };
        stock.request();
        if pooled {
            let base = shelf.path().to_owned();
            return Ok(Acquired { source: Source::Pooled, base, target });
        }
        refuse_existing(&target)?;
        tracing::debug!(base = %shelf.path().display(), target = %target.display(), "fallback");
        make_at(&stock, &overlay, target).await
    }
}

impl Drop for OverlayPool {
    fn drop(&mut self) {
        if let Some(restock) = self.lifecycle.get_mut().take() {
            restock.abort();
        }
        // What a creation under way still holds goes when it ends.
        if let Some(stock) = self.stock() {
            stock.close();
        }
    }
}

impl fmt::Debug for OverlayPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OverlayPool").field("config", &self.config).finish_non_exhaustive()
    }
}

fn log_leftover(Leftover { path, error }: &Leftover) {
    let directory = path.display();
    match error {
        None => tracing::info!(%directory, "removed what a dead owner left"),
        Some(error) => tracing::warn!(%directory, %error, "left-over pool directory not removed"),
    }
}

/// Moves a ready overlay to the target; says whether it could be moved.
fn move_ready(
    stock: &Stock,
    shelf: &Shelf,
    overlay: &Arc<Overlay>,
    entry: Entry,
    target: &Path,
) -> Result<bool, Error> {
    let (entry, errno) = match entry.move_to(target) {
        Ok(()) => {
            shelf.spend();
            return Ok(true);
        }
        Err(failed) => failed,
    };
    if errno == Errno::EXIST {
        let stale = shelf.take_back(entry, overlay);
        stock.shelves.discard(shelf, stale.into_iter().collect(), "base image changed");
        return Err(Error::AlreadyExists { target: target.to_owned() });
    }
    shelf.spend();
    if errno == Errno::NOENT {
        stock.note_vanished();
    }
    tracing::debug!(target = %target.display(), %errno, "ready overlay can't be moved");
    stock.shelves.discard(shelf, vec![entry], "can't be moved");
    Ok(false)
}

async fn make_at(
    stock: &Stock,
    overlay: &Arc<Overlay>,
    target: PathBuf,
) -> Result<Acquired, Error> {
    let base = overlay.backing().to_owned();
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => Error::AlreadyExists { target: target.clone() },
        _ => Error::Target { base: base.clone(), target: target.clone(), source },
    };
    let draft = Draft::begin(&target).map_err(failed)?;
    if let Err(source) = stock.creator.write(overlay, draft.file()).await {
        return Err(Error::Create { base, target, source });
    }
    draft.finish().map_err(failed)?;
    Ok(Acquired { source: Source::OnDemand, base, target })
}

/// The base images in a directory by the convention of their names, resolved and sorted.
fn discover(images_path: &Path) -> Vec<BaseRef> {
    let entries = match std::fs::read_dir(images_path) {
        Ok(entries) => entries,
        Err(error) => {
            let directory = images_path.display();
            tracing::warn!(%directory, %error, "no base images discovered");
            return Vec::new();
        }
    };
    // As a shell's *-base-*.qcow2, hidden files are left out.
    let is_base = |name: &str| {
        let stem = name.strip_suffix(".qcow2").filter(|stem| !stem.starts_with('.'));
        stem.is_some_and(|stem| stem.contains("-base-"))
    };
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(is_base))
        .map(|entry| entry.path().canonicalize().unwrap_or_else(|_| entry.path()))
        .collect();
    paths.sort();
    paths.dedup();
    paths.into_iter().map(BaseRef::qcow2).collect()
}

/// Anything at the target is in the way, also a symbolic link that leads nowhere.
fn refuse_existing(target: &Path) -> Result<(), Error> {
    match target.symlink_metadata() {
        Ok(_) => Err(Error::AlreadyExists { target: target.to_owned() }),
        Err(_) => Ok(()),
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|source| Error::Path { path: path.to_owned(), source })
}

fn absolute_base(base: &BaseRef) -> Result<BaseRef, Error> {
    Ok(BaseRef { path: absolute(&base.path)?, format: base.format })
}
