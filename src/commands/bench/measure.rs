//! One creator, measured in turns with what it is compared with.
//!
//! Every round takes one sample of each, so that whatever else the machine does hits all of them.
//! The order stays and nothing is removed between: on a journalling filesystem a sync also pays
//! for what came before it, and that shall be the same in each round.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use overlay_pool::creator::{CreatorKind, Tools};
use overlay_pool::image::{BaseRef, Overlay};
use overlay_pool::{OverlayPool, PoolConfig, Source};
use tokio::task::{JoinSet, yield_now};

use super::bare_daemon::BareDaemon;
use super::check::{Checked, check};
use super::error::BenchError;
use super::floor::Floor;
use super::machine::resident_memory;
use super::qemu_img::QemuImg;
use super::samples::{Samples, per_second};

/// How many tasks acquire at once where many do.
pub(super) const TASKS: usize = 64;
/// About how often `qemu-img create` is run beside each creator.
const QEMU_IMG_ROUNDS: usize = 20;
/// How long a restock may make no overlay at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the creators are measured on.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) base: BaseRef,
    /// What every overlay shall be.
    pub(super) overlay: Arc<Overlay>,
    pub(super) tools: Tools,
    pub(super) qemu_img: Option<QemuImg>,
}

/// What was measured of one creator.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub(super) count: usize,
    pub(super) stock: Duration,
    pub(super) pooled: Samples,
    pub(super) on_demand: Samples,
    pub(super) per_second_from_many: f64,
    pub(super) restock: Duration,
    /// What an overlay takes of the disk, in bytes.
    pub(super) disk: u64,
    /// What this process and its children take of the memory with full shelves, in bytes.
    pub(super) memory: u64,
    pub(super) beside: Beside,
    pub(super) checked: Checked,
}

/// What was measured in turns with a creator.
#[derive(Debug, Default)]
pub(super) struct Beside {
    pub(super) rename: Samples,
    pub(super) create: Samples,
    pub(super) qemu_img: Samples,
    pub(super) qmp: Samples,
}

/// Measures a creator on `count` overlays in `dir`, an empty folder.
pub(super) async fn measure(
    subject: &Subject,
    kind: CreatorKind,
    count: usize,
    dir: &Path,
    progress: impl Fn(&'static str) + Send,
) -> Result<Measured, BenchError> {
    let bench = Bench::new(subject, kind, dir)?;
    let mut measured = Measured { count, ..Measured::default() };
    progress("on demand");
    let mut made = bench.on_demand(&mut measured).await?;
    progress("pooled");
    made.extend(bench.pooled(&mut measured).await?);
    progress("checking");
    measured.checked = check(kind, &subject.overlay, &made, subject.qemu_img.as_ref()).await?;
    Ok(measured)
}

struct Bench<'a> {
    subject: &'a Subject,
    kind: CreatorKind,
    floor: Floor,
    pool_dir: PathBuf,
    targets: PathBuf,
}

impl<'a> Bench<'a> {
    fn new(subject: &'a Subject, kind: CreatorKind, dir: &Path) -> Result<Self, BenchError> {
        let (floor, targets) = (dir.join("floor"), dir.join("targets"));
        for folder in [&floor, &targets] {
            fs::create_dir(folder).map_err(BenchError::at(folder))?;
        }
        let floor = Floor::open(&floor).map_err(BenchError::at(floor))?;
        Ok(Self { subject, kind, floor, pool_dir: dir.join("pool"), targets })
    }

    /// Beside a bare create and writes, `qemu-img create`, and the daemon asked directly.
    async fn on_demand(&self, measured: &mut Measured) -> Result<Vec<PathBuf>, BenchError> {
        let Measured { count, on_demand, beside, .. } = measured;
        let program = &self.subject.tools.storage_daemon;
        let mut daemon = match self.kind {
            CreatorKind::StorageDaemon => Some(BareDaemon::start(program).await?),
            _ => None,
        };
        let pool = OverlayPool::new(self.config(0, Duration::MAX))?;
        pool.start(Some(Vec::new())).await?;
        let targets = self.targets("on-demand", *count);
        for (round, target) in targets.iter().enumerate() {
            beside.create.push(self.bare_create(round)?);
            if let Some(daemon) = &mut daemon {
                beside.qmp.push(self.bare_daemon(daemon, round)?);
            }
            on_demand.push(self.acquire(&pool, target, Source::OnDemand).await?);
            if let Some(qemu_img) = &self.subject.qemu_img
                && round % count.div_ceil(QEMU_IMG_ROUNDS) == 0
            {
                beside.qemu_img.push(self.qemu_img_create(qemu_img, round)?);
            }
            yield_now().await; // a signal is noticed here
        }
        pool.stop().await;
        Ok(targets)
    }

    /// Beside a bare rename of the overlays that the bare creates made.
    async fn pooled(&self, measured: &mut Measured) -> Result<Vec<PathBuf>, BenchError> {
        let count = measured.count;
        // Long enough for the shelf to be emptied before it is filled again.
        let interval = Duration::from_millis(250 + count as u64 / 2);
        let pool = Arc::new(OverlayPool::new(self.config(count, interval))?);
        let start = Instant::now();
        pool.start(Some(vec![self.subject.base.clone()])).await?;
        measured.stock = start.elapsed();
        if ready(&pool) != count {
            return Err(self.unmeasurable("it did not stock the pool".to_owned()));
        }
        measured.disk = self.disk(&pool)?;
        measured.memory = resident_memory().map_err(BenchError::at("/proc/self"))?;

        let mut targets = self.targets("pooled", count);
        let first = Instant::now();
        for (round, target) in targets.iter().enumerate() {
            measured.beside.rename.push(self.bare_rename(round)?);
            measured.pooled.push(self.acquire(&pool, target, Source::Pooled).await?);
            yield_now().await;
        }
        let due = Instant::now().max(first + interval);
        self.restocked(&pool, count).await?;
        measured.restock = due.elapsed();

        let more = self.targets("many", count);
        measured.per_second_from_many = self.acquire_from_many(&pool, &more).await?;
        targets.extend(more);
        pool.stop().await;
        Ok(targets)
    }

    fn config(&self, count: usize, restock_interval: Duration) -> PoolConfig {
        PoolConfig {
            max_concurrent_vms: i64::try_from(count * 2).unwrap_or(i64::MAX),
            pool_dir: self.pool_dir.clone(),
            creator: self.kind,
            tools: self.subject.tools.clone(),
            restock_interval,
            ..PoolConfig::default()
        }
    }

    fn targets(&self, name: &str, count: usize) -> Vec<PathBuf> {
        (0..count).map(|number| self.targets.join(format!("{name}-{number}.qcow2"))).collect()
    }

    async fn acquire(
        &self,
        pool: &OverlayPool,
        target: &Path,
        expected: Source,
    ) -> Result<Duration, BenchError> {
        let base = self.subject.base.clone();
        let start = Instant::now();
        let acquired = pool.acquire(base, target).await?;
        let took = start.elapsed();
        self.expect(expected, acquired.source)?;
        Ok(took)
    }

    fn expect(&self, expected: Source, source: Source) -> Result<(), BenchError> {
        if source == expected {
            return Ok(());
        }
        Err(self.unmeasurable(format!("an acquire was {source:?} instead of {expected:?}")))
    }

    /// How many acquires a second [`TASKS`] tasks make together.
    async fn acquire_from_many(
        &self,
        pool: &Arc<OverlayPool>,
        targets: &[PathBuf],
    ) -> Result<f64, BenchError> {
        let mut tasks = JoinSet::new();
        let start = Instant::now();
        for task in 0..TASKS {
            let (pool, base) = (Arc::clone(pool), self.subject.base.clone());
            let share: Vec<_> = targets.iter().skip(task).step_by(TASKS).cloned().collect();
            tasks.spawn(async move {
                let mut sources = Vec::with_capacity(share.len());
                for target in share {
                    sources.push(pool.acquire(base.clone(), target).await?.source);
                }
                Ok::<_, overlay_pool::Error>(sources)
            });
        }
        let shares = tasks.join_all().await;
        let took = start.elapsed();
        for share in shares {
            for source in share? {
                self.expect(Source::Pooled, source)?;
            }
        }
        Ok(per_second(targets.len(), took))
    }

    fn bare_create(&self, round: usize) -> Result<Duration, BenchError> {
        let name = round.to_string();
        let start = Instant::now();
        let created = self.floor.create(&name, &self.subject.overlay);
        let took = start.elapsed();
        created.map(|()| took).map_err(BenchError::at(name))
    }

    fn bare_rename(&self, round: usize) -> Result<Duration, BenchError> {
        let (name, target) = (round.to_string(), self.targets.join(format!("floor-{round}.qcow2")));
        let start = Instant::now();
        let renamed = self.floor.rename(&name, &target);
        let took = start.elapsed();
        renamed.map(|()| took).map_err(BenchError::at(target))
    }

    fn bare_daemon(&self, daemon: &mut BareDaemon, round: usize) -> Result<Duration, BenchError> {
        let target = self.targets.join(format!("bare-{round}.qcow2"));
        fs::File::create_new(&target).map_err(BenchError::at(&target))?;
        let start = Instant::now();
        daemon.create(&self.subject.overlay, &target)?;
        Ok(start.elapsed())
    }

    fn qemu_img_create(&self, qemu_img: &QemuImg, round: usize) -> Result<Duration, BenchError> {
        let target = self.targets.join(format!("qemu-img-{round}.qcow2"));
        let start = Instant::now();
        qemu_img.create(&self.subject.overlay, &target)?;
        Ok(start.elapsed())
    }

    /// What a ready overlay takes of the disk on average, in bytes.
    fn disk(&self, pool: &OverlayPool) -> Result<u64, BenchError> {
        let Some(dir) = pool.directory() else {
            return Err(self.unmeasurable("it has no pool directory".to_owned()));
        };
        let sum = || {
            let (mut files, mut sectors) = (0, 0);
            for entry in fs::read_dir(&dir)? {
                files += 1;
                sectors += entry?.metadata()?.blocks();
            }
            Ok(sectors * 512 / files.max(1))
        };
        sum().map_err(BenchError::at(&dir))
    }

    /// Waits until the pool is full again.
    async fn restocked(&self, pool: &OverlayPool, count: usize) -> Result<(), BenchError> {
        restocked(pool, count).await.map_err(|message| self.unmeasurable(message))
    }

    fn unmeasurable(&self, message: String) -> BenchError {
        BenchError::Unmeasurable { creator: self.kind.as_str(), message }
    }
}

/// How many overlays are ready.
pub(super) fn ready(pool: &OverlayPool) -> usize {
    pool.stats().ready.values().sum()
}

/// Waits until `count` overlays are ready; says where it stuck.
pub(super) async fn restocked(pool: &OverlayPool, count: usize) -> Result<(), String> {
    let (mut had, mut since) = (0, Instant::now());
    loop {
        let has = ready(pool);
        if has == count {
            return Ok(());
        }
        if has != had {
            (had, since) = (has, Instant::now());
        }
        if since.elapsed() > PATIENCE {
            return Err(format!("restocking stopped at {has} of {count} overlays"));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
