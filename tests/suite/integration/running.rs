//! What can be changed and watched while a pool runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use overlay_pool::creator::{CreatorKind, Tools};
use overlay_pool::image::BaseRef;
use overlay_pool::{Error, PoolConfig, Restocking, Source};

use crate::harness::fake_tool::waiting_qemu_img;
use crate::harness::pools::{
    assert_nothing_left, config, eventually_ready, pool, ready, ready_files, started,
};
use crate::harness::prelude::*;
use crate::harness::qcow2::Image;
use crate::harness::wait::eventually;

const NEEDS: &[Need] = &[Need::QemuImg];

fn base(scratch: &Path, name: &str) -> PathBuf {
    let base = scratch.join(name);
    Image::new(1 << 20).write(&base);
    base
}

fn restocking(scratch: &Path) -> PoolConfig {
    PoolConfig { restock_interval: Duration::ZERO, ..config(CreatorKind::Native, scratch, 4) }
}

/// Lets no creation come to its end before it is open.
struct Gate<'a>(&'a Path);

impl<'a> Gate<'a> {
    fn new(scratch: &'a Path) -> Self {
        waiting_qemu_img(scratch, &scratch.join("open"), "exec qemu-img \"$@\"");
        Self(scratch)
    }

    fn config(&self) -> PoolConfig {
        let tools = Tools { qemu_img: self.0.join("qemu-img"), ..Tools::default() };
        PoolConfig { creator: CreatorKind::QemuImg, tools, ..restocking(self.0) }
    }

    fn open(&self) {
        std::fs::write(self.0.join("open"), "").expect("a file");
    }
}

#[apply(test)]
async fn a6_an_added_base_is_stocked(scratch: Scratch) {
    let (one, other) = (base(&scratch, "1.qcow2"), base(&scratch, "2.qcow2"));
    let pool = pool(restocking(&scratch));
    assert!(matches!(pool.add_base(&one), Err(Error::NotStarted)));
    pool.start(Some(vec![(&one).into()])).await.expect("it starts");
    assert_eq!(pool.add_base(&other).expect("added"), other);
    eventually_ready(&pool, 4).await;
    assert!(matches!(pool.add_base(scratch.join("none")), Err(Error::Base(_))));
    let acquired = pool.acquire(&other, scratch.join("vm.qcow2")).await.expect("an overlay");
    assert_eq!(acquired.source, Source::Pooled);
}

/// Also where the first disk that is asked for is of another size than the ready ones.
#[apply(test)]
async fn a6_a_base_of_a_larger_disk_is_stocked(scratch: Scratch) {
    let (one, link) = (base(&scratch, "1.qcow2"), scratch.join("link"));
    std::os::unix::fs::symlink(&one, &link).expect("a link");
    let pool = pool(restocking(&scratch));
    pool.start(Some(Vec::new())).await.expect("it starts");
    for name in ["vm-1", "vm-2"] {
        let acquired = pool.acquire_sized(&link, scratch.join(name), 2 << 20).await;
        assert_eq!(acquired.expect("an overlay").source, Source::OnDemand);
    }
    eventually_ready(&pool, 2).await;
    assert_eq!(pool.stats().ready, [(one, 2)].into());
}

#[apply(test)]
async fn t2_a_removed_base_gives_its_overlays_up(scratch: Scratch) {
    let (one, other) = (base(&scratch, "1.qcow2"), base(&scratch, "2.qcow2"));
    let link = scratch.join("link");
    std::os::unix::fs::symlink(&one, &link).expect("a link");
    let pool = pool(restocking(&scratch));
    pool.start(Some(vec![(&one).into(), (&other).into()])).await.expect("it starts");
    assert_eq!(pool.remove_base(&link).expect("started"), Some(2));
    assert_eq!(pool.remove_base(&one).expect("started"), None, "it is forgotten");
    assert_eq!(pool.stats().ready, [(other.clone(), 2)].into());
    assert_eq!((pool.stats().discarded, ready_files(&pool).len()), (2, 2));
    // Asked for again, it is stocked again.
    let acquired = pool.acquire(&one, scratch.join("vm.qcow2")).await.expect("an overlay");
    assert_eq!(acquired.source, Source::OnDemand);
    eventually_ready(&pool, 4).await;
    // Gone from the disk, it can still be given up.
    std::fs::remove_file(&other).expect("removed");
    assert_eq!(pool.remove_base(&other).expect("started"), Some(2));
    pool.stop().await;
    assert!(matches!(pool.remove_base(&one), Err(Error::NotStarted)));
    assert_nothing_left(&scratch).await;
}

/// What is under way when a base image is removed is given up, and no more is made.
#[apply(test)]
async fn t2_nothing_more_is_made_of_a_removed_base(scratch: Scratch) {
    let (one, other) = (base(&scratch, "1.qcow2"), base(&scratch, "2.qcow2"));
    let gate = Gate::new(&scratch);
    let pool = pool(PoolConfig { max_concurrent_vms: 8, max_creations: 2, ..gate.config() });
    pool.start(Some(Vec::new())).await.expect("it starts");
    pool.add_base(&one).expect("added");
    eventually("two are being made", || pool.bases()[0].pending == 2).await;
    assert_eq!(pool.remove_base(&one).expect("started"), Some(0));
    gate.open();
    // Shelves are filled one round after the other: with this one full, the other's is over.
    pool.add_base(&other).expect("added");
    eventually_ready(&pool, 4).await;
    assert_eq!((pool.metrics().created.count(), pool.stats().discarded), (6, 2));
    assert_eq!(ready_files(&pool).len(), 4);
}

#[apply(test)]
async fn a_drained_pool_works_on_demand_until_it_is_rescanned(scratch: Scratch) {
    let images = scratch.join("images");
    std::fs::create_dir(&images).expect("a folder");
    let one = base(&images, "one-base-x.qcow2");
    let pool = pool(restocking(&scratch));
    assert!(matches!(pool.drain().await, Err(Error::NotStarted)));
    assert!(matches!(pool.rescan(None), Err(Error::NotStarted)));
    assert_eq!(pool.restocking(), Restocking::Off);
    pool.start(None).await.expect("it starts");
    assert_eq!((ready(&pool), pool.restocking()), (2, Restocking::On));

    assert_eq!(pool.drain().await.expect("started"), 2);
    assert_eq!(pool.restocking(), Restocking::Drained);
    for name in ["1.qcow2", "2.qcow2"] {
        let acquired = pool.acquire(&one, scratch.join(name)).await.expect("an overlay");
        assert_eq!(acquired.source, Source::OnDemand);
    }
    assert_eq!(ready_files(&pool), [] as [PathBuf; 0]);

    base(&images, "other-base-x.qcow2");
    pool.rescan(None).expect("started");
    eventually_ready(&pool, 4).await;
    assert_eq!(pool.restocking(), Restocking::On);
}

#[apply(test)]
async fn a_pool_that_is_to_end_hands_over_what_is_ready_and_restocks_no_more(scratch: Scratch) {
    let one = base(&scratch, "1.qcow2");
    let pool = started(restocking(&scratch), &one).await;
    pool.stop_restocking().await;
    let mut sources = Vec::new();
    for name in ["1", "2", "3"] {
        sources.push(pool.acquire(&one, scratch.join(name)).await.expect("an overlay").source);
    }
    assert_eq!(sources, [Source::Pooled, Source::Pooled, Source::OnDemand]);
    tokio::time::sleep(Duration::from_millis(200)).await; // many times what restocking takes
    assert_eq!((ready(&pool), pool.metrics().created.count()), (0, 3));
}

/// Also where nobody waits for the end of the drain: what is being made then is given up.
#[apply(test)]
async fn a_cancelled_drain_drains(scratch: Scratch) {
    let (one, gate) = (base(&scratch, "1.qcow2"), Gate::new(&scratch));
    let pool = pool(gate.config());
    pool.start(Some(Vec::new())).await.expect("it starts");
    pool.add_base(&one).expect("added");
    eventually("two are being made", || pool.bases()[0].pending == 2).await;
    let drained = tokio::time::timeout(Duration::from_millis(50), pool.drain()).await;
    assert!(drained.is_err(), "what is being made is waited for");
    gate.open();
    eventually("they are given up", || pool.stats().discarded == 2).await;
    assert_eq!((ready(&pool), ready_files(&pool).len()), (0, 0));
}

#[apply(test)]
async fn low_space_stops_restocking_and_nothing_else(scratch: Scratch) {
    let one = base(&scratch, "1.qcow2");
    let config = PoolConfig { min_free: u64::MAX, ..restocking(&scratch) };
    let pool = started(config, &one).await;
    assert_eq!((ready(&pool), pool.restocking()), (0, Restocking::LowSpace));
    let acquired = pool.acquire(&one, scratch.join("vm.qcow2")).await.expect("an overlay");
    assert_eq!(acquired.source, Source::OnDemand);
    let space = pool.space().expect("a directory");
    let found = rustix::fs::statvfs(&*scratch).expect("the filesystem");
    assert!(space.bytes_free > 0, "{space:?}");
    assert_eq!(space.inodes_free.is_some(), found.f_files > 0, "{space:?}");
}

#[apply(test)]
async fn t2_bases_and_metrics_tell_what_there_is(scratch: Scratch) {
    let raw = scratch.join("raw.img");
    std::fs::write(&raw, [0; 4096]).expect("a base image");
    let one = base(&scratch, "1.qcow2");
    let pool = pool(config(CreatorKind::Native, &scratch, 4));
    assert_eq!(pool.bases(), []);
    let bases = vec![BaseRef::raw(&raw), (&one).into(), scratch.join("none").into()];
    pool.start(Some(bases)).await.expect("it starts");
    pool.acquire(&one, scratch.join("vm.qcow2")).await.expect("an overlay");
    pool.acquire_open(&one, Some(1 << 30)).await.expect("an overlay");
    pool.acquire(scratch.join("none"), scratch.join("x.qcow2")).await.expect_err("no base");

    let shown: Vec<_> = pool
        .bases()
        .into_iter()
        .map(|base| (base.path, base.virtual_size, base.ready, base.stale, base.target))
        .collect();
    let expected = [
        (one.clone(), Some(1 << 20), 1, 0, 2),
        (scratch.join("none"), None, 0, 0, 2),
        (raw.clone(), Some(4096), 2, 0, 2),
    ];
    assert_eq!(shown, expected);
    // What lies ready is of another image now: shown before it is discarded.
    base(&scratch, "1.qcow2");
    std::fs::write(&raw, [1; 8192]).expect("another base image");
    let stale: Vec<_> = pool.bases().into_iter().map(|base| base.stale).collect();
    assert_eq!(stale, [1, 0, 2]);

    let metrics = pool.metrics();
    let counts =
        [&metrics.pooled, &metrics.on_demand, &metrics.created].map(overlay_pool::Histogram::count);
    assert_eq!(counts, [1, 1, 5]);
    assert_eq!((metrics.create_failed, metrics.reclaimed), (0, 0));
    assert!(metrics.created.sum() > std::time::Duration::ZERO);
}

#[apply(test)]
async fn c1_reclaimed_directories_are_counted(scratch: Scratch) {
    let one = base(&scratch, "1.qcow2");
    let dead = crate::harness::owner::Owner::start(&scratch).kill();
    assert!(dead.is_dir(), "a dead owner leaves its directory");
    let pool = started(config(CreatorKind::Native, &scratch, 4), &one).await;
    assert_eq!(pool.metrics().reclaimed, 1);
    assert!(!dead.exists());
}
