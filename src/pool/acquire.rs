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
        let (base, target) = (base.absolute()?, target.absolute()?);
        let stock = self.stock();
        let result = hand_over(stock.as_deref(), base, target, size).await;
        match result.as_ref().map(|acquired| acquired.source) {
            Ok(Source::Pooled) => self.counters.add(|count| count.pooled += 1),
            Ok(Source::OnDemand) => self.counters.add(|count| count.on_demand += 1),
            Err(_) if stock.is_some() => self.counters.add(|count| count.failed += 1),
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
    let target = target.open();
    let Some(stock) = stock else {
        let in_the_way = target.ok().and_then(|spot| exists(&spot));
        return Err(in_the_way.unwrap_or(Error::NotStarted));
    };
    let bad_target = |(target, source)| Error::Target { base: base.name().path, target, source };
    let spot = target.map_err(bad_target)?;
    if let Err(why) = spot.expect_outside(PREFIX) {
        let refused = || bad_target((spot.path().to_owned(), why));
        return Err(exists(&spot).unwrap_or_else(refused));
    }
    let Taken { overlay, ready } = match stock.shelves.take_known(&base, size) {
        Some(taken) => taken,
        None => match exists(&spot) {
            Some(error) => return Err(error),
            None => stock.shelves.take_new(&base, size)?,
        },
    };
    let moved = ready.map(|(slot, entry)| move_ready(stock, slot, entry, &spot));
    // Before, its place on the shelf counts as taken.
    stock.request();
    let pooled = moved.transpose()?.unwrap_or(false);
    let source = if pooled { Source::Pooled } else { make_at(stock, &overlay, &spot).await? };
    Ok(Acquired { source, base: overlay.backing().to_owned(), target: spot.into_path() })
}

/// Moves a ready overlay to the target; says whether it could be moved.
fn move_ready(stock: &Stock, slot: Slot, entry: Entry, spot: &Spot) -> Result<bool, Error> {
    let Err((entry, errno)) = entry.move_to(spot) else { return Ok(true) };
    let shelf = Arc::clone(&slot.shelf);
    if errno == Errno::EXIST {
        if let Err(stale) = slot.put(entry) {
            shelf.discard(vec![stale], "base image changed");
        }
        return Err(Error::AlreadyExists { target: spot.path().to_owned() });
    }
    match errno {
        Errno::XDEV => stock.other_filesystem.call_once(|| {
            let (target, why) = (spot.path().display(), entry.why_apart(spot));
            tracing::warn!(
                %target,
                "overlays can't be moved there from the pool directory, since it is {why}; each is \
                 made on demand; put the pool directory beside the targets"
            );
        }),
        Errno::NOENT => stock.note_vanished(),
        _ => {}
    }
    tracing::debug!(target = %spot.path().display(), %errno, "ready overlay can't be moved");
    shelf.discard(vec![entry], "can't be moved");
    Ok(false)
}

async fn make_at(stock: &Stock, overlay: &Arc<Overlay>, spot: &Spot) -> Result<Source, Error> {
    let (base, target) = (overlay.backing(), spot.path());
    tracing::debug!(base = %base.display(), target = %target.display(), "fallback");
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => Error::AlreadyExists { target: target.to_owned() },
        _ => Error::Target { base: base.to_owned(), target: target.to_owned(), source },
    };
    if let Some(error) = exists(spot) {
        return Err(error);
    }
    let draft = Draft::begin(spot).map_err(failed)?;
    if let Err(source) = stock.create(overlay, draft.file()).await {
        return Err(Error::Create { base: base.to_owned(), target: target.to_owned(), source });
    }
    draft.finish().map_err(failed)?;
    Ok(Source::OnDemand)
}

/// Anything there is in the way (rule A1).
fn exists(spot: &Spot) -> Option<Error> {
    spot.exists().then(|| Error::AlreadyExists { target: spot.path().to_owned() })
}
