//! What others do to the pool's places and to base images.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::time::Duration;

use overlay_pool::creator::CreatorKind;
use overlay_pool::{PoolConfig, Source};

use crate::harness::pools::{
    assert_nothing_left, config, eventually_ready, pool, ready, ready_files, started,
};
use crate::harness::prelude::*;
use crate::harness::qemu;

fn at_once(scratch: &Path, max_concurrent_vms: i64) -> PoolConfig {
    let restock_interval = Duration::ZERO;
    PoolConfig { restock_interval, ..config(CreatorKind::Native, scratch, max_concurrent_vms) }
}

#[apply(test)]
async fn l12_directory_that_was_swapped_is_not_ours(stage: Stage) {
    let pool = started(at_once(&stage, 4), &stage.base).await;
    let ours = pool.directory().expect("a pool directory");
    std::fs::rename(&ours, stage.join("moved")).expect("moved away");
    std::fs::create_dir(&ours).expect("another in its place");
    pool.acquire(&stage.base, stage.join("vm.qcow2")).await.expect("an overlay");
    eventually("there is a new one", || pool.directory().is_some_and(|now| now != ours)).await;
    eventually_ready(&pool, 2).await;
    assert_eq!(ready_files(&pool).len(), 2);
    pool.stop().await;
    assert!(ours.is_dir(), "what others made is left");
}

/// The folder that the pool made goes with it, also where the pool directory was made twice.
#[apply(test)]
async fn l11_l12_parent_that_was_made_is_removed(stage: Stage) {
    let pool = started(at_once(&stage, 4), &stage.base).await;
    let first = pool.directory().expect("a pool directory");
    std::fs::remove_dir_all(&first).expect("removed from outside");
    pool.acquire(&stage.base, stage.join("vm.qcow2")).await.expect("on demand");
    eventually("there is a new one", || pool.directory().is_some_and(|now| now != first)).await;
    pool.stop().await;
    assert_nothing_left(&stage).await;
}

#[apply(test)]
async fn l12_only_what_was_removed_is_replaced(stage: Stage) {
    let restock_interval = Duration::from_millis(200);
    let config = PoolConfig { restock_interval, ..config(CreatorKind::Native, &stage, 12) };
    let pool = started(config, &stage.base).await;
    let inode = |path: &Path| path.metadata().expect("an overlay").ino();
    let files = ready_files(&pool);
    let (go, stay) = files.split_at(3);
    let mut sound: BTreeSet<u64> = stay.iter().map(|path| inode(path)).collect();
    for path in go {
        std::fs::remove_file(path).expect("removed from outside");
    }
    for number in 0.. {
        assert!(number < 100, "the pool never noticed");
        let target = stage.join(format!("vm-{number}.qcow2"));
        let acquired = pool.acquire(&stage.base, &target).await.expect("an overlay");
        if acquired.source == Source::OnDemand {
            break;
        }
        sound.remove(&inode(&target));
    }
    eventually("they are replaced", || ready_files(&pool).len() == 6 && ready(&pool) == 6).await;
    assert_eq!(pool.stats().discarded, 3);
    let now: BTreeSet<u64> = ready_files(&pool).iter().map(|path| inode(path)).collect();
    assert!(sound.is_subset(&now), "{sound:?} of {now:?}");
}

/// Restocking looks at every base image, not only at the one that was asked for.
#[apply(test)]
#[needs(QemuImg)]
async fn a10_base_that_nobody_asks_for_is_judged_again(stage: Stage) {
    let other = stage.another("other.qcow2", 64);
    let pool = pool(at_once(&stage, 6));
    pool.start(Some(vec![(&stage.base).into(), (&other).into()])).await.expect("the pool starts");
    assert_eq!(ready(&pool), 6);
    std::fs::remove_file(&other).expect("removed");
    stage.another("other.qcow2", 128);
    pool.acquire(&stage.base, stage.join("vm-1.qcow2")).await.expect("a ready one");
    eventually("the other's are discarded", || pool.stats().discarded == 3).await;
    eventually_ready(&pool, 6).await;
    let target = stage.join("vm-2.qcow2");
    let acquired = pool.acquire(&other, &target).await.expect("a ready one");
    assert_eq!(acquired.source, Source::Pooled);
    assert_eq!(qemu::info(&target)["virtual-size"], 128_u64 << 20);
}

/// A base image that moved is the same file, but its overlays name a path where nothing is.
#[apply(test)]
#[needs(QemuImg)]
async fn a8_base_that_moves_under_a_link(stage: Stage) {
    let [new, link] = ["new.qcow2", "link"].map(|name| stage.join(name));
    symlink(&stage.base, &link).expect("a link");
    let pool = started(config(CreatorKind::Native, &stage, 4), &link).await;
    std::fs::rename(&stage.base, &new).expect("moved");
    std::fs::remove_file(&link).expect("unlinked");
    symlink(&new, &link).expect("a link");
    let target = stage.join("vm.qcow2");
    let acquired = pool.acquire(&link, &target).await.expect("an overlay");
    assert_eq!(acquired.base, new);
    qemu::compare(&new, &target);
}
