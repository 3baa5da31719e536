//! Rule C2: a storage daemon that dies or hangs is replaced.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use overlay_pool::creator::{CreatorError, CreatorKind};
use overlay_pool::{Error, PoolConfig, Source};
use rustix::process::{Signal, kill_process};

use crate::harness::pools::{assert_nothing_left, children, config, daemon, started};
use crate::harness::prelude::*;
use crate::harness::qemu;

const NEEDS: &[Need] = &[Need::StorageDaemon, Need::QemuImg];

#[apply(test)]
async fn c2_killed_daemon_is_replaced(stage: Stage) {
    let pool = started(config(CreatorKind::StorageDaemon, &stage, 2), &stage.base).await;
    for round in 0..3 {
        let killed = daemon().expect("a daemon runs");
        kill_process(killed, Signal::KILL).expect("it is killed");
        let target = stage.join(format!("vm-{round}.qcow2"));
        let acquired = pool.acquire(&stage.base, &target).await.expect("an overlay");
        let expected = if round == 0 { Source::Pooled } else { Source::OnDemand };
        assert_eq!(acquired.source, expected, "a pooled acquire never notices");
        qemu::check(&target);
        let target = stage.join(format!("vm-{round}-b.qcow2"));
        pool.acquire(&stage.base, &target).await.expect("an overlay");
        qemu::check(&target);
        assert_ne!(daemon(), Some(killed));
    }
    pool.stop().await;
    assert_nothing_left(&stage).await;
}

#[apply(test)]
async fn c2_stopped_daemon_is_replaced(stage: Stage) {
    // The next one has this time too, which is little where much else is running: then it has more.
    let replaced = async |seconds| replace_a_stopped_daemon(&stage, seconds).await;
    if let Err(error) = replaced(4).await {
        assert!(matches!(error, Error::Create { source: CreatorError::Timeout(_), .. }), "{error}");
        replaced(40).await.expect("made by the next daemon");
    }
    assert_nothing_left(&stage).await;
}

async fn replace_a_stopped_daemon(stage: &Stage, seconds: u64) -> Result<(), Error> {
    let create_timeout = Duration::from_secs(seconds);
    let config = PoolConfig { create_timeout, ..config(CreatorKind::StorageDaemon, stage, 0) };
    let pool = Arc::new(started(config, &stage.base).await);
    let stalled = daemon().expect("a daemon runs");
    kill_process(stalled, Signal::STOP).expect("it is stopped");
    // All callers wait once, not one after the other.
    let acquires = (0..20).map(|number| {
        let (pool, base) = (Arc::clone(&pool), stage.base.clone());
        let target = stage.join(format!("vm-{seconds}-{number}.qcow2"));
        tokio::spawn(async move { pool.acquire(base, target).await })
    });
    let mut result = Ok(());
    for acquire in acquires.collect::<Vec<_>>() {
        match acquire.await.expect("no panic") {
            Ok(acquired) => qemu::check(&acquired.target),
            Err(error) => result = Err(error),
        }
    }
    if result.is_ok() {
        eventually("only the next daemon runs", || {
            children().len() == 1 && daemon().is_some_and(|pid| pid != stalled)
        })
        .await;
    }
    pool.stop().await;
    result
}

#[apply(test)]
async fn c2_daemon_killed_under_load(stage: Stage) {
    let pool = Arc::new(started(config(CreatorKind::StorageDaemon, &stage, 0), &stage.base).await);
    let (mut killed, mut made) = (BTreeSet::new(), 0);
    for round in 0..5 {
        let acquires = (0..20).map(|number| {
            let (pool, base) = (Arc::clone(&pool), stage.base.clone());
            let target = stage.join(format!("vm-{round}-{number}.qcow2"));
            tokio::spawn(async move { (pool.acquire(base, &target).await, target) })
        });
        let acquires: Vec<_> = acquires.collect();
        tokio::time::sleep(Duration::from_millis(7 * (round + 1))).await;
        if let Some(pid) = daemon() {
            let _ = kill_process(pid, Signal::KILL);
            killed.insert(pid.as_raw_nonzero());
        }
        for acquire in acquires {
            // A daemon that dies under its replacement too may fail a call; never half-way.
            let (result, target) = acquire.await.expect("no panic");
            assert_eq!(result.is_ok(), target.exists());
            if result.is_ok() {
                made += 1;
                qemu::check(&target);
            }
        }
    }
    assert!(killed.len() > 1 && made > 0, "{} killed, {made} made", killed.len());
    pool.acquire(&stage.base, stage.join("after.qcow2")).await.expect("an overlay");
    pool.stop().await;
    assert_nothing_left(&stage).await;
}

/// The parent-death signal follows the thread that starts a child; threads of a runtime end.
#[apply(test)]
fn c2_daemon_outlives_the_thread_that_asked_for_it(stage: Stage) {
    let config = config(CreatorKind::StorageDaemon, &stage, 0);
    crate::harness::case::block_on(async {
        let pool = overlay_pool::OverlayPool::new(config).expect("a pool is made");
        let pool = Arc::new(pool);
        let start = {
            let pool = Arc::clone(&pool);
            let runtime = tokio::runtime::Handle::current();
            std::thread::spawn(move || runtime.block_on(pool.start(Some(Vec::new()))))
        };
        start.join().expect("no panic").expect("the pool starts");
        let before = daemon().expect("a daemon runs");
        pool.acquire(&stage.base, stage.join("vm.qcow2")).await.expect("an overlay");
        assert_eq!(daemon(), Some(before), "it was not replaced");
    });
}
