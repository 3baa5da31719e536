//! Rules A7, R3 and C2 with tools that fail, hang, or talk nonsense.

use std::path::Path;
use std::time::Duration;

use overlay_pool::creator::{CreatorKind, Tools};
use overlay_pool::{Error, PoolConfig, Source};

use crate::harness::fake_tool::script;
use crate::harness::pools::{
    assert_nothing_left, children, config, eventually_ready, pool, ready, ready_files,
};
use crate::harness::prelude::*;

/// A pool whose `qemu-img` is a script: answers `--version`, else runs `body`.
fn with_qemu_img(scratch: &Path, size: i64, body: &str) -> PoolConfig {
    let version = "case $1 in --version) exit 0;; esac";
    let qemu_img = script(&scratch.join("fake-qemu-img"), &format!("{version}\n{body}"));
    PoolConfig {
        tools: Tools { qemu_img, ..Tools::default() },
        create_timeout: Duration::from_millis(500),
        ..config(CreatorKind::QemuImg, scratch, size)
    }
}

#[apply(test)]
async fn a7_failing_creator_is_named_with_its_cause(stage: Stage) {
    let config = with_qemu_img(&stage, 0, "echo partial >&0; echo 'qemu-img: no luck' >&2; exit 3");
    let pool = pool(config);
    pool.start(Some(Vec::new())).await.expect("the pool starts");
    let target = stage.join("vm.qcow2");
    let error = pool.acquire(&stage.base, &target).await.expect_err("it fails");
    let text = error.to_string().replace(stage.to_str().expect("a plain path"), "[DIR]");
    insta::assert_snapshot!(text, @"target [DIR]/vm.qcow2: can't make an overlay of [DIR]/base.qcow2: qemu-img failed (exit status: 3): no luck");
    assert!(!target.exists(), "no partial file is left");
    let stats = pool.stats();
    assert_eq!((stats.failed, stats.created, stats.create_failed), (1, 0, 1));
}

#[apply(test)]
async fn a7_hanging_creator_is_killed_and_reaped(stage: Stage) {
    let pool = pool(with_qemu_img(&stage, 0, "exec sleep 1000"));
    pool.start(Some(Vec::new())).await.expect("the pool starts");
    let target = stage.join("vm.qcow2");
    let error = pool.acquire(&stage.base, &target).await.expect_err("it hangs");
    assert!(error.to_string().contains("no answer within"), "{error}");
    assert!(!target.exists());
    eventually("the process is gone", || children().is_empty()).await;
}

#[apply(test)]
async fn a12_cancelled_creator_is_killed_and_reaped(stage: Stage) {
    let slow = PoolConfig {
        create_timeout: Duration::from_secs(1000),
        ..with_qemu_img(&stage, 0, "exec sleep 1000")
    };
    let pool = pool(slow);
    pool.start(Some(Vec::new())).await.expect("the pool starts");
    let target = stage.join("vm.qcow2");
    let acquire =
        tokio::time::timeout(Duration::from_millis(100), pool.acquire(&stage.base, &target));
    acquire.await.expect_err("it hangs");
    assert!(!target.exists());
    eventually("the process is gone", || children().is_empty()).await;
}

#[apply(test)]
#[needs(QemuImg)]
async fn r3_failing_creator_is_retried(
    stage: Stage,
    #[values(None, Some(Duration::from_secs(3600)))] shelf_idle: Option<Duration>,
) {
    // Fails for as long as there is a file named "broken".
    let broken = stage.join("broken");
    std::fs::write(&broken, "").expect("a file");
    let body = format!("[ -e '{}' ] && exit 1; exec qemu-img \"$@\"", broken.display());
    let create_timeout = Duration::from_secs(10);
    let config = PoolConfig { create_timeout, shelf_idle, ..with_qemu_img(&stage, 8, &body) };
    let pool = pool(config);
    pool.start(Some(vec![(&stage.base).into()])).await.expect("failing to stock is a warning");
    assert_eq!(ready(&pool), 0);
    let error = pool.acquire(&stage.base, stage.join("vm-1.qcow2")).await.expect_err("it fails");
    assert!(matches!(error, Error::Create { .. }), "{error}");
    eventually("what failed is removed", || ready_files(&pool).is_empty()).await;

    std::fs::remove_file(&broken).expect("repaired");
    eventually_ready(&pool, 4).await; // without another acquire
    let acquired = pool.acquire(&stage.base, stage.join("vm-2.qcow2")).await.expect("an overlay");
    assert_eq!(acquired.source, Source::Pooled);
    pool.stop().await;
    assert_nothing_left(&stage).await;
}

#[apply(test)]
#[needs(QemuImg)]
async fn r3_pool_serves_while_restocking_fails(stage: Stage) {
    let broken = stage.join("broken");
    let body = format!("[ -e '{}' ] && exit 1; exec qemu-img \"$@\"", broken.display());
    let config = PoolConfig {
        restock_interval: Duration::ZERO,
        create_timeout: Duration::from_secs(10),
        ..with_qemu_img(&stage, 8, &body)
    };
    let pool = pool(config);
    pool.start(Some(vec![(&stage.base).into()])).await.expect("the pool starts");
    std::fs::write(&broken, "").expect("a file");
    for number in 0..4 {
        let target = stage.join(format!("vm-{number}.qcow2"));
        let acquired = pool.acquire(&stage.base, &target).await.expect("a ready one");
        assert_eq!(acquired.source, Source::Pooled);
    }
    assert!(pool.acquire(&stage.base, stage.join("vm-4.qcow2")).await.is_err());
    assert_eq!(ready(&pool), 0);
    eventually("what failed is removed", || ready_files(&pool).is_empty()).await;
}

#[apply(test)]
#[case::silent("exec sleep 1000")]
#[case::nonsense("echo hello >&0; exec sleep 1000")]
#[case::other_json("echo '{\"hello\": 1}' >&0; exec sleep 1000")]
#[case::endless_line("exec tr '\\0' x < /dev/zero >&0")]
#[case::deaf("echo '{\"QMP\": {}}' >&0; exec sleep 1000")]
#[case::refuses(
    "echo '{\"QMP\": {}}' >&0; read line; echo '{\"id\": 1, \"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}' >&0; exec sleep 1000"
)]
async fn c2_what_is_no_daemon_is_an_error_in_bounded_time(scratch: Scratch, #[case] body: &str) {
    let storage_daemon = script(&scratch.join("fake-daemon"), body);
    let pool = pool(PoolConfig {
        tools: Tools { storage_daemon, ..Tools::default() },
        create_timeout: Duration::from_millis(500),
        ..config(CreatorKind::StorageDaemon, &scratch, 4)
    });
    let error = pool.start(Some(Vec::new())).await.expect_err("no daemon");
    assert!(matches!(error, Error::CreatorUnavailable { .. }), "{error}");
    assert_nothing_left(&scratch).await;
}

#[apply(test)]
async fn c2_a_daemon_that_dies_is_quoted(scratch: Scratch) {
    let body = "echo 'out of cheese' >&2; exit 1";
    let storage_daemon = script(&scratch.join("fake-daemon"), body);
    let tools = Tools { storage_daemon, ..Tools::default() };
    let pool = pool(PoolConfig { tools, ..config(CreatorKind::StorageDaemon, &scratch, 4) });
    let error = pool.start(Some(Vec::new())).await.expect_err("no daemon");
    assert!(matches!(error, Error::CreatorUnavailable { .. }), "{error}");
    assert!(error.to_string().contains("out of cheese"), "{error}");
    assert_nothing_left(&scratch).await;
}
