//! Handing one overlay over.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;

use super::shelf::{Slot, Taken};
use super::stock::Stock;
use super::{OverlayPool, PREFIX};
use crate::error::Error;
use crate::image::{Base, Overlay};
use crate::place::{Draft, Entry, Spot, Target};

/// Where an acquired overlay came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A shelf.
    Pooled,
    /// Made for this call.
    OnDemand,
}

/// An overlay that was handed over. From then on it is the caller's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acquired {
    /// Where the overlay came from.
    pub source: Source,
    /// The base image under it, absolute and resolved.
    pub base: PathBuf,
    /// Where it is, absolute.
    pub target: PathBuf,
}

impl OverlayPool {
    /// Hands one overlay of `base` over at `target`: a ready one by one `rename`, or, if none is
    /// ready, one made there.
    ///
    /// The target appears complete or not at all, and nothing is ever overwritten. Relative
    /// paths are those of this call's working directory. A cancelled call hands nothing over.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyExists`] before anything else, then [`Error::NotStarted`],
    /// [`Error::Target`], [`Error::Base`], [`Error::Create`].
    pub async fn acquire(
        &self,
        base: impl Into<Base>,
        target: impl Into<Target>,
    ) -> Result<Acquired, Error> {
        self.acquire_counted(base.into(), target.into(), None).await
    }

    /// Like [`acquire`](Self::acquire), with a disk of `virtual_size` bytes, rounded up to a
    /// multiple of 512. Made on demand, unless it is the size of the ready ones.
    ///
    /// # Errors
    ///
    /// Those of [`acquire`](Self::acquire); [`Error::Base`] also if the size is smaller than the
    /// base image's or over the format's limit.
    pub async fn acquire_sized(
        &self,
        base: impl Into<Base>,
        target: impl Into<Target>,
        virtual_size: u64,
    ) -> Result<Acquired, Error> {
        self.acquire_counted(base.into(), target.into(), Some(virtual_size)).await
    }

    async fn acquire_counted(
        &self,
        base: Base,
        target: Target,
        size: Option<u64>,
    ) -> Result<Acquired, Error> {
        let stock = self.stock();
        let result = hand_over(stock.as_deref(), base, target, size).await;
        match result.as_ref().map(|acquired| acquired.source) {
            Ok(Source::Pooled) => self.counters.pooled.add(1),
            Ok(Source::OnDemand) => self.counters.on_demand.add(1),
            Err(_) if stock.is_some() => self.counters.failed.add(1),
            Err(_) => {}
        }
        result
    }
}

async fn hand_over(
    stock: Option<&Stock>,
    base: Base,
    target: Target,
    size: Option<u64>,
) -> Result<Acquired, Error> {
    let target = target.absolute()?.open();
    let Some(stock) = stock else {
        let in_the_way = target.ok().and_then(|spot| exists(&spot));
        return Err(in_the_way.unwrap_or(Error::NotStarted));
    };
    let base = base.absolute()?;
    let spot = match target {
        Ok(spot) => spot,
        Err((target, source)) => {
            return Err(Error::Target { base: base.name().path, target, source });
        }
    };
    if spot.leads_through(PREFIX) {
        let base = base.name().path;
        return Err(exists(&spot).unwrap_or_else(|| bad_target(base, &spot, would_be_removed())));
    }
    let Taken { overlay, ready } = match stock.shelves.take_known(&base, size) {
        Some(taken) => taken,
        None => match exists(&spot) {
            Some(error) => return Err(error),
            None => stock.shelves.take_new(&base, size)?,
        },
    };
    stock.request();
    let pooled = match ready {
        Some((slot, entry)) => move_ready(stock, slot, entry, &spot)?,
        None => false,
    };
    let source = if pooled { Source::Pooled } else { Source::OnDemand };
    if !pooled {
        make_at(stock, &overlay, &spot).await?;
    }
    Ok(Acquired { source, base: overlay.backing().to_owned(), target: spot.into_path() })
}

/// Moves a ready overlay to the target; says whether it could be moved.
fn move_ready(stock: &Stock, slot: Slot, entry: Entry, spot: &Spot) -> Result<bool, Error> {
    let Err((entry, errno)) = entry.move_to(spot) else { return Ok(true) };
    let refused = match errno {
        Errno::EXIST => Some(Error::AlreadyExists { target: spot.path().to_owned() }),
        // No name that a file could have.
        Errno::NAMETOOLONG | Errno::INVAL => {
            Some(bad_target(slot.overlay().backing().to_owned(), spot, errno.into()))
        }
        _ => None,
    };
    let shelf = Arc::clone(slot.shelf());
    if let Some(error) = refused {
        if let Err(stale) = slot.put(entry) {
            shelf.discard(vec![stale], "base image changed");
        }
        return Err(error);
    }
    match errno {
        Errno::XDEV => stock.warn_of_other_filesystem(spot.path()),
        Errno::NOENT => stock.note_vanished(),
        _ => {}
    }
    tracing::debug!(target = %spot.path().display(), %errno, "ready overlay can't be moved");
    shelf.discard(vec![entry], "can't be moved");
    Ok(false)
}

async fn make_at(stock: &Stock, overlay: &Arc<Overlay>, spot: &Spot) -> Result<(), Error> {
    let (base, target) = (overlay.backing(), spot.path());
    tracing::debug!(base = %base.display(), target = %target.display(), "fallback");
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => Error::AlreadyExists { target: target.to_owned() },
        _ => bad_target(base.to_owned(), spot, source),
    };
    if let Some(error) = exists(spot) {
        return Err(error);
    }
    let draft = Draft::begin(spot).map_err(failed)?;
    if let Err(source) = stock.create(overlay, draft.file()).await {
        return Err(Error::Create { base: base.to_owned(), target: target.to_owned(), source });
    }
    draft.finish().map_err(failed)
}

/// Anything there is in the way (rule A1).
fn exists(spot: &Spot) -> Option<Error> {
    spot.exists().then(|| Error::AlreadyExists { target: spot.path().to_owned() })
}

fn bad_target(base: PathBuf, spot: &Spot, source: io::Error) -> Error {
    Error::Target { base, target: spot.path().to_owned(), source }
}

fn would_be_removed() -> io::Error {
    let why =
        "its directory is named as those are that are removed with their pool; choose another";
    io::Error::new(io::ErrorKind::InvalidInput, why)
}
