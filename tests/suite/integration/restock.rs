//! Rules R1, R2 and R4 on each creator.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use overlay_pool::creator::CreatorKind;
use overlay_pool::{PoolConfig, Source};

use crate::harness::pools::{config, eventually_ready, pool, ready, ready_files, started};
use crate::harness::prelude::*;
use crate::harness::qemu;

const NEEDS: &[Need] = &[Need::QemuImg, Need::QemuIo, Need::StorageDaemon];

#[apply(test)]
async fn r1_refills_after_the_interval(
    scratch: Scratch,
    #[values(CreatorKind::Native, CreatorKind::StorageDaemon, CreatorKind::QemuImg)]
    creator: CreatorKind,
) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    let restock_interval = Duration::from_millis(300);
    let pool =
        started(PoolConfig { restock_interval, ..config(creator, &scratch, 8) }, &base).await;
    let before = Instant::now();
    for number in 0..4 {
        pool.acquire(&base, scratch.join(format!("vm-{number}.qcow2"))).await.expect("an overlay");
    }
    eventually_ready(&pool, 4).await;
    assert!(before.elapsed() >= restock_interval, "it was not due yet");
    assert_eq!(ready_files(&pool).len(), 4);
    for overlay in ready_files(&pool) {
        qemu::check(&overlay);
    }
}

#[apply(test)]
async fn r1_r2_never_above_the_size(
    scratch: Scratch,
    #[values(CreatorKind::Native, CreatorKind::StorageDaemon)] creator: CreatorKind,
) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    let interval = Duration::ZERO;
    let config = PoolConfig { restock_interval: interval, ..config(creator, &scratch, 6) };
    let pool = Arc::new(started(config, &base).await);
    let busy = Arc::new(AtomicBool::new(true));
    let watcher = tokio::spawn({
        let (pool, busy) = (Arc::clone(&pool), Arc::clone(&busy));
        async move {
            let (mut most, mut most_files) = (0, 0);
            loop {
                // The last look is at the full shelf.
                let is_last = !busy.load(Ordering::Relaxed);
                most = most.max(ready(&pool));
                most_files = most_files.max(ready_files(&pool).len());
                if is_last {
                    return (most, most_files);
                }
                tokio::task::yield_now().await;
            }
        }
    });
    for number in 0..200 {
        pool.acquire(&base, scratch.join(format!("vm-{number}.qcow2"))).await.expect("an overlay");
    }
    eventually_ready(&pool, 3).await;
    busy.store(false, Ordering::Relaxed);
    let (most, most_files) = watcher.await.expect("no panic");
    assert_eq!(most, 3);
    assert!(most_files <= 4, "{most_files} files: the shelf, and the one that is handed over");
}

#[apply(test)]
async fn r1_every_shelf_is_filled(scratch: Scratch) {
    let bases: Vec<_> = (0..5).map(|number| scratch.join(format!("base-{number}.qcow2"))).collect();
    for base in &bases {
        qemu::base_image(base, "64M");
    }
    let pool = pool(PoolConfig {
        restock_interval: Duration::ZERO,
        ..config(CreatorKind::StorageDaemon, &scratch, 10)
    });
    pool.start(Some(bases.iter().map(Into::into).collect())).await.expect("the pool starts");
    assert!(pool.stats().ready.values().all(|count| *count == 5));
    for (number, base) in bases.iter().enumerate() {
        pool.acquire(base, scratch.join(format!("vm-{number}.qcow2"))).await.expect("an overlay");
    }
    eventually_ready(&pool, 25).await;
    assert!(pool.stats().ready.values().all(|count| *count == 5));
}

#[apply(test)]
async fn r4_idle_shelf_gives_its_overlays_up(scratch: Scratch) {
    let (busy, idle) = (scratch.join("busy.qcow2"), scratch.join("idle.qcow2"));
    qemu::base_image(&busy, "64M");
    qemu::base_image(&idle, "64M");
    let pool = pool(PoolConfig {
        shelf_idle: Some(Duration::from_millis(400)),
        restock_interval: Duration::ZERO,
        ..config(CreatorKind::Native, &scratch, 4)
    });
    pool.start(Some(vec![(&busy).into(), (&idle).into()])).await.expect("the pool starts");
    let mut number = 0;
    while pool.stats().ready[&idle] > 0 {
        number += 1;
        assert!(number < 2000, "it never gave them up");
        pool.acquire(&busy, scratch.join(format!("vm-{number}.qcow2"))).await.expect("an overlay");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(pool.stats().discarded, 2);
    // Asked for again, it is stocked again.
    let acquired = pool.acquire(&idle, scratch.join("idle-vm.qcow2")).await.expect("an overlay");
    assert_eq!(acquired.source, Source::OnDemand);
    eventually("the shelf is full again", || pool.stats().ready[&idle] == 2).await;
}

#[apply(test)]
async fn r4_without_any_acquire_idle_shelves_empty_themselves(scratch: Scratch) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    let shelf_idle = Some(Duration::from_millis(50));
    let config = PoolConfig { shelf_idle, ..config(CreatorKind::Native, &scratch, 4) };
    let pool = started(config, &base).await;
    eventually_ready(&pool, 0).await;
    assert!(ready_files(&pool).is_empty());
}

#[apply(test)]
async fn l12_overlays_removed_from_outside_are_replaced(scratch: Scratch) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    let restock_interval = Duration::ZERO;
    let config = PoolConfig { restock_interval, ..config(CreatorKind::Native, &scratch, 8) };
    let pool = started(config, &base).await;
    for overlay in ready_files(&pool) {
        std::fs::remove_file(overlay).expect("removed from outside");
    }
    pool.acquire(&base, scratch.join("vm.qcow2")).await.expect("on demand");
    eventually("all are replaced", || ready_files(&pool).len() == 4 && ready(&pool) == 4).await;
    assert_eq!(pool.stats().discarded, 4);
}

/// The longest times there are mean never, and overflow nothing.
#[apply(test)]
async fn r1_r4_durations_without_end(scratch: Scratch) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    let config = PoolConfig {
        restock_interval: Duration::MAX,
        shelf_idle: Some(Duration::MAX),
        create_timeout: Duration::MAX,
        ..config(CreatorKind::StorageDaemon, &scratch, 4)
    };
    let pool = started(config, &base).await;
    for number in 0..3 {
        pool.acquire(&base, scratch.join(format!("vm-{number}.qcow2"))).await.expect("an overlay");
    }
    assert_eq!((ready(&pool), pool.stats().on_demand), (0, 1));
    pool.stop().await;
    pool.start(Some(vec![(&base).into()])).await.expect("it starts again");
    assert_eq!(ready(&pool), 2);
}
