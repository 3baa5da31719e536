//! The clients of one side, and what they did.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use overlay_pool::Source;
use rustix::thread::set_current_timer_slack;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::{JoinSet, yield_now};

use super::RATE;
use super::client::Acquire;
use crate::bench::figures::{Figures, percentile};
use crate::bench::proc::cpu_time;
use crate::bench::{Error, float};

/// A machine that stands still for some milliseconds, since its host or its kernel does something
/// else, spoils the slice in which it does so, and no other.
const SLICE: Duration = Duration::from_millis(100);
/// What so many percent of the slices have at most is told. Half of them would leave out restocking,
/// which comes and goes.
const MOST: usize = 75;

/// When a client acquires again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// When it has an answer.
    Free,
    /// When it is time, at [`RATE`].
    Steady,
}

/// One acquire.
struct Sample {
    source: Source,
    began: Instant,
    took: Duration,
}

/// All acquires of one kind.
#[derive(Default)]
struct Load {
    pooled: Vec<Duration>,
    on_demand: Vec<Duration>,
    /// How long all of it took, with the removal of what was acquired.
    took: Duration,
    /// What the server's process had of the CPU meanwhile.
    cpu: Duration,
    /// The p99 of each [`SLICE`], at a steady rate.
    slices: Vec<Duration>,
}

/// What was measured of one side.
#[derive(Default)]
pub(super) struct Loads {
    /// Acquires that a ready overlay does for, each after the answer to the last.
    plain: Load,
    /// The same at [`RATE`].
    paced: Load,
    /// Acquires of a larger disk, which is never ready.
    larger: Load,
}

impl Loads {
    pub(super) fn columns(self) -> Figures {
        let mut figures = Figures::default();
        let loads = [("plain", self.plain), ("paced", self.paced), ("larger", self.larger)];
        for (name, Load { pooled, on_demand, took, cpu, slices }) in loads {
            if pooled.len() + on_demand.len() == 0 {
                continue;
            }
            let acquires = float(pooled.len() + on_demand.len());
            if !cpu.is_zero() {
                figures.set(format!("{name}_cpu_us"), cpu.as_secs_f64() * 1e6 / acquires);
            }
            figures.set(format!("{name}_acquires"), acquires);
            figures.set(format!("{name}_per_s"), acquires / took.as_secs_f64());
            figures.set(format!("{name}_pooled_percent"), 100.0 * float(pooled.len()) / acquires);
            for (source, samples) in [("pooled", pooled), ("on_demand", on_demand)] {
                let p50 = percentile(samples.clone(), 50);
                figures.set(format!("{name}_{source}_p50_us"), p50);
                figures.set(format!("{name}_{source}_p99_us"), percentile(samples, 99));
            }
            figures.set(format!("{name}_slices_p99_us"), percentile(slices, MOST));
        }
        figures
    }
}

/// All clients of one side, and what they did.
pub(super) struct Side<A> {
    pub(super) clients: Vec<A>,
    /// Where `/proc` has the server's process, if it is another.
    process: Option<PathBuf>,
    /// A folder for each client.
    folders: Vec<PathBuf>,
    rounds: usize,
    pub(super) figures: Loads,
    /// What each client acquired last in each round; the others are removed.
    pub(super) kept: Vec<PathBuf>,
    pub(super) kept_larger: Vec<PathBuf>,
}

impl<A: Acquire> Side<A> {
    pub(super) fn new(
        clients: Vec<A>,
        process: Option<PathBuf>,
        targets: &Path,
    ) -> Result<Self, Error> {
        let folders: Vec<_> =
            (0..clients.len()).map(|client| targets.join(client.to_string())).collect();
        folders.iter().try_for_each(fs::create_dir)?;
        let (kept, kept_larger) = (Vec::new(), Vec::new());
        let (rounds, figures) = (0, Loads::default());
        Ok(Self { clients, process, folders, rounds, figures, kept, kept_larger })
    }

    /// Has all clients acquire `each` overlays, at once.
    pub(super) async fn round(
        &mut self,
        pace: Pace,
        each: usize,
        size: Option<u64>,
    ) -> Result<(), Error> {
        self.rounds += 1;
        let Loads { plain, paced, larger } = &mut self.figures;
        let (load, kept) = match (size, pace) {
            (None, Pace::Free) => (plain, &mut self.kept),
            (None, Pace::Steady) => (paced, &mut self.kept),
            (Some(_), _) => (larger, &mut self.kept_larger),
        };
        let cpu = || self.process.as_deref().map_or(Ok(Duration::ZERO), cpu_time);
        let cpu_before = cpu()?;
        let mut tasks = JoinSet::new();
        let start = Instant::now();
        let mut beats = match pace {
            Pace::Free => Vec::new(),
            Pace::Steady => metronome(self.clients.len(), each)?,
        }
        .into_iter();
        for (client, folder) in self.clients.drain(..).zip(&self.folders) {
            let targets = Targets { folder: folder.clone(), round: self.rounds };
            kept.push(targets.numbered(each - 1));
            let schedule = Schedule { beats: beats.next() };
            tasks.spawn(acquire(client, schedule, targets, each, size));
        }
        let shares = tasks.join_all().await;
        load.took += start.elapsed();
        load.cpu += cpu()?.saturating_sub(cpu_before);
        let mut slices = BTreeMap::<_, Vec<_>>::new();
        for share in shares {
            let (client, samples) = share?;
            self.clients.push(client);
            for Sample { source, began, took } in samples {
                match source {
                    Source::Pooled => load.pooled.push(took),
                    Source::OnDemand => load.on_demand.push(took),
                }
                let slice = began.duration_since(start).as_nanos() / SLICE.as_nanos();
                slices.entry(slice).or_default().push(took);
            }
        }
        if pace == Pace::Steady {
            if slices.len() > 1 {
                slices.pop_last(); // which isn't whole
            }
            let p99s = slices.into_values().filter_map(|slice| percentile(slice, 99));
            load.slices.extend(p99s.map(|us| Duration::from_secs_f64(us / 1e6)));
            for (client, folder) in self.clients.iter().zip(&self.folders) {
                let targets = Targets { folder: folder.clone(), round: self.rounds };
                (0..each - 1).try_for_each(|number| client.give_back(&targets.numbered(number)))?;
            }
        }
        Ok(())
    }
}

/// Tells each of `clients` in turn that its next request is due, [`RATE`] times a second, `each` for
/// all of them. A thread does: the runtime's timers are a millisecond coarse, so that requests would
/// come ten at a time.
fn metronome(clients: usize, each: usize) -> Result<Vec<UnboundedReceiver<Instant>>, Error> {
    let (senders, receivers): (Vec<_>, _) = (0..clients).map(|_| unbounded_channel()).unzip();
    let beat = move || {
        // Which is 50 µs by default; without it, beats are late.
        let _ = set_current_timer_slack(NonZeroU64::new(1));
        let mut due = Instant::now();
        for client in senders.iter().cycle().take(clients * each) {
            due += Duration::from_secs(1) / RATE;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            // Who failed is told of by itself.
            let _ = client.send(due);
        }
    };
    thread::Builder::new().name("metronome".to_owned()).spawn(beat)?;
    Ok(receivers)
}

/// When a client's requests are due, if they are due at any time.
struct Schedule {
    beats: Option<UnboundedReceiver<Instant>>,
}

impl Schedule {
    /// Waits until a request is due, and gives when its time begins. If it is late, since the last
    /// one took long, that is when it was due.
    async fn due(&mut self) -> Instant {
        let Some(beats) = &mut self.beats else { return Instant::now() };
        if let Ok(due) = beats.try_recv() {
            return due;
        }
        beats.recv().await;
        Instant::now()
    }
}

/// Where one client acquires in one round.
struct Targets {
    folder: PathBuf,
    round: usize,
}

impl Targets {
    fn numbered(&self, number: usize) -> PathBuf {
        self.folder.join(format!("{}-{number}.qcow2", self.round))
    }
}

/// Acquires `count` overlays one after the other. If that is as fast as can be, it removes each before
/// the next; at a steady rate it has them stay, so that the clients of all sides do the same.
async fn acquire<A: Acquire>(
    mut client: A,
    mut schedule: Schedule,
    targets: Targets,
    count: usize,
    size: Option<u64>,
) -> Result<(A, Vec<Sample>), Error> {
    let mut samples = Vec::with_capacity(count);
    for number in 0..count {
        if number > 0 && schedule.beats.is_none() {
            client.give_back(&targets.numbered(number - 1))?;
        }
        let target = targets.numbered(number);
        let began = schedule.due().await;
        let source = client.acquire(&target, size).await?;
        samples.push(Sample { source, began, took: began.elapsed() });
        yield_now().await; // as after a request, where there is none
    }
    Ok((client, samples))
}
