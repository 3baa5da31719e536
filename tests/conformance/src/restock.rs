//! When shelves are filled again.

use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use serde_json::{Value, json};

use super::answers::{told, told_error};
use super::case::Format;
use super::world::{World, broken, unfit};
use crate::shim::Checked;

/// The default of `restock_interval`.
const DEFAULT: Duration = Duration::from_millis(500);
/// How much oftener one of two ways has to be the quicker one, to be it.
const LEAD: i32 = 4;
/// A turn of the runner, while it watches pauses.
const TURN: Duration = Duration::from_millis(10);
/// What is shorter, in turns, is no pause between two tries.
const SHORTEST: u32 = 3;
/// If no file is opened for so many turns, no other pause is waited for.
const SELDOM: u32 = 500;
/// How many pauses the later ones are compared with.
const FIRST: usize = 3;
/// After so many pauses that didn't grow none will.
const SAME: usize = 20;
/// One whose pauses grow opens no more files until that shows.
const MANY: usize = 120;
/// After so many comparisons without a lead neither is.
const ROUNDS: usize = 60;
/// How often `shelf_idle` is tried, each time doubled.
const DOUBLED: usize = 6;

impl World<'_> {
    /// Acquires one overlay after the other, each when the shelf is full again. With an interval no
    /// overlay is made while another is handed over, so that those in the pool directory can be counted.
    pub(super) fn acquire_steadily(
        &mut self,
        count: usize,
        base: &str,
        target: &str,
        not_sooner_than: Duration,
    ) -> Checked {
        let mut census = match not_sooner_than {
            Duration::ZERO => None,
            _ => Some(Census::begin(self)?),
        };
        for number in 0..count {
            let took = self.refill(base, target, number)?;
            if took < not_sooner_than {
                broken!("R1.1: the shelf was full again after {took:?}, not {not_sooner_than:?}");
            }
            if let Some(census) = &mut census {
                census.go_on()?;
            }
        }
        Ok(())
    }

    /// How long it takes from an acquire until the shelf is full again.
    fn refill(&mut self, base: &str, target: &str, number: usize) -> Checked<Duration> {
        let begun = Instant::now();
        let source = self.acquire_for_refill(base, target, number)?;
        if source != "pooled" {
            let id = self.broken_of(&["A2.1", "R1.2"]);
            broken!("{id}: the source of a full shelf is {source}");
        }
        if !self.await_full(base, self.port.patience)? {
            let id = self.broken_of(&["R1.2", "R2.1"]);
            broken!("{id}: the shelf isn't filled again");
        }
        Ok(begun.elapsed())
    }

    /// Gives where the overlay came from.
    fn acquire_for_refill(&mut self, base: &str, target: &str, number: usize) -> Checked<Value> {
        let (id, target) = self.begin(base, target, number)?;
        match self.answer(id)? {
            Ok(acquired) => {
                self.check_acquired(&acquired, base, &target)?;
                Ok(acquired["source"].clone())
            }
            other => broken!("A2.1: the answer is {}, not a success", told(&other)),
        }
    }

    /// Whether the shelf is full in that time.
    fn await_full(&mut self, base: &str, patience: Duration) -> Checked<bool> {
        let (size, shelf) = (self.size(), self.folder.join(base).canonicalize().map_err(unfit)?);
        let begun = Instant::now();
        while self.stats()?.ready(&shelf) != size {
            if begun.elapsed() > patience {
                return Ok(false);
            }
            sleep(Duration::from_millis(5));
        }
        Ok(true)
    }

    /// Acquires from a new pool, again while the shelf isn't idle, and looks before it is so from then
    /// on. On a slow machine it is idle later.
    pub(super) fn acquire_before_idle(&mut self, base: &str, target: &str) -> Checked {
        let Some(shortest) = self.shelf_idle_ms else {
            return Err(unfit("the case sets no shelf_idle_ms"));
        };
        for round in 0..DOUBLED {
            let idle = shortest << round;
            self.shelf_idle_ms = Some(idle);
            self.start_new_pool(base)?;
            if self.is_kept_for(Duration::from_millis(idle), base, target, 2 * round)? {
                return Ok(());
            }
            self.stop()?;
        }
        Err(unfit("the machine is too slow to acquire twice before a shelf is idle"))
    }

    /// False if it took too long to tell.
    fn is_kept_for(
        &mut self,
        idle: Duration,
        base: &str,
        target: &str,
        number: usize,
    ) -> Checked<bool> {
        let most_of_it = |begun: Instant| sleep((idle * 3 / 5).saturating_sub(begun.elapsed()));
        let first = Instant::now();
        self.acquire_for_refill(base, target, number)?;
        let is_full = self.await_full(base, idle)?;
        let before = self.stats()?;
        most_of_it(first);
        let second = Instant::now();
        self.acquire_for_refill(base, target, number + 1)?;
        let in_time = is_full && first.elapsed() < idle && self.await_full(base, idle)?;
        most_of_it(second);
        let after = self.stats()?;
        if !in_time || second.elapsed() >= idle {
            return Ok(false);
        }
        if after.counter("discarded") != before.counter("discarded") || after.total() != self.size()
        {
            broken!("R4.3: from {before:?} to {after:?}, before the shelf was idle");
        }
        Ok(true)
    }

    /// Compares an interval of 0 with the default: whatever else takes time, takes it in both.
    pub(super) fn compare_intervals(&mut self, base: &str, target: &str) -> Checked {
        let mut lead = 0;
        for round in 0..ROUNDS {
            let at_once = self.refill_at(Duration::ZERO, base, target, 2 * round)?;
            let later = self.refill_at(DEFAULT, base, target, 2 * round + 1)?;
            lead += if at_once + DEFAULT / 2 < later { 1 } else { -1 };
            if lead == LEAD {
                return Ok(());
            }
            if lead == -LEAD {
                break;
            }
        }
        broken!(
            "R2.1: shelves aren't filled sooner by an interval of 0 than by one of {DEFAULT:?}"
        );
    }

    /// How long a refill takes in a new pool of this interval.
    fn refill_at(
        &mut self,
        interval: Duration,
        base: &str,
        target: &str,
        number: usize,
    ) -> Checked<Duration> {
        self.restock_interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        self.start_new_pool(base)?;
        let took = self.refill(base, target, number)?;
        self.stop()?;
        Ok(took)
    }

    fn start_new_pool(&mut self, base: &str) -> Checked {
        self.new_pool(self.max_concurrent_vms)?;
        let bases = [self.base(base, Format::Qcow2, false)];
        if let Err(error) = self.ask("start", json!({ "bases": bases }))? {
            broken!("L6.1: {}", told_error(&error));
        }
        Ok(())
    }

    /// Watches the files that are opened in the pool directory: the pauses between them grow. Time is
    /// the runner's own turns, which come seldomer if the machine has much to do, or stands still.
    pub(super) fn expect_longer_pauses(&mut self) -> Checked {
        let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(unfit)?;
        let (open, close) = (WatchFlags::OPEN, WatchFlags::CLOSE);
        inotify::add_watch(&watch, self.file("{pool}")?, open | close).map_err(unfit)?;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&watch, &mut buffer);
        let (mut under_way, mut opened) = (0_usize, 0);
        let (mut still, mut pauses) = (0, Pauses::default());
        loop {
            match events.next() {
                Ok(event) if event.events().contains(ReadFlags::ISDIR) => {}
                Ok(event) if event.events().contains(ReadFlags::OPEN) => {
                    opened += 1;
                    under_way += 1;
                    still = 0;
                    pauses.end();
                }
                Ok(_) => under_way = under_way.saturating_sub(1),
                Err(Errno::AGAIN) => {
                    sleep(TURN);
                    still += 1;
                    pauses.lasts += u32::from(under_way == 0);
                    if still >= SELDOM || pauses.grow() {
                        return Ok(());
                    }
                    if pauses.done.len() >= SAME {
                        broken!("R3.1: the pauses don't grow: {pauses}");
                    }
                }
                Err(error) => return Err(unfit(error)),
            }
            if opened > MANY {
                broken!("R3.1: more than {MANY} files were opened, after pauses of {pauses}");
            }
        }
    }
}

/// How long nobody did anything, each time, in turns of the runner.
#[derive(Default)]
struct Pauses {
    done: Vec<u32>,
    /// The one that isn't over.
    lasts: u32,
}

impl Pauses {
    /// Between what belongs together there is next to none.
    fn end(&mut self) {
        let pause = std::mem::take(&mut self.lasts);
        if pause >= SHORTEST {
            self.done.push(pause);
        }
    }

    /// Two were twice as long as the longest of the first ones: one could be so by chance.
    fn grow(&self) -> bool {
        let Some((first, later)) = self.done.split_at_checked(FIRST) else { return false };
        let least = 2 * first.iter().max().copied().unwrap_or_default();
        let longer = later.iter().chain([&self.lasts]).filter(|pause| **pause >= least);
        longer.count() >= 2
    }
}

impl fmt::Display for Pauses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<Duration> = self.done.iter().map(|pause| TURN * *pause).collect();
        write!(f, "{all:?}")
    }
}

/// How many overlays lie in the pool directory, and how many at most.
struct Census {
    watch: OwnedFd,
    lie: usize,
    at_most: usize,
}

impl Census {
    /// Begins while all shelves are full.
    fn begin(world: &World<'_>) -> Checked<Self> {
        let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(unfit)?;
        let both = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVE;
        inotify::add_watch(&watch, world.file("{pool}")?, both).map_err(unfit)?;
        let full = world.overlays()?.len();
        Ok(Self { watch, lie: full, at_most: full })
    }

    /// Counts on.
    fn go_on(&mut self) -> Checked {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.watch, &mut buffer);
        loop {
            match events.next() {
                Ok(event) => {
                    let name = event.file_name().map_or(&[][..], |name| name.to_bytes());
                    if !name.ends_with(b".qcow2") {
                        continue;
                    }
                    if event.events().intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
                        self.lie += 1;
                    } else {
                        self.lie = self.lie.saturating_sub(1);
                    }
                    if self.lie > self.at_most {
                        broken!(
                            "R1.3: {} overlays are ready or being made, not {}",
                            self.lie,
                            self.at_most
                        );
                    }
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(unfit(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grow(done: &[u32], lasts: u32) -> bool {
        Pauses { done: done.to_vec(), lasts }.grow()
    }

    #[test]
    fn pauses_grow_if_two_are_twice_the_first_ones() {
        assert!(grow(&[10, 20, 40, 80, 160], 0) && grow(&[10, 20, 40, 80], 80));
        assert!(grow(&[100, 200, 300, 400, 500, 600], 700));
        assert!(!grow(&[10, 20, 40, 80], 79) && !grow(&[10, 20], 500));
    }

    #[test]
    fn pauses_that_stay_the_same_dont_grow_by_one_that_was_held_up() {
        assert!(!grow(&[50, 52, 51, 50, 130, 51, 50], 50));
        assert!(!grow(&[4, 50, 5, 52, 4, 51, 4, 99, 5], 50), "what lies within a try is shorter");
    }
}
