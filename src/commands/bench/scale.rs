//! A pool with very many ready overlays, in turns with a small one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use overlay_pool::creator::CreatorKind;
use overlay_pool::{OverlayPool, PoolConfig, Source};
use tokio::task::yield_now;

use super::check::{Checked, check};
use super::error::BenchError;
use super::machine::resident_memory;
use super::measure::{Subject, ready, restocked};
use super::samples::Samples;

/// How many overlays the small pool has ready.
pub(super) const SMALL: usize = 100;
/// How often both are emptied by that many and filled again.
const ROUNDS: usize = 10;
/// Longer than a round takes, so that no overlay is made while one is acquired.
const RESTOCK_INTERVAL: Duration = Duration::from_millis(300);

/// What was measured of a large pool.
#[derive(Debug)]
pub(super) struct Scale {
    pub(super) ready: usize,
    pub(super) stock: Duration,
    /// Acquires from the small pool and from the large one.
    pub(super) small: Samples,
    pub(super) large: Samples,
    /// By how much this process grew for the large pool, in bytes.
    pub(super) memory: u64,
    pub(super) checked: Checked,
}

/// Measures a pool with `count` ready overlays in `dir`, an empty folder.
pub(super) async fn measure(
    subject: &Subject,
    count: usize,
    dir: &Path,
    progress: impl Fn(&'static str) + Send,
) -> Result<Scale, BenchError> {
    let targets = dir.join("targets");
    fs::create_dir(&targets).map_err(BenchError::at(&targets))?;
    let bench = Bench { subject, pool_dir: dir.join("pool"), targets };
    progress("stocking");
    let small = bench.start(SMALL).await?;
    let memory = || resident_memory().map_err(BenchError::at("/proc/self"));
    let (before, start) = (memory()?, Instant::now());
    let large = bench.start(count).await?;
    let (stock, memory) = (start.elapsed(), memory()?.saturating_sub(before));

    progress("pooled");
    let (mut from_small, mut from_large) = (Samples::default(), Samples::default());
    let mut made = Vec::new();
    for _ in 0..ROUNDS {
        for _ in 0..SMALL.min(count) {
            for (pool, samples) in [(&small, &mut from_small), (&large, &mut from_large)] {
                let target = bench.targets.join(format!("{}.qcow2", made.len()));
                samples.push(bench.acquire(pool, &target).await?);
                made.push(target);
            }
            yield_now().await;
        }
        for (pool, count) in [(&small, SMALL), (&large, count)] {
            restocked(pool, count).await.map_err(unmeasurable)?;
        }
    }
    progress("checking");
    let qemu_img = subject.qemu_img.as_ref();
    let checked = check(CreatorKind::Native, &subject.overlay, &made, qemu_img).await?;
    progress("removing");
    small.stop().await;
    large.stop().await;
    Ok(Scale { ready: count, stock, small: from_small, large: from_large, memory, checked })
}

struct Bench<'a> {
    subject: &'a Subject,
    pool_dir: PathBuf,
    targets: PathBuf,
}

impl Bench<'_> {
    async fn start(&self, count: usize) -> Result<OverlayPool, BenchError> {
        let pool = OverlayPool::new(PoolConfig {
            max_concurrent_vms: i64::try_from(count * 2).unwrap_or(i64::MAX),
            pool_dir: self.pool_dir.clone(),
            creator: CreatorKind::Native,
            restock_interval: RESTOCK_INTERVAL,
            ..PoolConfig::default()
        })?;
        pool.start(Some(vec![self.subject.base.clone()])).await?;
        match ready(&pool) {
            has if has == count => Ok(pool),
            has => Err(unmeasurable(format!("only {has} of {count} overlays were made"))),
        }
    }

    async fn acquire(&self, pool: &OverlayPool, target: &Path) -> Result<Duration, BenchError> {
        let base = self.subject.base.clone();
        let start = Instant::now();
        let acquired = pool.acquire(base, target).await?;
        let took = start.elapsed();
        match acquired.source {
            Source::Pooled => Ok(took),
            Source::OnDemand => Err(unmeasurable("an acquire was not pooled".to_owned())),
        }
    }
}

fn unmeasurable(message: String) -> BenchError {
    BenchError::Unmeasurable { creator: CreatorKind::Native.as_str(), message }
}
