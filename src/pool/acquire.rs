//! Handing one overlay over.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::directory::{Entry, leads_into_pool, would_be_swept};
use super::draft::Draft;
use super::restock::Stock;
use super::shelf::{Shelf, Taken};
use super::target::Target;
use super::{OverlayPool, absolute_base};
use crate::error::Error;
use crate::image::{BaseImage, BaseRef, Overlay, OverlayOptions};

/// Where an acquired overlay came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
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

/// An overlay that was handed over as an open file that has no name. It is gone when the last
/// descriptor of it is closed.
#[derive(Debug)]
pub struct Opened {
    /// Where the overlay came from.
    pub source: Source,
    /// The base image under it, absolute and resolved.
    pub base: PathBuf,
    /// The overlay, open for reading and writing.
    pub file: File,
}

impl OverlayPool {
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
        target: impl Into<Target>,
    ) -> Result<Acquired, Error> {
        self.acquire_at(base.into(), target.into(), None).await
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
        target: impl Into<Target>,
        virtual_size: u64,
    ) -> Result<Acquired, Error> {
        self.acquire_at(base.into(), target.into(), Some(virtual_size)).await
    }

    /// Hands one overlay of `base` over as an open file without a name: for a caller who has no
    /// path in common with the pool. `virtual_size` is as in
    /// [`acquire_sized`](Self::acquire_sized).
    ///
    /// # Errors
    ///
    /// [`Error::NotStarted`], [`Error::Base`], [`Error::Create`]; [`Error::Target`] where no file
    /// can be made in the pool's directory.
    pub async fn acquire_open(
        &self,
        base: impl Into<BaseRef>,
        virtual_size: Option<u64>,
    ) -> Result<Opened, Error> {
        let base = absolute_base(&base.into())?;
        let since = Instant::now();
        let opened = self.open_one(&base, virtual_size).await;
        self.count(since, opened.as_ref().map(|opened| opened.source));
        opened
    }

    async fn acquire_at(
        &self,
        base: BaseRef,
        target: Target,
        size: Option<u64>,
    ) -> Result<Acquired, Error> {
        let (base, target) = (absolute_base(&base)?, target.resolved()?);
        let since = Instant::now();
        let acquired = self.hand_over(&base, target, size).await;
        self.count(since, acquired.as_ref().map(|acquired| acquired.source));
        acquired
    }

    /// Counts an acquire that failed before it came here.
    pub(crate) fn failed(&self, error: Error) -> Error {
        self.count(Instant::now(), Err(&error));
        error
    }

    fn count(&self, since: Instant, result: Result<Source, &Error>) {
        match result {
            Ok(Source::Pooled) => self.counters.pooled.add(since.elapsed()),
            Ok(Source::OnDemand) => self.counters.on_demand.add(since.elapsed()),
            Err(_) if self.stock().is_some() => self.counters.failed.add(1),
            Err(_) => {}
        }
    }

    async fn hand_over(
        &self,
        base: &BaseRef,
        target: Target,
        size: Option<u64>,
    ) -> Result<Acquired, Error> {
        let Some(stock) = self.stock() else {
            target.refuse_existing()?;
            return Err(Error::NotStarted);
        };
        if leads_into_pool(target.path()) {
            target.refuse_existing()?;
            let (base, target) = (base.path.clone(), target.into_path());
            return Err(Error::Target { base, target, source: would_be_swept() });
        }
        let Order { overlay, ready } =
            self.order(&stock, base, size, || target.refuse_existing())?;
        let base = overlay.backing().to_owned();
        let pooled = match ready {
            Some((shelf, entry)) => move_ready(&stock, &shelf, &overlay, entry, &target)?,
            None => false,
        };
        stock.request();
        if pooled {
            return Ok(Acquired { source: Source::Pooled, base, target: target.into_path() });
        }
        target.refuse_existing()?;
        tracing::debug!(base = %base.display(), target = %target.path().display(), "fallback");
        make_at(&stock, &overlay, target).await
    }

    async fn open_one(&self, base: &BaseRef, size: Option<u64>) -> Result<Opened, Error> {
        let stock = self.stock().ok_or(Error::NotStarted)?;
        let Order { overlay, ready } = self.order(&stock, base, size, || Ok(()))?;
        let base = overlay.backing().to_owned();
        let pooled = ready.and_then(|(shelf, entry)| open_ready(&stock, &shelf, entry));
        stock.request();
        if let Some(file) = pooled {
            return Ok(Opened { source: Source::Pooled, base, file });
        }
        // Held until the file is there: others may make the directory again too (rule L12).
        let directory = stock.sound_directory();
        let place = match &directory {
            Some(directory) => directory.path().to_owned(),
            None => self.config.pool_dir.clone(),
        };
        tracing::debug!(base = %base.display(), "fallback");
        let failed = |source| Error::Target { base: base.clone(), target: place.clone(), source };
        // Never finished, it never gets this name.
        let name = Target::from(place.join("open.qcow2"));
        let draft = Draft::begin(&name).map_err(failed)?;
        if let Err(source) = stock.create(&overlay, draft.file()).await {
            return Err(Error::Create { base, target: place, source });
        }
        let file = draft.file().try_clone().map_err(failed)?;
        Ok(Opened { source: Source::OnDemand, base, file })
    }

    /// Takes from the base image's shelf. What costs more than a `statx` comes after `refuse`.
    fn order(
        &self,
        stock: &Arc<Stock>,
        base: &BaseRef,
        size: Option<u64>,
        refuse: impl FnOnce() -> Result<(), Error>,
    ) -> Result<Order, Error> {
        let known = stock.shelves.take_known(base, size);
        let (shelf, Taken { entry, overlay }) = if let Some(known) = known {
            known
        } else {
            refuse()?;
            if size.is_some_and(|size| Some(size) != self.config.overlay.virtual_size) {
                let options = OverlayOptions { virtual_size: size, ..self.config.overlay };
                let image = BaseImage::open(base, self.config.references)?;
                let overlay = Arc::new(image.overlay(options)?);
                stock.shelves.get_to_know(base);
                return Ok(Order { overlay, ready: None });
            }
            stock.shelves.take_new(base)?
        };
        Ok(Order { overlay, ready: entry.map(|entry| (shelf, entry)) })
    }
}

/// What an acquire is to hand over.
struct Order {
    /// What to make where nothing is ready.
    overlay: Arc<Overlay>,
    /// A ready overlay, and the shelf that it came from.
    ready: Option<(Arc<Shelf>, Entry)>,
}

/// Moves a ready overlay to the target; says whether it could be moved.
fn move_ready(
    stock: &Stock,
    shelf: &Shelf,
    overlay: &Arc<Overlay>,
    entry: Entry,
    target: &Target,
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
        stock.give_up_drained(shelf);
        return Err(Error::AlreadyExists { target: target.path().to_owned() });
    }
    if errno == Errno::XDEV {
        stock.warn_of_other_filesystem(target.path());
    }
    tracing::debug!(target = %target.path().display(), %errno, "ready overlay can't be moved");
    spoil(stock, shelf, entry, errno, "can't be moved");
    Ok(false)
}

/// Opens a ready overlay and takes its name away; none where it can't be opened.
fn open_ready(stock: &Stock, shelf: &Shelf, entry: Entry) -> Option<File> {
    match entry.open() {
        Ok(file) => {
            shelf.spend();
            Some(file)
        }
        Err(errno) => {
            tracing::debug!(base = %shelf.path().display(), %errno, "ready overlay can't be opened");
            spoil(stock, shelf, entry, errno, "can't be opened");
            None
        }
    }
}

/// Gives up a taken overlay that can't be handed over.
fn spoil(stock: &Stock, shelf: &Shelf, entry: Entry, errno: Errno, reason: &'static str) {
    shelf.spend();
    if errno == Errno::NOENT {
        stock.note_vanished();
    }
    stock.shelves.discard(shelf, vec![entry], reason);
}

async fn make_at(stock: &Stock, overlay: &Arc<Overlay>, target: Target) -> Result<Acquired, Error> {
    let base = overlay.backing().to_owned();
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => Error::AlreadyExists { target: target.path().to_owned() },
        _ => Error::Target { base: base.clone(), target: target.path().to_owned(), source },
    };
    let draft = Draft::begin(&target).map_err(failed)?;
    if let Err(source) = stock.create(overlay, draft.file()).await {
        return Err(Error::Create { base, target: target.path().to_owned(), source });
    }
    draft.finish().map_err(failed)?;
    Ok(Acquired { source: Source::OnDemand, base, target: target.into_path() })
}
