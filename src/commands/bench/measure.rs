//! One creator: each acquire is measured in turns with the system calls that it can't do without,
//! so that whatever else the machine does hits both. Nothing is removed between.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use overlay_pool::creator::CreatorKind;
use overlay_pool::image::{BaseRef, Overlay};
use overlay_pool::{OverlayPool, PoolConfig, Source};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, openat, renameat_with};
use tokio::task::{JoinSet, yield_now};

use super::figures::{Figures, percentile};
use super::{Failure, failed, ground::qemu_img};

type Done = Result<(), Failure>;
/// How many tasks acquire at once, and about how often each phase runs `qemu-img create`.
const TASKS: u32 = 64;
const QEMU_IMG_ROUNDS: u32 = 20;

/// A creator, what it is measured on, and what came of it.
pub(super) struct Bench<'a> {
    pub(super) base: &'a BaseRef,
    pub(super) overlay: &'a Overlay,
    pub(super) qemu: bool,
    pub(super) kind: CreatorKind,
    pub(super) count: u32,
    pub(super) dir: &'a Path,
    pub(super) made: Vec<PathBuf>,
    pub(super) figures: Figures,
}

impl Bench<'_> {
    pub(super) async fn measure(&mut self, progress: impl Fn(&str)) -> Done {
        let count = f64::from(self.count);
        self.figures.set("overlays", count);
        progress("on demand");
        let (pool, _) = self.start(0).await?;
        self.alternate(&pool, "on_demand", Source::OnDemand).await?;
        pool.stop().await;
        progress("pooled");
        let (pool, first) = self.start(self.count).await?;
        self.alternate(&pool, "pooled", Source::Pooled).await?;
        pool.stop().await;
        progress("64 tasks");
        // Before and after the `qemu-img create`s that stocking is compared with.
        let (pool, second) = self.start(self.count).await?;
        self.figures.set("stock_us", (first + second).as_secs_f64() * 1e6 / (2.0 * count));
        self.figures.divide("stock_by_qemu_img", "stock_us", "pooled_qemu_img_p50_us");
        let took = self.many(&pool).await?.as_secs_f64();
        self.figures.set("acquires_per_s_64_tasks", count / took);
        pool.stop().await;
        let blocks = self.made[0].metadata().map_err(failed)?.blocks();
        self.figures.set("disk_kib", u32::try_from(blocks / 2).ok().map(f64::from));
        Ok(())
    }

    /// A pool with `count` overlays ready, and how long that took.
    async fn start(&self, count: u32) -> Result<(Arc<OverlayPool>, Duration), Failure> {
        let pool = Arc::new(OverlayPool::new(PoolConfig {
            max_concurrent_vms: i64::from(count) * 2,
            pool_dir: self.dir.join("pool"),
            creator: self.kind,
            restock_interval: Duration::from_secs(1 << 30),
            ..PoolConfig::default()
        })?);
        let start = Instant::now();
        pool.start(Some(vec![self.base.clone()])).await?;
        Ok((pool, start.elapsed()))
    }

    /// Acquires, each after its bare system calls and some before a `qemu-img create`.
    async fn alternate(&mut self, pool: &OverlayPool, phase: &str, wanted: Source) -> Done {
        let [mut acquired, mut bare, mut qemu] = <[Vec<Duration>; 3]>::default();
        let (dir, floor) = (self.dir.join(phase), File::open(self.dir).map_err(failed)?);
        fs::create_dir(&dir).map_err(failed)?;
        let (overlay, format) = (self.overlay, self.overlay.format().as_str());
        let options = overlay.profile().qemu_img_options();
        let options = ["create", "-q", "-f", "qcow2", "-F", format, "-o", &options, "-b"];
        for round in 0..self.count {
            let (name, base) = (format!("bare-{round}"), self.base.clone());
            let [target, renamed, beside] =
                ["", "bare-", "qemu-"].map(|by| dir.join(format!("{by}{round}")));
            let start = Instant::now();
            match wanted {
                Source::Pooled => {
                    renameat_with(&floor, &name, CWD, &renamed, RenameFlags::NOREPLACE)
                        .map_err(failed)?;
                }
                Source::OnDemand => create(&floor, &name, overlay).map_err(failed)?,
            }
            bare.push(start.elapsed());
            let start = Instant::now();
            let source = pool.acquire(base, &target).await?.source;
            acquired.push(start.elapsed());
            expect(wanted, source)?;
            self.made.push(target);
            if self.qemu && round % self.count.div_ceil(QEMU_IMG_ROUNDS) == 0 {
                let start = Instant::now();
                qemu_img(options, &[overlay.backing(), &beside]).map_err(failed)?;
                qemu.push(start.elapsed());
            }
            yield_now().await; // a signal is noticed here
        }
        let names = ["", "_bare", "_qemu_img"].map(|of| format!("{phase}{of}_p50_us"));
        self.figures.set(format!("{phase}_p99_us"), percentile(acquired.clone(), 99));
        for (name, samples) in names.iter().zip([acquired, bare, qemu]) {
            self.figures.set(name, percentile(samples, 50));
        }
        self.figures.divide(format!("{phase}_by_bare"), &names[0], &names[1]);
        self.figures.divide(format!("qemu_img_by_{phase}"), &names[2], &names[0]);
        Ok(())
    }

    /// How long [`TASKS`] tasks take together to empty the pool.
    async fn many(&mut self, pool: &Arc<OverlayPool>) -> Result<Duration, Failure> {
        let target = |number| self.dir.join(format!("many-{number}"));
        let share = |task| (task..self.count).step_by(TASKS as usize).map(target).collect();
        let shares: Vec<Vec<_>> = (0..TASKS).map(share).collect();
        self.made.extend(shares.iter().flatten().cloned());
        let (mut tasks, start) = (JoinSet::new(), Instant::now());
        for targets in shares {
            let (pool, base) = (Arc::clone(pool), self.base.clone());
            tasks.spawn(async move {
                for target in targets {
                    expect(Source::Pooled, pool.acquire(base.clone(), target).await?.source)?;
                }
                Ok(())
            });
        }
        let done: Done = tasks.join_all().await.into_iter().collect();
        done.map(|()| start.elapsed())
    }
}

fn expect(wanted: Source, source: Source) -> Done {
    let other = || failed(format!("an acquire was {source:?} instead of {wanted:?}"));
    (source == wanted).then_some(()).ok_or_else(other)
}

/// An exclusive create, the native creator's writes, its `ftruncate`.
fn create(floor: &File, name: &str, overlay: &Overlay) -> std::io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    let file: File = openat(floor, name, flags, Mode::RUSR | Mode::WUSR)?.into();
    for extent in overlay.extents() {
        file.write_all_at(&extent.bytes, extent.offset)?;
    }
    file.set_len(overlay.file_len())
}
