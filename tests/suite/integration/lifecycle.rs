//! Rules S2 and L1 to L12 on each creator.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use overlay_pool::creator::{CreatorKind, Tools};
use overlay_pool::image::BaseRef;
use overlay_pool::{Error, PoolConfig, Source};

use crate::harness::pools::{
    assert_nothing_left, children, config, eventually_ready, pool, ready, ready_files, started,
};
use crate::harness::prelude::*;
use crate::harness::qemu;

const NEEDS: &[Need] = &[Need::QemuImg, Need::QemuIo, Need::StorageDaemon];

#[apply(test)]
async fn l1_acquire_before_start(scratch: Scratch) {
    let pool = pool(config(CreatorKind::Native, &scratch, 4));
    let target = scratch.join("vm.qcow2");
    assert!(!pool.is_started());
    let error = pool.acquire(scratch.join("base.qcow2"), &target).await.expect_err("not started");
    assert!(matches!(error, Error::NotStarted));
    assert!(error.to_string().contains("must be started"));
    assert!(!target.exists());
    assert_eq!(pool.stats().failed, 0, "only acquires on a started pool are counted");
}

#[apply(test)]
async fn l2_s2_without_a_size_only_the_creator_starts(
    scratch: Scratch,
    #[values(0, 1, -10)] max_concurrent_vms: i64,
    #[values(CreatorKind::Native, CreatorKind::StorageDaemon, CreatorKind::QemuImg)]
    creator: CreatorKind,
) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    let pool = started(config(creator, &scratch, max_concurrent_vms), &base).await;
    assert_eq!(pool.pool_size(), max_concurrent_vms / 2);
    assert_eq!(children().len(), usize::from(creator == CreatorKind::StorageDaemon));
    assert!(!scratch.join("pool").exists());
    assert!(pool.directory().is_none() && pool.stats().ready.is_empty());

    let acquired = pool.acquire(&base, scratch.join("vm.qcow2")).await.expect("on demand");
    assert_eq!(acquired.source, Source::OnDemand);
    assert!(pool.stats().ready.is_empty(), "no shelf came of it");
    pool.stop().await;
    assert_nothing_left(&scratch).await;
}

#[apply(test)]
async fn l3_empty_list_makes_the_directory_alone(scratch: Scratch) {
    let pool = pool(config(CreatorKind::Native, &scratch, 4));
    pool.start(Some(Vec::new())).await.expect("the pool starts");
    assert_eq!(ready_files(&pool), [] as [PathBuf; 0]);
    assert!(pool.stats().ready.is_empty());
    pool.stop().await;
    assert_nothing_left(&scratch).await;
}

#[apply(test)]
async fn l4_second_start_leaves_the_running_pool_alone(scratch: Scratch) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    let pool = started(config(CreatorKind::StorageDaemon, &scratch, 4), &base).await;
    assert!(pool.is_started() && pool.creator() == CreatorKind::StorageDaemon);
    let (directory, daemons) = (pool.directory(), children());
    let error = pool.start(None).await.expect_err("it is started");
    assert!(
        matches!(error, Error::AlreadyStarted) && error.to_string().contains("already started")
    );
    assert_eq!((pool.directory(), children(), ready(&pool)), (directory, daemons, 2));
    let acquired = pool.acquire(&base, scratch.join("vm.qcow2")).await.expect("it still works");
    assert_eq!(acquired.source, Source::Pooled);
}

#[apply(test)]
async fn l4_of_racing_starts_one_wins(scratch: Scratch) {
    let pool = pool(config(CreatorKind::StorageDaemon, &scratch, 4));
    let (one, other) = tokio::join!(pool.start(Some(Vec::new())), pool.start(Some(Vec::new())));
    assert!(one.is_ok() != other.is_ok());
    assert_eq!(children().len(), 1);
}

#[apply(test)]
async fn l5_l6_stop_and_start_again(
    scratch: Scratch,
    #[values(CreatorKind::Native, CreatorKind::StorageDaemon, CreatorKind::QemuImg)]
    creator: CreatorKind,
) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    let pool = pool(config(creator, &scratch, 4));
    pool.stop().await; // before any start
    for round in 0..3 {
        pool.start(Some(vec![(&base).into()])).await.expect("the pool starts");
        assert_eq!(ready(&pool), 2);
        let target = scratch.join(format!("vm-{round}.qcow2"));
        pool.acquire(&base, &target).await.expect("an overlay");
        pool.stop().await;
        pool.stop().await;
        assert_nothing_left(&scratch).await;
        qemu::check(&target); // rule L11: the caller's overlay was not touched
        let after = pool.acquire(&base, scratch.join("late.qcow2")).await;
        assert!(matches!(after, Err(Error::NotStarted)));
    }
}

#[apply(test)]
async fn l7_failed_start_leaves_nothing(
    scratch: Scratch,
    #[values(CreatorKind::StorageDaemon, CreatorKind::QemuImg)] creator: CreatorKind,
    #[values("/nonexistent/tool", "/bin/false", "/bin/cat")] program: &str,
) {
    let tools = Tools { qemu_img: program.into(), storage_daemon: program.into() };
    if creator == CreatorKind::QemuImg && program == "/bin/cat" {
        return; // cat --version succeeds, as qemu-img's does
    }
    let timeout = std::time::Duration::from_millis(300);
    let pool = pool(PoolConfig { tools, create_timeout: timeout, ..config(creator, &scratch, 4) });
    let error = pool.start(Some(Vec::new())).await.expect_err("no such creator");
    assert!(matches!(error, Error::CreatorUnavailable { .. }), "{error}");
    assert_nothing_left(&scratch).await;
    assert!(matches!(pool.acquire("b", "t").await, Err(Error::NotStarted)));
}

#[apply(test)]
async fn l7_cancelled_start_leaves_nothing(
    scratch: Scratch,
    #[values(CreatorKind::Native, CreatorKind::StorageDaemon, CreatorKind::QemuImg)]
    creator: CreatorKind,
) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    let pool = pool(config(creator, &scratch, 400));
    for millis in [0, 1, 3, 10, 30, 100] {
        let cancelled = pool.start(Some(vec![(&base).into()]));
        let cancelled = tokio::time::timeout(std::time::Duration::from_millis(millis), cancelled);
        if cancelled.await.is_ok() {
            pool.stop().await; // it was faster
        }
        eventually("the pool directory is gone", || !scratch.join("pool").exists()).await;
        assert_nothing_left(&scratch).await;
    }
    pool.start(Some(vec![(&base).into()])).await.expect("it can still be started");
    assert_eq!(ready(&pool), 200);
}

#[apply(test)]
async fn l8_without_a_directory_it_works_on_demand(scratch: Scratch) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    std::fs::write(scratch.join("pool"), "a file is in the way").expect("a file");
    let pool = started(config(CreatorKind::Native, &scratch, 4), &base).await;
    assert!(pool.directory().is_none() && pool.stats().ready.is_empty());
    let acquired = pool.acquire(&base, scratch.join("vm.qcow2")).await.expect("on demand");
    assert_eq!(acquired.source, Source::OnDemand);
    pool.stop().await;
}

#[apply(test)]
#[case::world_writable(0o777)]
#[case::group_writable(0o770)]
async fn a11_directory_that_others_can_change_is_not_trusted(scratch: Scratch, #[case] mode: u32) {
    let parent = scratch.join("pool");
    std::fs::create_dir(&parent).expect("a folder");
    std::fs::set_permissions(&parent, std::fs::Permissions::from_mode(mode)).expect("its mode");
    let pool = pool(config(CreatorKind::Native, &scratch, 4));
    pool.start(Some(Vec::new())).await.expect("it works on demand");
    assert!(pool.directory().is_none());

    let sticky = std::fs::Permissions::from_mode(mode | 0o1000);
    std::fs::set_permissions(&parent, sticky).expect("its mode");
    pool.stop().await;
    pool.start(Some(Vec::new())).await.expect("start");
    assert!(pool.directory().is_some(), "in a sticky folder nobody else can change ours");
}

#[apply(test)]
async fn l9_discovers_base_images(scratch: Scratch) {
    let images = scratch.join("images");
    std::fs::create_dir(&images).expect("a folder");
    let real = scratch.join("elsewhere.qcow2");
    qemu::base_image(&real, "64M");
    for name in ["python-3-base-x86_64.qcow2", "node-20-base-x86_64.qcow2", ".x-base-y.qcow2"] {
        std::fs::copy(&real, images.join(name)).expect("a copy");
    }
    for name in ["base.qcow2", "python-base-3.raw", "notes-base-.txt"] {
        std::fs::write(images.join(name), "no base image").expect("a file");
    }
    symlink(&real, images.join("linked-base-x86_64.qcow2")).expect("a link");
    let pool = pool(config(CreatorKind::Native, &scratch, 2));
    pool.start(None).await.expect("the pool starts");
    let bases: Vec<PathBuf> = pool.stats().ready.into_keys().collect();
    let expected = ["node-20-base-x86_64.qcow2", "python-3-base-x86_64.qcow2"];
    assert_eq!(bases, [real, images.join(expected[0]), images.join(expected[1])]);
}

#[apply(test)]
async fn l9_no_images_path_is_no_base_image(scratch: Scratch) {
    let pool = pool(config(CreatorKind::Native, &scratch, 2));
    pool.start(None).await.expect("the pool starts");
    assert!(pool.stats().ready.is_empty());
}

#[apply(test)]
async fn l10_r4_unusable_base_is_a_warning_for_that_base(scratch: Scratch) {
    let (good, bad, missing) =
        (scratch.join("good.qcow2"), scratch.join("bad.qcow2"), scratch.join("missing.qcow2"));
    qemu::base_image(&good, "64M");
    std::fs::write(&bad, "this is no image").expect("a file");
    let pool = pool(PoolConfig {
        restock_interval: std::time::Duration::ZERO,
        ..config(CreatorKind::Native, &scratch, 4)
    });
    let bases = [&good, &bad, &missing].map(BaseRef::from);
    pool.start(Some(bases.to_vec())).await.expect("the pool starts");
    assert_eq!(pool.stats().ready, [(good.clone(), 2)].into());
    for unusable in [&bad, &missing] {
        let error = pool.acquire(unusable, scratch.join("vm.qcow2")).await.expect_err("unusable");
        assert!(matches!(error, Error::Base(_)), "{error}");
        assert!(error.to_string().contains(unusable.to_str().expect("a plain path")), "{error}");
    }
    // Once they are good they are stocked, when the pool next looks.
    std::fs::copy(&good, &bad).expect("a copy");
    std::fs::copy(&good, &missing).expect("a copy");
    pool.acquire(&good, scratch.join("vm.qcow2")).await.expect("an overlay");
    eventually_ready(&pool, 6).await;
}

#[apply(test)]
async fn l11_stop_leaves_what_is_not_its_own(scratch: Scratch) {
    let pool = pool(config(CreatorKind::Native, &scratch, 4));
    pool.start(Some(Vec::new())).await.expect("the pool starts");
    let precious = pool.directory().expect("a directory").join("precious");
    std::fs::create_dir(&precious).expect("somebody's folder");
    pool.stop().await; // it can't be removed: a warning, and it is stopped
    assert!(precious.exists());
    assert!(pool.directory().is_none());
    pool.start(Some(Vec::new())).await.expect("and can be started again");
}

#[apply(test)]
async fn l11_directory_that_was_there_stays(scratch: Scratch) {
    std::fs::create_dir(scratch.join("pool")).expect("a folder");
    let pool = pool(config(CreatorKind::Native, &scratch, 4));
    pool.start(Some(Vec::new())).await.expect("the pool starts");
    pool.stop().await;
    let left = scratch.join("pool").read_dir().expect("the user's folder is still there").count();
    assert_eq!(left, 0);
}

#[apply(test)]
async fn two_pools_of_one_process_share_nothing(scratch: Scratch) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    let one = started(config(CreatorKind::Native, &scratch, 4), &base).await;
    let other = started(config(CreatorKind::Native, &scratch, 4), &base).await;
    assert_ne!(one.directory(), other.directory());
    one.stop().await;
    assert_eq!(ready_files(&other).len(), 2);
    let acquired = other.acquire(&base, scratch.join("vm.qcow2")).await.expect("an overlay");
    assert_eq!(acquired.source, Source::Pooled);
}

#[apply(test)]
async fn l12_removed_directory_is_made_again(scratch: Scratch) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    let pool = started(
        PoolConfig {
            restock_interval: std::time::Duration::ZERO,
            ..config(CreatorKind::Native, &scratch, 4)
        },
        &base,
    )
    .await;
    for round in 0..3 {
        std::fs::remove_dir_all(scratch.join("pool")).expect("removed from outside");
        let target = scratch.join(format!("vm-{round}.qcow2"));
        let acquired = pool.acquire(&base, &target).await.expect("on demand");
        assert_eq!(acquired.source, Source::OnDemand);
        eventually("the directory is back and full", || {
            ready(&pool) == 2
                && pool.directory().is_some_and(|d| d.exists())
                && ready_files(&pool).len() == 2
        })
        .await;
    }
    pool.stop().await;
    assert_nothing_left(&scratch).await;
}

#[apply(test)]
async fn dropped_without_stop_nothing_is_left(
    scratch: Scratch,
    #[values(CreatorKind::Native, CreatorKind::StorageDaemon, CreatorKind::QemuImg)]
    creator: CreatorKind,
) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    let pool = started(config(creator, &scratch, 8), &base).await;
    drop(pool);
    assert_nothing_left(&scratch).await;
}
