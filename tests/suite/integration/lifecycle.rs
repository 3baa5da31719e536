//! What the library's door shows of rules S2 and L1 to L12, beyond the cases of the conformance
//! suite.

use overlay_pool::creator::{CreatorKind, Tools};
use overlay_pool::image::BaseRef;
use overlay_pool::{Error, PoolConfig, Source};

use crate::harness::pools::{
    assert_nothing_left, children, config, eventually_ready, pool, ready, ready_files, started,
};
use crate::harness::prelude::*;

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

#[apply(each_creator)]
async fn l2_s2_without_a_size_only_the_creator_starts(
    scratch: Scratch,
    #[values(0, 1, -10)] max_concurrent_vms: i64,
    #[case] creator: CreatorKind,
) {
    let pool = pool(config(creator, &scratch, max_concurrent_vms));
    pool.start(None).await.expect("the pool starts");
    assert_eq!(pool.config().pool_size(), max_concurrent_vms / 2);
    assert_eq!(children().len(), usize::from(creator == CreatorKind::StorageDaemon));
    assert!(pool.directory().is_none());
    pool.stop().await;
    assert_nothing_left(&scratch).await;
}

#[apply(test)]
#[needs(StorageDaemon)]
async fn l4_second_start_leaves_the_running_pool_alone(stage: Stage) {
    let pool = started(config(CreatorKind::StorageDaemon, &stage, 4), &stage.base).await;
    assert!(pool.is_started() && pool.config().creator == CreatorKind::StorageDaemon);
    let (directory, daemons) = (pool.directory(), children());
    let error = pool.start(None).await.expect_err("it is started");
    assert!(
        matches!(error, Error::AlreadyStarted) && error.to_string().contains("already started")
    );
    assert_eq!((pool.directory(), children(), ready(&pool)), (directory, daemons, 2));
    let acquired = pool.acquire(&stage.base, stage.join("vm.qcow2")).await.expect("it still works");
    assert_eq!(acquired.source, Source::Pooled);
}

#[apply(test)]
#[needs(StorageDaemon)]
async fn l4_of_racing_starts_one_wins(scratch: Scratch) {
    let pool = pool(config(CreatorKind::StorageDaemon, &scratch, 4));
    let (one, other) = tokio::join!(pool.start(Some(Vec::new())), pool.start(Some(Vec::new())));
    assert!(one.is_ok() != other.is_ok());
    assert_eq!(children().len(), 1);
}

#[apply(test)]
#[case::no_qemu_img(CreatorKind::QemuImg, "/nonexistent/tool")]
#[case::failing_qemu_img(CreatorKind::QemuImg, "/bin/false")]
#[case::no_daemon(CreatorKind::StorageDaemon, "/nonexistent/tool")]
#[case::failing_daemon(CreatorKind::StorageDaemon, "/bin/false")]
#[case::silent_daemon(CreatorKind::StorageDaemon, "/bin/cat")]
async fn l7_failed_start_leaves_nothing(
    scratch: Scratch,
    #[case] creator: CreatorKind,
    #[case] program: &str,
) {
    let tools = Tools { qemu_img: program.into(), storage_daemon: program.into() };
    let timeout = std::time::Duration::from_millis(300);
    let pool = pool(PoolConfig { tools, create_timeout: timeout, ..config(creator, &scratch, 4) });
    let error = pool.start(Some(Vec::new())).await.expect_err("no such creator");
    assert!(matches!(error, Error::CreatorUnavailable { .. }), "{error}");
    assert_nothing_left(&scratch).await;
    assert!(matches!(pool.acquire("b", "t").await, Err(Error::NotStarted)));
}

#[apply(each_creator)]
async fn l7_cancelled_start_leaves_nothing(stage: Stage, #[case] creator: CreatorKind) {
    let pool = pool(config(creator, &stage, 400));
    let mut cancelled = 0;
    for millis in [0, 1, 3, 10, 30, 100] {
        let start = pool.start(Some(vec![(&stage.base).into()]));
        match tokio::time::timeout(std::time::Duration::from_millis(millis), start).await {
            Ok(_) => pool.stop().await, // it was faster
            Err(_) => cancelled += 1,
        }
        eventually("the pool directory is gone", || !stage.join("pool").exists()).await;
        assert_nothing_left(&stage).await;
    }
    println!("{cancelled} were cancelled");
    assert!(cancelled > 0, "none was cancelled");
    pool.start(Some(vec![(&stage.base).into()])).await.expect("it can still be started");
    assert_eq!(ready(&pool), 200);
}

#[apply(test)]
async fn l10_r4_unusable_base_is_a_warning_for_that_base(stage: Stage) {
    let good = &stage.base;
    let [bad, missing] = ["bad.qcow2", "missing.qcow2"].map(|name| stage.join(name));
    std::fs::write(&bad, "this is no image").expect("a file");
    let pool = pool(PoolConfig {
        restock_interval: std::time::Duration::ZERO,
        ..config(CreatorKind::Native, &stage, 4)
    });
    let bases = [good, &bad, &missing].map(BaseRef::from);
    pool.start(Some(bases.to_vec())).await.expect("the pool starts");
    assert_eq!(pool.stats().ready, [(good.clone(), 2)].into());
    for unusable in [&bad, &missing] {
        let error = pool.acquire(unusable, stage.join("vm.qcow2")).await.expect_err("unusable");
        assert!(matches!(error, Error::Base(_)), "{error}");
        assert!(error.to_string().contains(unusable.to_str().expect("a plain path")), "{error}");
    }
    // Once they are good they are stocked, when the pool next looks.
    std::fs::copy(good, &bad).expect("a copy");
    std::fs::copy(good, &missing).expect("a copy");
    pool.acquire(good, stage.join("vm.qcow2")).await.expect("an overlay");
    eventually_ready(&pool, 6).await;
}

#[apply(test)]
async fn l11_stop_removes_what_others_put_there_and_follows_no_link(scratch: Scratch) {
    let pool = pool(config(CreatorKind::Native, &scratch, 4));
    pool.start(Some(Vec::new())).await.expect("the pool starts");
    let folder = pool.directory().expect("a directory").join("one/other");
    std::fs::create_dir_all(&folder).expect("somebody's folders");
    std::fs::write(folder.join("file"), []).expect("somebody's file");
    let precious = scratch.join("precious");
    std::fs::create_dir(&precious).expect("a folder");
    std::fs::write(precious.join("file"), []).expect("a file");
    std::os::unix::fs::symlink(&precious, folder.join("link")).expect("a link");
    pool.stop().await;
    assert!(!scratch.join("pool").exists() && precious.join("file").exists());
    assert!(pool.directory().is_none());
    pool.start(Some(Vec::new())).await.expect("and can be started again");
}

#[apply(test)]
async fn two_pools_of_one_process_share_nothing(stage: Stage) {
    let one = started(config(CreatorKind::Native, &stage, 4), &stage.base).await;
    let other = started(config(CreatorKind::Native, &stage, 4), &stage.base).await;
    assert_ne!(one.directory(), other.directory());
    one.stop().await;
    assert_eq!(ready_files(&other).len(), 2);
    let acquired = other.acquire(&stage.base, stage.join("vm.qcow2")).await.expect("an overlay");
    assert_eq!(acquired.source, Source::Pooled);
}

#[apply(each_creator)]
async fn dropped_without_stop_nothing_is_left(stage: Stage, #[case] creator: CreatorKind) {
    let pool = started(config(creator, &stage, 8), &stage.base).await;
    drop(pool);
    assert_nothing_left(&stage).await;
}
