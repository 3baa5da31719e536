//! Rules A1 to A7, A11 and A12 on each creator.

use std::collections::HashSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::Arc;
use std::time::Duration;

use overlay_pool::creator::CreatorKind;
use overlay_pool::{Error, PoolConfig, Source};

use crate::harness::pools::{assert_nothing_left, config, pool, ready, ready_files, started};
use crate::harness::prelude::*;
use crate::harness::qemu;
use crate::harness::requirements::SECOND_FILESYSTEM;

const NEEDS: &[Need] = &[Need::QemuImg, Need::QemuIo, Need::StorageDaemon];

#[apply(test)]
async fn a2_a3_a9_pooled_then_on_demand(
    scratch: Scratch,
    #[values(CreatorKind::Native, CreatorKind::StorageDaemon, CreatorKind::QemuImg)]
    creator: CreatorKind,
) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "1G");
    let before = std::fs::read(&base).expect("the base image");
    let pool = started(config(creator, &scratch, 4), &base).await;
    assert_eq!(pool.stats().ready[&base], 2);

    let mut sources = Vec::new();
    for number in 0..3 {
        let target = scratch.join(format!("vm-{number}.qcow2"));
        let acquired = pool.acquire(&base, &target).await.expect("an overlay");
        assert_eq!((&acquired.base, &acquired.target), (&base, &target));
        sources.push(acquired.source);

        qemu::check(&target);
        qemu::compare(&base, &target);
        let info = qemu::info(&target);
        assert_eq!(info["virtual-size"], 1_u64 << 30);
        assert_eq!(info["cluster-size"], 128 << 10);
        assert_eq!(info["backing-filename"], base.to_str().expect("a plain path"));
        assert_eq!(info["backing-filename-format"], "qcow2");
        let features = &info["format-specific"]["data"];
        assert_eq!(
            (&features["extended-l2"], &features["lazy-refcounts"]),
            (&true.into(), &true.into())
        );
        // Rule A11.
        assert_eq!(target.metadata().expect("the target").permissions().mode() & 0o7777, 0o600);
        // What is written is read back, and the base stays as it is.
        qemu::io(
            &target,
            &["write -q -P 0x77 4k 8k", "read -q -P 0x77 4k 8k", "read -q -P 0x5a 0 4k"],
        );
        assert!(std::fs::read(&base).expect("the base image") == before);
    }
    assert_eq!(sources, [Source::Pooled, Source::Pooled, Source::OnDemand]);
    let stats = pool.stats();
    assert_eq!((stats.ready[&base], stats.pooled, stats.on_demand), (0, 2, 1));
    assert_eq!((stats.failed, stats.discarded), (0, 0));
    pool.stop().await;
    assert_nothing_left(&scratch).await;
}

#[apply(test)]
async fn a1_existing_target_is_kept(
    scratch: Scratch,
    #[values(0, 4)] max_concurrent_vms: i64,
    #[values(CreatorKind::Native, CreatorKind::StorageDaemon, CreatorKind::QemuImg)]
    creator: CreatorKind,
) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    let target = scratch.join("vm.qcow2");
    std::fs::write(&target, "precious").expect("a file");
    let dangling = scratch.join("dangling.qcow2");
    symlink("nowhere", &dangling).expect("a link");
    let pool = pool(config(creator, &scratch, max_concurrent_vms));

    let refused = async |base: &std::path::Path, target: &std::path::Path| {
        let error = pool.acquire(base, target).await.expect_err("the target exists");
        assert!(matches!(&error, Error::AlreadyExists { target: t } if t == target), "{error}");
        assert!(error.to_string().contains("already exists"));
    };
    refused(&base, &target).await; // also before L1
    pool.start(Some(vec![(&base).into()])).await.expect("the pool starts");
    refused(&base, &target).await;
    refused(&base, &dangling).await;
    refused(&base, &scratch).await; // a directory
    refused(&scratch.join("no-such-base"), &target).await; // before the base is looked at
    assert_eq!(std::fs::read(&target).expect("the file"), b"precious");
    assert!(dangling.is_symlink() && !scratch.join("nowhere").exists());
    let stats = pool.stats();
    assert_eq!((stats.failed, stats.discarded), (4, 0));
    assert_eq!(
        i64::try_from(ready(&pool)),
        Ok(max_concurrent_vms / 2),
        "nothing was lost from the shelf"
    );
    refused(&base, "/".as_ref()).await; // without a name, maybe on another filesystem
}

#[apply(test)]
async fn a1_of_racing_acquires_one_wins(
    scratch: Scratch,
    #[values(0, 20)] max_concurrent_vms: i64,
    #[values(CreatorKind::Native, CreatorKind::StorageDaemon, CreatorKind::QemuImg)]
    creator: CreatorKind,
) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    let pool = Arc::new(started(config(creator, &scratch, max_concurrent_vms), &base).await);
    for round in 0..5 {
        let target = scratch.join(format!("vm-{round}.qcow2"));
        let race = (0..16).map(|_| {
            let (pool, base, target) = (Arc::clone(&pool), base.clone(), target.clone());
            tokio::spawn(async move { pool.acquire(base, target).await })
        });
        let mut won = 0;
        for racer in race.collect::<Vec<_>>() {
            match racer.await.expect("no panic") {
                Ok(_) => won += 1,
                Err(error) => assert!(matches!(error, Error::AlreadyExists { .. }), "{error}"),
            }
        }
        assert_eq!(won, 1);
        qemu::check(&target);
    }
    assert_eq!(pool.stats().discarded, 0);
    let left = u64::try_from(ready(&pool)).expect("few");
    assert_eq!(i64::try_from(left + pool.stats().pooled), Ok(pool.pool_size()));
}

#[apply(test)]
async fn a4_no_overlay_is_handed_out_twice(
    scratch: Scratch,
    #[values(CreatorKind::Native, CreatorKind::StorageDaemon, CreatorKind::QemuImg)]
    creator: CreatorKind,
) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    let pool = Arc::new(started(config(creator, &scratch, 20), &base).await);
    let acquires = (0..40).map(|number| {
        let (pool, base) = (Arc::clone(&pool), base.clone());
        let target = scratch.join(format!("vm-{number}.qcow2"));
        tokio::spawn(async move { pool.acquire(base, target).await })
    });
    let (mut pooled, mut inodes) = (0, HashSet::new());
    for acquire in acquires.collect::<Vec<_>>() {
        let acquired = acquire.await.expect("no panic").expect("an overlay");
        pooled += usize::from(acquired.source == Source::Pooled);
        assert!(inodes.insert(acquired.target.metadata().expect("the target").ino()));
    }
    assert_eq!((pooled, inodes.len(), ready(&pool)), (10, 40, 0));
}

#[apply(test)]
async fn a5_vanished_overlay_is_replaced_on_demand(scratch: Scratch) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    // Made one by one, so that the last is known to be the next to be handed out.
    let one_by_one = PoolConfig { max_creations: 1, ..config(CreatorKind::Native, &scratch, 8) };
    let pool = started(one_by_one, &base).await;
    let mut files = ready_files(&pool);
    files.sort();
    let last = files.pop().expect("an overlay"); // the next to be handed out
    std::fs::remove_file(last).expect("removed from outside");
    let acquired = pool.acquire(&base, scratch.join("vm-1.qcow2")).await.expect("on demand");
    assert_eq!(acquired.source, Source::OnDemand);
    assert_eq!((ready(&pool), pool.stats().discarded), (3, 1));
    let acquired = pool.acquire(&base, scratch.join("vm-2.qcow2")).await.expect("the next one");
    assert_eq!(acquired.source, Source::Pooled);
}

#[apply(test)]
async fn a6_new_base_gets_a_shelf(
    scratch: Scratch,
    #[values(CreatorKind::Native, CreatorKind::StorageDaemon, CreatorKind::QemuImg)]
    creator: CreatorKind,
) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    let config = PoolConfig { restock_interval: Duration::ZERO, ..config(creator, &scratch, 4) };
    let pool = pool(config);
    pool.start(Some(Vec::new())).await.expect("the pool starts");
    let acquired = pool.acquire(&base, scratch.join("vm-1.qcow2")).await.expect("on demand");
    assert_eq!(acquired.source, Source::OnDemand);
    eventually("the new shelf is full", || pool.stats().ready.get(&base) == Some(&2)).await;
    let acquired = pool.acquire(&base, scratch.join("vm-2.qcow2")).await.expect("a ready one");
    assert_eq!(acquired.source, Source::Pooled);
}

#[apply(test)]
async fn a7_target_that_cannot_be_made(
    scratch: Scratch,
    #[values(CreatorKind::Native, CreatorKind::StorageDaemon, CreatorKind::QemuImg)]
    creator: CreatorKind,
) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    let pool = started(config(creator, &scratch, 0), &base).await;
    let target = scratch.join("missing/vm.qcow2");
    let error = pool.acquire(&base, &target).await.expect_err("no such directory");
    assert!(matches!(error, Error::Target { .. }), "{error}");
    for part in [base.to_str(), target.to_str(), Some("No such file")] {
        assert!(error.to_string().contains(part.expect("text")), "{error}");
    }
    assert_eq!(pool.stats().failed, 1);
}

#[apply(test)]
async fn a11_modes(scratch: Scratch) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    let pool = started(config(CreatorKind::Native, &scratch, 4), &base).await;
    let mode =
        |path: &std::path::Path| path.metadata().expect("a file").permissions().mode() & 0o7777;
    assert_eq!(mode(&pool.directory().expect("a directory")), 0o700);
    for overlay in ready_files(&pool) {
        assert_eq!(mode(&overlay), 0o600);
    }
}

#[apply(test)]
async fn a12_cancelled_acquire_hands_nothing_over(
    scratch: Scratch,
    #[values(CreatorKind::Native, CreatorKind::StorageDaemon, CreatorKind::QemuImg)]
    creator: CreatorKind,
) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    let pool = started(config(creator, &scratch, 20), &base).await;
    let mut handed_over = 0;
    for number in 0..100_u64 {
        let target = scratch.join(format!("vm-{number}.qcow2"));
        let patience = Duration::from_micros(number * 97 % 9000);
        let acquired = tokio::time::timeout(patience, pool.acquire(&base, &target)).await;
        handed_over += u64::from(acquired.is_ok());
        assert_eq!(target.exists(), acquired.is_ok());
    }
    let stats = pool.stats();
    assert_eq!(stats.pooled + stats.on_demand, handed_over);
    assert_eq!(usize::try_from(stats.pooled).expect("few") + ready(&pool), 10);
    assert_eq!((stats.failed, stats.discarded), (0, 0));
    let target = scratch.join("after.qcow2");
    pool.acquire(&base, &target).await.expect("it still works");
    qemu::check(&target);
    pool.stop().await;
    assert_nothing_left(&scratch).await;
}

#[apply(test)]
#[needs(SecondFilesystem)]
async fn a5_on_another_filesystem_one_is_made_there(
    scratch: Scratch,
    #[values(CreatorKind::Native, CreatorKind::StorageDaemon, CreatorKind::QemuImg)]
    creator: CreatorKind,
) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    let elsewhere = tempfile::tempdir_in(SECOND_FILESYSTEM).expect("a folder on tmpfs");
    let pool = started(config(creator, &scratch, 8), &base).await;
    let target = elsewhere.path().join("vm.qcow2");
    let acquired = pool.acquire(&base, &target).await.expect("on demand");
    assert_eq!(acquired.source, Source::OnDemand);
    qemu::check(&target);
    assert_eq!((ready(&pool), pool.stats().discarded, ready_files(&pool).len()), (3, 1, 3));
}
