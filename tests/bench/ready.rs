//! A pool with very many ready overlays, in turns with a small one.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Parser;
use overlay_pool::{OverlayPool, PoolConfig, Source};
use tokio::task::yield_now;

use super::figures::{Figures, Row, percentile};
use super::proc::resident;
use super::{Bench, Error, Ground, Measured, Options, acquire, float, ground};

/// How many overlays the small pool has ready.
const SMALL: usize = 100;
/// After so many acquires the small pool is filled again.
const ROUND: usize = 10;
/// With fewer, what else the process does shows in its memory.
const JUDGED_FROM: usize = 10_000;

/// Measure acquires from a pool with many ready overlays, in turns with one that has 100.
#[derive(Debug, Parser)]
pub(super) struct Ready {
    #[command(flatten)]
    options: Options,
    /// How many overlays are ready; each takes 12 KiB of the disk.
    #[arg(long = "ready", value_name = "N", default_value_t = 100_000)]
    large: usize,
    /// How many to acquire from each pool; few beside those that are ready.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    count: usize,
}

impl Bench for Ready {
    const ROWS: &[Row] = &[
        ("ready", "overlays ready", None),
        ("acquires", "acquires", None),
        ("pooled_p50_us", "pooled acquire p50, µs", None),
        ("large_by_small", "  large ÷ small", Some(("large", '≤', 1.5))),
        ("pooled_p99_us", "pooled acquire p99, µs", None),
        ("stock_us", "stocking an overlay, mean, µs", None),
        ("memory_bytes", "memory of a ready overlay, bytes", Some(("large", '≤', 300.0))),
    ];

    fn options(&self) -> &Options {
        &self.options
    }

    async fn measure(self, ground: Ground) -> Result<Measured, Error> {
        let targets = ground.folder("targets")?;
        let memory = || resident(Path::new("/proc/self")).map(|resident| resident.now);
        ground.progress("stocking");
        let (before, start) = (memory()?, Instant::now());
        let large = start_pool(&ground, "large", self.large).await?;
        let (took, grown) = (start.elapsed(), (memory()? - before).max(0.0));

        ground.progress("acquiring");
        let (mut from_small, mut from_large, mut made) = (Vec::new(), Vec::new(), Vec::new());
        while from_large.len() < self.count {
            let small = start_pool(&ground, "small", SMALL).await?;
            for _ in 0..ROUND.min(self.count - from_large.len()) {
                for (pool, samples) in [(&small, &mut from_small), (&large, &mut from_large)] {
                    let target = targets.join(made.len().to_string());
                    samples.push(acquire(pool, &ground.base, &target, Source::Pooled).await?);
                    made.push(target);
                }
                yield_now().await; // a signal is noticed here
            }
            small.stop().await;
        }
        ground.progress("checking");
        ground::check(&made, &ground.overlay, true, ground.qemu)?;
        ground.progress("removing");
        large.stop().await;

        let small = column(SMALL, from_small);
        let mut large = column(self.large, from_large);
        large.set("stock_us", took.as_secs_f64() * 1e6 / float(self.large));
        large.set("memory_bytes", grown / float(self.large));
        let ratio = large.0["pooled_p50_us"] / small.0["pooled_p50_us"];
        large.set("large_by_small", ratio);
        let few = (self.large < JUDGED_FROM).then(|| format!("fewer than {JUDGED_FROM} ready"));
        Ok(Measured {
            what: "Acquires from a large pool and a small one, alternately.".to_owned(),
            columns: [("small", small), ("large", large)].into(),
            sound: made.len(),
            unless: ground.not_a_disk().or(few),
        })
    }
}

fn column(ready: usize, samples: Vec<Duration>) -> Figures {
    let mut figures = Figures::default();
    figures.set("ready", float(ready));
    figures.set("acquires", float(samples.len()));
    figures.set("pooled_p50_us", percentile(samples.clone(), 50));
    figures.set("pooled_p99_us", percentile(samples, 99));
    figures
}

/// A pool that makes no overlay while one is acquired.
async fn start_pool(ground: &Ground, name: &str, count: usize) -> Result<OverlayPool, Error> {
    let pool = OverlayPool::new(PoolConfig {
        max_concurrent_vms: i64::try_from(count * 2)?,
        pool_dir: ground.dir.join(name),
        restock_interval: Duration::from_secs(1 << 30),
        ..PoolConfig::default()
    })?;
    pool.start(Some(vec![ground.base.clone()])).await?;
    match pool.stats().ready.values().sum::<usize>() {
        has if has == count => Ok(pool),
        has => Err(format!("only {has} of {count} overlays were made").into()),
    }
}
