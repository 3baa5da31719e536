//! What can be changed and watched while a pool runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use overlay_pool::creator::{CreatorKind, Tools};
use overlay_pool::image::{BaseImage, BaseRef, Format, Identity, References};
use overlay_pool::{Error, PoolConfig, Source};

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
    let stats = pool.stats();
    assert_eq!((stats.created, stats.discarded), (6, 0), "what was never ready isn't discarded");
    assert_eq!(ready_files(&pool).len(), 4);
}

#[apply(test)]
async fn a_paused_pool_works_on_demand_until_it_is_resumed(scratch: Scratch) {
    let (one, other) = (base(&scratch, "1.qcow2"), base(&scratch, "2.qcow2"));
    let pool = pool(restocking(&scratch));
    assert!(matches!(pool.pause().await, Err(Error::NotStarted)));
    assert!(matches!(pool.resume(), Err(Error::NotStarted)));
    pool.start(Some(vec![(&one).into()])).await.expect("it starts");
    assert_eq!((ready(&pool), pool.is_paused()), (2, false));

    assert_eq!(pool.pause().await.expect("started"), 2);
    assert!(pool.is_paused());
    for name in ["1", "2"] {
        let acquired = pool.acquire(&one, scratch.join(name)).await.expect("an overlay");
        assert_eq!(acquired.source, Source::OnDemand);
    }
    assert_eq!(ready_files(&pool), [] as [PathBuf; 0]);

    pool.await_base(&other).expect("started");
    pool.await_base(scratch.join("none")).expect("a missing one is a warning");
    pool.resume().expect("started");
    eventually_ready(&pool, 4).await;
    assert_eq!((pool.is_paused(), pool.stats().discarded), (false, 2));
}

/// Also if nobody waits for its end: what is being made then is given up.
#[apply(test)]
async fn a_cancelled_pause_pauses(scratch: Scratch) {
    let (one, gate) = (base(&scratch, "1.qcow2"), Gate::new(&scratch));
    let pool = pool(gate.config());
    pool.start(Some(Vec::new())).await.expect("it starts");
    pool.add_base(&one).expect("added");
    eventually("two are being made", || pool.bases()[0].pending == 2).await;
    let paused = tokio::time::timeout(Duration::from_millis(50), pool.pause()).await;
    assert!(paused.is_err(), "what is being made is waited for");
    gate.open();
    eventually("they are given up", || pool.bases()[0].pending == 0).await;
    let stats = pool.stats();
    assert_eq!((stats.created, stats.discarded), (2, 0), "what was never ready isn't discarded");
    assert_eq!((ready(&pool), ready_files(&pool).len()), (0, 0));
}

#[apply(test)]
async fn low_space_stops_restocking_and_nothing_else(scratch: Scratch) {
    let one = base(&scratch, "1.qcow2");
    let config = PoolConfig { min_free: u64::MAX, ..restocking(&scratch) };
    let pool = started(config, &one).await;
    assert_eq!(ready(&pool), 0);
    let acquired = pool.acquire(&one, scratch.join("vm.qcow2")).await.expect("an overlay");
    assert_eq!(acquired.source, Source::OnDemand);
    assert_eq!((ready(&pool), pool.stats().created), (0, 1));
}

#[apply(test)]
async fn t2_bases_and_stats_tell_what_there_is(scratch: Scratch) {
    let raw = scratch.join("raw.img");
    std::fs::write(&raw, [0; 4096]).expect("a base image");
    let one = base(&scratch, "1.qcow2");
    let pool = pool(config(CreatorKind::Native, &scratch, 4));
    assert_eq!(pool.bases(), []);
    let bases = vec![BaseRef::raw(&raw), (&one).into(), scratch.join("none").into()];
    pool.start(Some(bases)).await.expect("it starts");
    pool.acquire(&one, scratch.join("vm.qcow2")).await.expect("an overlay");
    pool.acquire_sized(&one, scratch.join("large.qcow2"), 1 << 30).await.expect("an overlay");
    pool.acquire(scratch.join("none"), scratch.join("x.qcow2")).await.expect_err("no base");

    let identity = |path: &PathBuf| Identity::of(path).ok();
    let expected = [
        (one.clone(), Some(1 << 20), identity(&one), 1),
        (scratch.join("none"), None, None, 0),
        (raw.clone(), Some(4096), identity(&raw), 2),
    ];
    let shown = pool.bases().into_iter();
    let shown: Vec<_> = shown
        .map(|state| (state.base.path, state.virtual_size, state.identity, state.ready))
        .collect();
    assert_eq!(shown, expected);

    let stats = pool.stats();
    assert_eq!((stats.pooled, stats.on_demand, stats.failed), (1, 1, 1));
    assert_eq!((stats.created, stats.create_failed), (5, 0));
}

/// What was opened and judged is what is used: its name isn't looked up again.
#[apply(test)]
async fn a8_a_judged_base_is_not_looked_up(scratch: Scratch) {
    let one = base(&scratch, "1.qcow2");
    let pool = started(config(CreatorKind::Native, &scratch, 2), &one).await;
    let file = std::fs::File::open(&one).expect("the base");
    let image = BaseImage::judge(&file, one.clone(), Format::Qcow2, References::Deny);
    let image = image.expect("a good image");
    // What the name leads to now is no image at all.
    std::fs::rename(&one, scratch.join("moved")).expect("moved");
    std::fs::write(&one, "something else").expect("a file");
    for (name, source) in [("vm-1", Source::Pooled), ("vm-2", Source::OnDemand)] {
        let acquired = pool.acquire(image.clone(), scratch.join(name)).await.expect("an overlay");
        assert_eq!((acquired.source, &acquired.base), (source, &one));
    }
    pool.acquire(&one, scratch.join("vm-3")).await.expect_err("that is judged by its name");
}
