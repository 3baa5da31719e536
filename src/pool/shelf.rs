//! The ready overlays of one base image.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::bases::BaseState;
use super::stats::Counters;
use crate::image::{BaseImage, BaseRef, Identity, Overlay};
use crate::place::{Directory, Entry};

/// The wait after a first failed creation; it doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// What holds for all shelves of a pool.
#[derive(Debug)]
pub(super) struct Rules {
    /// How many overlays each holds.
    pub(super) size: usize,
    /// After how long without an acquire a shelf gives its overlays up.
    pub(super) idle: Option<Duration>,
    /// Nothing is kept ready. Read under a shelf's lock: once it is set and the shelf was cleared,
    /// nothing comes onto it.
    pub(super) paused: AtomicBool,
    pub(super) counters: Arc<Counters>,
}

impl Rules {
    /// Has nothing kept ready, or something again.
    pub(super) fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }
}

/// One base image's ready overlays, and what is known of the image.
#[derive(Debug)]
pub(super) struct Shelf {
    /// The base image, by its resolved path if it was ever there.
    pub(super) base: BaseRef,
    rules: Arc<Rules>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The file that was judged; none if it wasn't there.
    seen: Option<Identity>,
    /// What was found; none if the image can't be used, and nothing is made until it is another.
    image: Option<Image>,
    ready: Vec<Entry>,
    /// How many slots there are.
    slots: usize,
    failures: u32,
    retry_at: Option<Instant>,
    last_used: Instant,
}

/// A good base image.
#[derive(Debug)]
struct Image {
    virtual_size: u64,
    /// Laid out over it. Which one it is also tells one state of the image from another.
    overlay: Arc<Overlay>,
}

impl State {
    /// When the shelf will have been idle; never, if that is beyond the end of time.
    fn idle_at(&self, idle: Option<Duration>) -> Option<Instant> {
        self.last_used.checked_add(idle?)
    }
}

/// What an acquire gets from a shelf.
#[derive(Debug)]
pub(super) struct Taken {
    /// What to make if nothing was ready.
    pub(super) overlay: Arc<Overlay>,
    /// A ready overlay, and its slot.
    pub(super) ready: Option<(Slot, Entry)>,
}

impl Shelf {
    /// An empty shelf of a base image that was not judged good yet.
    pub(super) fn new(base: BaseRef, seen: Option<Identity>, rules: Arc<Rules>) -> Self {
        let state = State {
            seen,
            image: None,
            ready: Vec::new(),
            slots: 0,
            failures: 0,
            retry_at: None,
            last_used: Instant::now(),
        };
        Self { base, rules, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a ready overlay, if the base image is still the one they were made of, and `size`, if
    /// there is one, is theirs.
    pub(super) fn take(self: &Arc<Self>, seen: Identity, size: Option<u64>) -> Option<Taken> {
        let mut state = self.state();
        let overlay = Arc::clone(&state.image.as_ref()?.overlay);
        state.last_used = Instant::now();
        if state.seen != Some(seen) || size.is_some_and(|size| !overlay.is_of(size)) {
            return None;
        }
        let entry = state.ready.pop();
        let ready = entry.map(|entry| (self.slot(&mut state, &overlay), entry));
        Some(Taken { overlay, ready })
    }

    /// Takes on one creation, unless the shelf is full.
    pub(super) fn claim(self: &Arc<Self>) -> Option<Slot> {
        let mut state = self.state();
        self.lacking(&state)?;
        state.retry_at = None; // it is over
        let overlay = Arc::clone(&state.image.as_ref()?.overlay);
        Some(self.slot(&mut state, &overlay))
    }

    fn slot(self: &Arc<Self>, state: &mut State, overlay: &Arc<Overlay>) -> Slot {
        state.slots += 1;
        Slot { shelf: Arc::clone(self), overlay: Arc::clone(overlay) }
    }

    /// How many overlays the shelf has or gets, if another one is to be made for it now.
    pub(super) fn level(&self) -> Option<usize> {
        self.lacking(&self.state())
    }

    fn lacking(&self, state: &State) -> Option<usize> {
        let (now, level) = (Instant::now(), state.ready.len() + state.slots);
        let wanted = state.image.is_some()
            && level < self.rules.size
            && !self.rules.is_paused()
            && state.retry_at.is_none_or(|at| at <= now)
            && state.idle_at(self.rules.idle).is_none_or(|at| now < at);
        wanted.then_some(level)
    }

    /// Takes note of the base image as it is now. Overlays of another state are given up.
    pub(super) fn renew(&self, image: &BaseImage, overlay: Overlay) {
        let mut state = self.state();
        if state.image.is_some() && state.seen == Some(image.identity()) {
            return;
        }
        state.seen = Some(image.identity());
        let virtual_size = image.virtual_size();
        state.image = Some(Image { virtual_size, overlay: Arc::new(overlay) });
        state.retry_at = None;
        drop(state);
        self.clear("base image changed");
    }

    /// Takes note that the base image, as it was seen, can't be used. Its overlays are given up.
    pub(super) fn refuse(&self, seen: Option<Identity>) -> usize {
        let mut state = self.state();
        state.seen = seen;
        state.image = None;
        drop(state);
        self.clear("base image can't be used")
    }

    /// Whether `seen` is another file than the one that was judged, good or bad.
    pub(super) fn changed(&self, seen: Option<Identity>) -> bool {
        self.state().seen != seen
    }

    /// Gives up all overlays; says how many.
    pub(super) fn clear(&self, reason: &'static str) -> usize {
        let ready = self.take_all();
        self.discard(ready, reason)
    }

    /// Takes all overlays: the pool ends.
    pub(super) fn take_all(&self) -> Vec<Entry> {
        std::mem::take(&mut self.state().ready)
    }

    /// Gives up what nobody uses; says whether nobody does.
    pub(super) fn give_up_idle(&self) -> bool {
        let idle_at = self.state().idle_at(self.rules.idle);
        let is_idle = idle_at.is_some_and(|at| at <= Instant::now());
        if is_idle {
            self.clear("idle");
        }
        is_idle
    }

    /// Gives up what somebody removed, and what isn't in this directory.
    pub(super) fn give_up_vanished(&self, directory: Option<&Arc<Directory>>) {
        let is_gone = |entry: &mut Entry| !directory.is_some_and(|at| entry.is_in(at));
        let gone = self.state().ready.extract_if(.., is_gone).collect();
        self.discard(gone, "removed from outside");
    }

    /// Removes overlays that were ready and that nobody shall have; counts them.
    pub(super) fn discard(&self, entries: Vec<Entry>, reason: &'static str) -> usize {
        let count = entries.len();
        if count > 0 {
            self.rules.counters.add(|counts| counts.discarded += count as u64);
            tracing::info!(base = %self.base.path.display(), count, reason, "discard");
        }
        drop(entries);
        count
    }

    /// What there is of this base image.
    pub(super) fn report(&self) -> BaseState {
        let state = self.state();
        BaseState {
            base: self.base.clone(),
            virtual_size: state.image.as_ref().map(|image| image.virtual_size),
            identity: state.seen,
            ready: state.ready.len(),
            pending: state.slots,
        }
    }

    /// Puts the next try off, longer with each failure; says for how long.
    pub(super) fn back_off(&self) -> Duration {
        let (mut state, now) = (self.state(), Instant::now());
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
    /// give up what nobody uses. A base image that can't be used is no reason, but one that is gone.
    pub(super) fn due(&self) -> Option<Instant> {
        let (state, now) = (self.state(), Instant::now());
        let idle_at = state.idle_at(self.rules.idle);
        let wanted = state.image.is_some()
            && state.ready.len() < self.rules.size
            && !self.rules.is_paused()
            && idle_at.is_none_or(|at| now < at);
        let retry = state.retry_at.filter(|_| wanted);
        let give_up = idle_at.filter(|_| !state.ready.is_empty() || state.seen.is_none());
        retry.into_iter().chain(give_up).min()
    }
}

/// A place on a shelf for an overlay that is being made, or that was taken and may come back. It
/// counts for as long as it lives.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) shelf: Arc<Shelf>,
    /// What to make, or what was made.
    pub(super) overlay: Arc<Overlay>,
}

impl Slot {
    /// Puts a finished overlay on the shelf. It comes back if nothing is kept ready any more or if
    /// the base image is another by now.
    pub(super) fn put(self, entry: Entry) -> Result<(), Entry> {
        let mut state = self.shelf.state();
        let current = state.image.as_ref().map(|image| &image.overlay);
        let is_current = current.is_some_and(|overlay| Arc::ptr_eq(overlay, &self.overlay));
        if !is_current || self.shelf.rules.is_paused() {
            return Err(entry);
        }
        state.ready.push(entry);
        // What else failed in the same batch still waits for its next try.
        state.failures = 0;
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shelf.state().slots -= 1;
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::image::{Format, Profile};

    fn shelf(size: usize, idle: Option<Duration>) -> Shelf {
        let paused = AtomicBool::new(false);
        let rules = Rules { size, idle, paused, counters: Arc::default() };
        let shelf = Shelf::new(BaseRef::raw("/base.img"), None, Arc::new(rules));
        let overlay = Overlay::new("/base.img".as_ref(), Format::Raw, 512, Profile::Qemu);
        let overlay = Arc::new(overlay.expect("a short path"));
        shelf.state().image = Some(Image { virtual_size: 512, overlay });
        shelf
    }

    #[test]
    fn r3_the_wait_doubles_up_to_a_limit_and_is_half_random() {
        let shelf = shelf(1, None);
        let (mut longest, mut shorter) = (FIRST_BACKOFF, 0);
        for _ in 0..64 {
            let wait = shelf.back_off();
            assert!(wait <= longest && wait >= longest / 2, "{wait:?} of {longest:?}");
            shorter += u32::from(wait < longest * 3 / 4);
            assert!(shelf.state().retry_at.take().is_some());
            longest = (longest * 2).min(MAX_BACKOFF);
        }
        assert!((1..64).contains(&shorter), "{shorter} of 64 are in the shorter half");
    }

    #[test]
    fn r3_what_fails_while_another_try_is_due_puts_nothing_off() {
        let shelf = shelf(1, None);
        let wait = shelf.back_off();
        let retry_at = shelf.state().retry_at;
        assert!(shelf.back_off() <= wait);
        let state = shelf.state();
        assert_eq!((state.failures, state.retry_at), (1, retry_at));
    }

    #[test]
    fn r3_a_wait_that_is_over_is_followed_by_a_longer_one() {
        let shelf = shelf(1, None);
        shelf.back_off();
        shelf.state().retry_at = Some(Instant::now());
        assert!(shelf.back_off() >= FIRST_BACKOFF);
        assert_eq!(shelf.state().failures, 2);
    }

    #[rstest]
    #[case::failed(1, false, true, true)]
    #[case::of_no_size(0, false, true, false)]
    #[case::paused(1, true, true, false)]
    #[case::without_an_image(1, false, false, false)]
    fn r3_another_try_is_due_where_something_is_wanted(
        #[case] size: usize,
        #[case] paused: bool,
        #[case] has_image: bool,
        #[case] due: bool,
    ) {
        let shelf = shelf(size, None);
        assert_eq!(shelf.due(), None);
        shelf.back_off();
        shelf.rules.pause(paused);
        let retry_at = {
            let mut state = shelf.state();
            state.image = state.image.take().filter(|_| has_image);
            state.retry_at
        };
        assert_eq!(shelf.due(), retry_at.filter(|_| due));
    }

    #[test]
    fn r4_what_nobody_uses_is_not_tried_for_again() {
        let (before, hour) = (Instant::now(), Duration::from_secs(3600));
        let (used, unused) = (shelf(1, Some(hour)), shelf(1, Some(Duration::ZERO)));
        for shelf in [&used, &unused] {
            shelf.state().retry_at = Some(before);
        }
        assert_eq!((used.due(), used.level()), (Some(before), Some(0)));
        // It is missing, so that the shelf is to be given up.
        let idle_at = unused.state().last_used;
        assert_eq!((unused.due(), unused.level()), (Some(idle_at), None));
    }
}
