//! A server under load, in turns with the same load on a pool in this process.

mod client;
mod process;
mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use overlay_pool::api::Source;
use overlay_pool::creator::CreatorKind;
use overlay_pool::image::Overlay;
use overlay_pool::{OverlayPool, PoolConfig};
use tokio::task::{JoinSet, yield_now};
use tokio::time::sleep_until;

use self::client::{Acquire, Caller};
use self::process::Server;
pub(super) use self::report::Report;
use super::check::{Checked, check};
use super::error::BenchError;
use super::machine::Resident;
use super::measure::{Subject, TASKS, restocked};
use super::samples::Samples;

/// How many overlays are acquired of each side by default.
pub(super) const COUNT: u32 = 200_000;
/// How often the sides take turns.
const ROUNDS: usize = 5;
/// How often progress is told.
pub(super) const STEPS: u64 = 2 * ROUNDS as u64 + 5;
/// How many overlays each side has ready at most: about what is acquired in the time that
/// restocking begins after.
const READY: usize = 10_000;
/// At which rate all clients together acquire where they don't do so as fast as they can.
pub(super) const RATE: u32 = 10_000;
/// So many acquires as fast as can be are made for one at that rate.
const PLAIN_TO_PACED: usize = 4;
/// So many acquires of a disk like the base image's are made for one of a larger disk.
const PLAIN_TO_LARGER: usize = 10;

/// What was measured.
#[derive(Debug)]
pub(super) struct Measured {
    /// How many overlays each side had ready at most.
    ready: usize,
    server: Figures,
    in_process: Figures,
    memory: Memory,
    /// What an acquire as fast as can be costs the server on any core, with the creation of the
    /// next overlay.
    cpu: Duration,
    checked: Checked,
}

/// What was measured of one side.
#[derive(Debug, Default)]
struct Figures {
    /// Acquires that a ready overlay does for, each after the answer to the last.
    plain: Load,
    /// The same at [`RATE`].
    paced: Load,
    /// Acquires of a larger disk, which is never ready.
    larger: Load,
}

/// Acquires by all clients at once.
#[derive(Debug, Default)]
struct Load {
    pooled: Samples,
    on_demand: Samples,
    /// How long all of it took, with the removal of what was acquired.
    took: Duration,
}

/// The resident memory of the server in bytes.
#[derive(Debug)]
struct Memory {
    /// With a full pool, before the clients came.
    start: u64,
    /// After the first round.
    early: u64,
    end: u64,
    most: u64,
}

/// Measures about `count` acquires of each side in `dir`, an empty folder.
pub(super) async fn measure(
    subject: &Subject,
    count: usize,
    dir: &Path,
    progress: impl Fn(&'static str) + Send,
) -> Result<Measured, BenchError> {
    let each = count.div_ceil(ROUNDS * TASKS);
    let ready = (each * TASKS * ROUNDS).min(READY);
    let [server_dir, server_targets, targets] =
        ["server", "server-targets", "targets"].map(|name| dir.join(name));
    for folder in [&server_dir, &server_targets, &targets] {
        fs::create_dir(folder).map_err(BenchError::at(folder))?;
    }

    progress("stocking");
    let server = Server::start(&server_dir, &server_targets, &subject.base, ready).await?;
    let start = server.resident()?.now;
    let mut watch = server.client().await?;
    let mut clients = Vec::new();
    for _ in 0..TASKS {
        clients.push(server.client().await?);
    }
    let mut served = Side::new(clients, &server_targets)?;
    let pool = start_pool(subject, ready, dir.join("pool")).await?;
    let caller = || Caller { pool: Arc::clone(&pool), base: subject.base.clone() };
    let mut called = Side::new((0..TASKS).map(|_| caller()).collect(), &targets)?;

    let (mut early, cpu) = (start, server.cpu_time()?);
    for round in 0..ROUNDS {
        progress("served");
        served.round(Pace::Free, each, None).await?;
        if round == 0 {
            early = server.resident()?.now;
        }
        server.restocked(&mut watch, ready).await?;
        progress("in process");
        called.round(Pace::Free, each, None).await?;
        restocked(&pool, ready).await.map_err(unmeasurable)?;
    }
    let cpu = server.cpu_time()?.saturating_sub(cpu);
    let acquires = u32::try_from(each * TASKS * ROUNDS).unwrap_or(u32::MAX);
    progress("at a steady rate");
    let paced = each.div_ceil(PLAIN_TO_PACED);
    for _ in 0..ROUNDS {
        served.round(Pace::Steady, paced, None).await?;
        server.restocked(&mut watch, ready).await?;
        called.round(Pace::Steady, paced, None).await?;
        restocked(&pool, ready).await.map_err(unmeasurable)?;
    }
    progress("on demand");
    let size = subject.overlay.virtual_size() + (1 << 20);
    let each = each.div_ceil(PLAIN_TO_LARGER);
    for _ in 0..ROUNDS {
        served.round(Pace::Free, each, Some(size)).await?;
        called.round(Pace::Free, each, Some(size)).await?;
    }
    let Resident { now: end, most } = server.resident()?;

    progress("checking");
    let larger = larger(&subject.overlay, size)?;
    let mut checked = Checked::default();
    for (kept, expected) in [
        (&served.kept, &*subject.overlay),
        (&called.kept, &*subject.overlay),
        (&served.kept_larger, &larger),
        (&called.kept_larger, &larger),
    ] {
        let qemu_img = subject.qemu_img.as_ref();
        checked += check(CreatorKind::Native, expected, kept, qemu_img).await?;
    }
    progress("removing");
    drop((served.clients, watch));
    server.stop().await?;
    pool.stop().await;
    Ok(Measured {
        ready,
        server: served.figures,
        in_process: called.figures,
        memory: Memory { start, early, end, most },
        cpu: cpu / acquires,
        checked,
    })
}

/// When a client acquires again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// When it has an answer.
    Free,
    /// When it is time, at [`RATE`].
    Steady,
}

/// All clients of one side, and what they did.
#[derive(Debug)]
struct Side<A> {
    clients: Vec<A>,
    /// A folder for each client.
    folders: Vec<PathBuf>,
    rounds: usize,
    figures: Figures,
    /// What each client acquired last in each round; the others are removed.
    kept: Vec<PathBuf>,
    kept_larger: Vec<PathBuf>,
}

impl<A: Acquire> Side<A> {
    fn new(clients: Vec<A>, targets: &Path) -> Result<Self, BenchError> {
        let folders: Vec<_> =
            (0..clients.len()).map(|client| targets.join(client.to_string())).collect();
        for folder in &folders {
            fs::create_dir(folder).map_err(BenchError::at(folder))?;
        }
        Ok(Self {
            clients,
            folders,
            rounds: 0,
            figures: Figures::default(),
            kept: Vec::new(),
            kept_larger: Vec::new(),
        })
    }

    /// Has all clients acquire `each` overlays, at once.
    async fn round(
        &mut self,
        pace: Pace,
        each: usize,
        size: Option<u64>,
    ) -> Result<(), BenchError> {
        self.rounds += 1;
        let Figures { plain, paced, larger } = &mut self.figures;
        let (load, kept) = match (size, pace) {
            (None, Pace::Free) => (plain, &mut self.kept),
            (None, Pace::Steady) => (paced, &mut self.kept),
            (Some(_), _) => (larger, &mut self.kept_larger),
        };
        let mut tasks = JoinSet::new();
        let start = Instant::now();
        let mut first = start;
        for (client, folder) in self.clients.drain(..).zip(&self.folders) {
            let target = folder.join(format!("{}.qcow2", self.rounds));
            kept.push(target.clone());
            let schedule = Schedule { next: (pace == Pace::Steady).then_some(first) };
            first += Duration::from_secs(1) / RATE;
            tasks.spawn(acquire(client, schedule, target, each, size));
        }
        let shares = tasks.join_all().await;
        load.took += start.elapsed();
        for share in shares {
            let (client, samples) = share?;
            self.clients.push(client);
            for (source, took) in samples {
                match source {
                    Source::Pooled => load.pooled.push(took),
                    Source::OnDemand => load.on_demand.push(took),
                }
            }
        }
        Ok(())
    }
}

/// When a client's requests are due, where they are due at any time.
#[derive(Debug)]
struct Schedule {
    next: Option<Instant>,
}

impl Schedule {
    /// Waits until a request is due. Gives when its time begins: where it is late, since the last
    /// one took long, when it was due.
    async fn due(&mut self) -> Instant {
        let Some(due) = self.next else { return Instant::now() };
        self.next = Some(due + Duration::from_secs(TASKS as u64) / RATE);
        if due < Instant::now() {
            return due;
        }
        sleep_until(due.into()).await;
        Instant::now()
    }
}

/// Acquires `count` overlays one after the other, and removes all but the last.
async fn acquire<A: Acquire>(
    mut client: A,
    mut schedule: Schedule,
    target: PathBuf,
    count: usize,
    size: Option<u64>,
) -> Result<(A, Vec<(Source, Duration)>), BenchError> {
    let mut samples = Vec::with_capacity(count);
    for number in 0..count {
        if number > 0 {
            fs::remove_file(&target).map_err(BenchError::at(&target))?;
        }
        let start = schedule.due().await;
        let source = client.acquire(&target, size).await?;
        samples.push((source, start.elapsed()));
        yield_now().await; // as after a request, where there is none
    }
    Ok((client, samples))
}

/// A pool like the server's.
async fn start_pool(
    subject: &Subject,
    ready: usize,
    pool_dir: PathBuf,
) -> Result<Arc<OverlayPool>, BenchError> {
    let pool = Arc::new(OverlayPool::new(PoolConfig {
        max_concurrent_vms: i64::try_from(2 * ready).unwrap_or(i64::MAX),
        pool_dir,
        creator: CreatorKind::Native,
        ..PoolConfig::default()
    })?);
    pool.start(Some(vec![subject.base.clone()])).await?;
    restocked(&pool, ready).await.map_err(unmeasurable)?;
    Ok(pool)
}

/// What the overlays of a larger disk shall be.
fn larger(overlay: &Overlay, size: u64) -> Result<Overlay, BenchError> {
    let larger = Overlay::new(overlay.backing(), overlay.format(), size, overlay.profile());
    larger.map_err(|error| unmeasurable(error.to_string()))
}

fn unmeasurable(message: String) -> BenchError {
    BenchError::Unmeasurable { creator: CreatorKind::Native.as_str(), message }
}
