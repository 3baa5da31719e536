//! The ready overlays of one base image.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::bases::BaseState;
use super::directory::Entry;
use crate::image::{BaseImage, BaseRef, Identity, Overlay};

/// The wait after a first failed creation; it doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// One base image's ready overlays, and what is known of the image.
#[derive(Debug)]
pub(crate) struct Shelf {
    base: BaseRef,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    image: Image,
    ready: Vec<Entry>,
    /// Creations under way.
    pending: usize,
    /// Overlays that were taken and may come back, since their target may exist.
    taken: usize,
    failures: u32,
    retry_at: Option<Instant>,
    last_used: Instant,
}

#[derive(Debug)]
enum Image {
    /// The image as it was judged, and the overlay that was laid out over it.
    Good { identity: Identity, overlay: Arc<Overlay>, virtual_size: u64 },
    /// The image can't be used; nothing is made until the file is another.
    Bad { seen: Option<Identity> },
}

impl State {
    /// When the shelf will have been idle for `idle`; never, where that is beyond the end of time.
    fn idle_at(&self, idle: Option<Duration>) -> Option<Instant> {
        self.last_used.checked_add(idle?)
    }
}

/// What a shelf has for an acquire.
#[derive(Debug)]
pub(crate) struct Taken {
    /// A ready overlay, where there was one.
    pub(crate) entry: Option<Entry>,
    /// What to make where there was none. Which one it is also says which state of the base
    /// image an overlay was made of.
    pub(crate) overlay: Arc<Overlay>,
}

impl Shelf {
    /// An empty shelf of a base image that was not judged good yet.
    pub(crate) fn waiting(base: BaseRef, seen: Option<Identity>) -> Self {
        let state = State {
            image: Image::Bad { seen },
            ready: Vec::new(),
            pending: 0,
            taken: 0,
            failures: 0,
            retry_at: None,
            last_used: Instant::now(),
        };
        Self { base, state: Mutex::new(state) }
    }

    /// The base image's resolved path.
    pub(crate) fn path(&self) -> &Path {
        &self.base.path
    }

    pub(crate) fn base(&self) -> &BaseRef {
        &self.base
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a ready overlay, where the base image is still the one they were made of, and `size`,
    /// if there is one, is theirs.
    pub(crate) fn take(&self, seen: Identity, size: Option<u64>) -> Option<Taken> {
        let mut state = self.state();
        let Image::Good { identity, overlay, .. } = &state.image else { return None };
        if *identity != seen || size.is_some_and(|size| size != overlay.virtual_size()) {
            return None;
        }
        let overlay = Arc::clone(overlay);
        state.last_used = Instant::now();
        let entry = state.ready.pop();
        state.taken += usize::from(entry.is_some());
        Some(Taken { entry, overlay })
    }

    /// Takes note that a taken overlay won't come back.
    pub(crate) fn spend(&self) {
        self.state().taken -= 1;
    }

    /// Takes an overlay back; gives it up where the base image is another by now.
    pub(crate) fn take_back(&self, entry: Entry, made_of: &Arc<Overlay>) -> Option<Entry> {
        self.spend();
        self.put(entry, made_of)
    }

    /// Puts an overlay on the shelf; gives it back where the base image is another by now.
    fn put(&self, entry: Entry, made_of: &Arc<Overlay>) -> Option<Entry> {
        let mut state = self.state();
        match &state.image {
            Image::Good { overlay, .. } if Arc::ptr_eq(overlay, made_of) => {
                state.ready.push(entry);
                state.failures = 0;
                state.retry_at = None;
                None
            }
            _ => Some(entry),
        }
    }

    /// Takes note of the base image as it is now. Overlays of another state come back.
    pub(crate) fn renew(&self, image: &BaseImage, overlay: Overlay) -> Vec<Entry> {
        let mut state = self.state();
        let unchanged = matches!(state.image, Image::Good { identity, virtual_size, .. }
            if identity == image.identity() && virtual_size == image.virtual_size());
        if unchanged {
            return Vec::new();
        }
        state.image = Image::Good {
            identity: image.identity(),
            overlay: Arc::new(overlay),
            virtual_size: image.virtual_size(),
        };
        state.retry_at = None;
        std::mem::take(&mut state.ready)
    }

    /// Takes note that the base image can't be used. All overlays come back.
    pub(crate) fn refuse(&self, seen: Option<Identity>) -> Vec<Entry> {
        let mut state = self.state();
        state.image = Image::Bad { seen };
        std::mem::take(&mut state.ready)
    }

    /// Whether `seen` is another file than the one that was judged, good or bad.
    pub(crate) fn changed(&self, seen: Option<Identity>) -> bool {
        match self.state().image {
            Image::Good { identity, .. } => seen != Some(identity),
            Image::Bad { seen: before } => seen != before,
        }
    }

    /// Gives up all overlays.
    pub(crate) fn clear(&self) -> Vec<Entry> {
        std::mem::take(&mut self.state().ready)
    }

    /// Gives up the overlays whose file somebody removed.
    pub(crate) fn drop_vanished(&self) -> Vec<Entry> {
        self.state().ready.extract_if(.., |entry| !entry.exists()).collect()
    }

    /// How many overlays are ready; none where the base image can't be used.
    pub(crate) fn ready(&self) -> Option<usize> {
        let state = self.state();
        matches!(state.image, Image::Good { .. }).then_some(state.ready.len())
    }

    /// What there is of this base image, of which `target` overlays shall be ready.
    pub(crate) fn report(&self, target: usize) -> BaseState {
        let seen = Identity::of(&self.base.path).ok();
        let state = self.state();
        let (virtual_size, stale) = match state.image {
            Image::Good { identity, virtual_size, .. } => {
                (Some(virtual_size), seen != Some(identity))
            }
            Image::Bad { .. } => (None, false),
        };
        BaseState {
            path: self.base.path.clone(),
            format: self.base.format,
            virtual_size,
            ready: state.ready.len(),
            stale: if stale { state.ready.len() } else { 0 },
            pending: state.pending,
            target,
        }
    }

    /// Whether anything could be made for this shelf, and how many it has or is getting.
    pub(crate) fn level(&self, now: Instant, idle: Option<Duration>) -> Option<usize> {
        let state = self.state();
        let usable = matches!(state.image, Image::Good { .. })
            && state.retry_at.is_none_or(|at| at <= now)
            && state.idle_at(idle).is_none_or(|at| now < at);
        usable.then_some(state.ready.len() + state.pending)
    }

    /// Takes on one creation, where the shelf isn't full counting those under way and those that
    /// may come back.
    pub(crate) fn claim(self: &Arc<Self>, size: usize) -> Option<Claim> {
        let mut state = self.state();
        let Image::Good { overlay, .. } = &state.image else { return None };
        if state.ready.len() + state.pending + state.taken >= size {
            return None;
        }
        let overlay = Arc::clone(overlay);
        state.pending += 1;
        drop(state);
        Some(Claim { shelf: Arc::clone(self), overlay })
    }

    /// Puts the next try off, longer with each failure; says for how long.
    pub(crate) fn back_off(&self, now: Instant) -> Duration {
        let mut state = self.state();
        if let Some(at) = state.retry_at.filter(|at| *at > now) {
            return at - now; // others of the same batch have failed
        }
        let factor = 1_u32.checked_shl(state.failures).unwrap_or(u32::MAX);
        let longest = FIRST_BACKOFF.saturating_mul(factor).min(MAX_BACKOFF);
        // Half of it at random, so that pools that failed together don't try together.
        let wait = longest.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        state.failures = state.failures.saturating_add(1);
        state.retry_at = Some(now + wait);
        wait
    }

    /// When this shelf wants to be looked at again by itself: to try again what failed, or to
    /// give up what nobody uses. A base image that can't be used is no reason.
    pub(crate) fn due(&self, size: usize, now: Instant, idle: Option<Duration>) -> Option<Instant> {
        let state = self.state();
        let idle_at = state.idle_at(idle);
        let wanted = matches!(state.image, Image::Good { .. })
            && state.ready.len() < size
            && idle_at.is_none_or(|at| now < at);
        let retry = state.retry_at.filter(|_| wanted);
        let give_up = idle_at.filter(|_| !state.ready.is_empty());
        retry.into_iter().chain(give_up).min()
    }

    /// Whether nobody acquired from this shelf for `idle`.
    pub(crate) fn is_idle(&self, now: Instant, idle: Duration) -> bool {
        self.state().idle_at(Some(idle)).is_some_and(|at| at <= now)
    }
}

/// One creation that a shelf counts as under way.
#[derive(Debug)]
pub(crate) struct Claim {
    shelf: Arc<Shelf>,
    overlay: Arc<Overlay>,
}

impl Claim {
    pub(crate) fn shelf(&self) -> &Arc<Shelf> {
        &self.shelf
    }

    pub(crate) fn overlay(&self) -> &Arc<Overlay> {
        &self.overlay
    }

    /// Puts the finished overlay on the shelf; gives it back where the base image changed.
    pub(crate) fn fulfil(self, entry: Entry) -> Option<Entry> {
        self.shelf.put(entry, &self.overlay)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.shelf.state().pending -= 1;
    }
}

/// The resolved form of how a caller names a base image.
pub(crate) fn resolved(image: &BaseImage) -> BaseRef {
    BaseRef { path: PathBuf::from(image.path()), format: image.format() }
}
