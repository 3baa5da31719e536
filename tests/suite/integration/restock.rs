//! What the library's door shows of rules R1, R2 and R4, beyond the cases of the conformance suite.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use overlay_pool::creator::CreatorKind;
use overlay_pool::{PoolConfig, Source};

use crate::harness::pools::{config, eventually_ready, pool, ready, ready_files, started};
use crate::harness::prelude::*;

#[apply(test)]
#[case::native(CreatorKind::Native)]
#[needs(StorageDaemon)]
#[case::storage_daemon(CreatorKind::StorageDaemon)]
async fn r1_r2_never_above_the_size(stage: Stage, #[case] creator: CreatorKind) {
    let interval = Duration::ZERO;
    let config = PoolConfig { restock_interval: interval, ..config(creator, &stage, 6) };
    let pool = Arc::new(started(config, &stage.base).await);
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
        pool.acquire(&stage.base, stage.join(format!("vm-{number}.qcow2")))
            .await
            .expect("an overlay");
    }
    eventually_ready(&pool, 3).await;
    busy.store(false, Ordering::Relaxed);
    let (most, most_files) = watcher.await.expect("no panic");
    assert_eq!(most, 3);
    assert!(most_files <= 4, "{most_files} files: the shelf, and the one that is handed over");
}

/// On another thread a restock may look at the shelf while its last overlay is on the way.
#[apply(test)]
async fn r1_a_place_that_becomes_free_is_filled(stage: Stage) {
    let config =
        PoolConfig { restock_interval: Duration::ZERO, ..config(CreatorKind::Native, &stage, 4) };
    let pool = started(config, &stage.base).await;
    for number in 0..500 {
        let target = stage.join(format!("vm-{number}.qcow2"));
        pool.acquire(&stage.base, &target).await.expect("an overlay");
        eventually_ready(&pool, 2).await;
        std::fs::remove_file(target).expect("it is there");
    }
}

/// One ready overlay that is gone has the pool look at the others.
#[apply(test)]
async fn a5_what_vanished_is_found_at_the_next_restock(stage: Stage) {
    let config =
        PoolConfig { restock_interval: Duration::ZERO, ..config(CreatorKind::Native, &stage, 8) };
    let pool = started(config, &stage.base).await;
    for file in ready_files(&pool) {
        std::fs::remove_file(file).expect("it can be removed");
    }
    let acquired = pool.acquire(&stage.base, stage.join("vm.qcow2")).await.expect("an overlay");
    assert_eq!(acquired.source, Source::OnDemand);
    eventually("all four are known to be gone", || pool.stats().discarded == 4).await;
    eventually("the shelf is full again", || ready_files(&pool).len() == 4).await;
}

#[apply(test)]
async fn r4_idle_shelf_gives_its_overlays_up(stage: Stage) {
    let (busy, idle) = (&stage.base, stage.another("idle.qcow2", 64));
    let pool = pool(PoolConfig {
        shelf_idle: Some(Duration::from_millis(400)),
        restock_interval: Duration::ZERO,
        ..config(CreatorKind::Native, &stage, 4)
    });
    pool.start(Some(vec![busy.into(), (&idle).into()])).await.expect("the pool starts");
    // Beside much else they are stocked late: until then both are asked for what isn't kept ready.
    let mut asked = 0;
    let before = loop {
        let stats = pool.stats();
        if stats.ready[&idle] == 2 {
            break stats.discarded;
        }
        for base in [busy, &idle] {
            asked += 1;
            let target = stage.join(format!("larger-{asked}.qcow2"));
            pool.acquire_sized(base, target, 1 << 30).await.expect("an overlay");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let mut number = 0;
    while pool.stats().ready[&idle] > 0 {
        number += 1;
        assert!(number < 2000, "it never gave them up");
        pool.acquire(busy, stage.join(format!("vm-{number}.qcow2"))).await.expect("an overlay");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    eventually("both are counted", || pool.stats().discarded == before + 2).await;
    // Asked for again, it is stocked again.
    let acquired = pool.acquire(&idle, stage.join("idle-vm.qcow2")).await.expect("an overlay");
    assert_eq!(acquired.source, Source::OnDemand);
    eventually("the shelf is full again", || pool.stats().ready[&idle] == 2).await;
}

/// The longest times there are mean never, and overflow nothing.
#[apply(test)]
#[needs(StorageDaemon)]
async fn r1_r4_durations_without_end(stage: Stage) {
    let config = PoolConfig {
        restock_interval: Duration::MAX,
        shelf_idle: Some(Duration::MAX),
        create_timeout: Duration::MAX,
        ..config(CreatorKind::StorageDaemon, &stage, 4)
    };
    let pool = started(config, &stage.base).await;
    for number in 0..3 {
        pool.acquire(&stage.base, stage.join(format!("vm-{number}.qcow2")))
            .await
            .expect("an overlay");
    }
    assert_eq!((ready(&pool), pool.stats().on_demand), (0, 1));
    pool.stop().await;
    pool.start(Some(vec![(&stage.base).into()])).await.expect("it starts again");
    assert_eq!(ready(&pool), 2);
}
