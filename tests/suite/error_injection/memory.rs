//! Rules A7, R3 and C2 where the kernel kills the creator for want of memory.

use std::sync::Arc;
use std::time::Duration;

use overlay_pool::creator::{CreatorKind, Tools};
use overlay_pool::{PoolConfig, Source};

use crate::harness::fake_tool::script;
use crate::harness::faults::memory::Cgroup;
use crate::harness::pools::{assert_nothing_left, config, eventually_ready, started};
use crate::harness::prelude::*;
use crate::harness::qcow2::Image;
use crate::harness::qemu;

/// Too little for QEMU's tools to start with, in bytes.
const TOO_LITTLE: u64 = 256 << 10;

#[apply(test)]
#[needs(MemoryCgroup, QemuImg, StorageDaemon)]
async fn a7_c2_r3_creator_killed_for_want_of_memory(
    // Of what was written to a disk the kernel takes memory back, and kills nobody.
    #[from(scratch_in_memory)] scratch: Scratch,
    #[values(CreatorKind::StorageDaemon, CreatorKind::QemuImg)] creator: CreatorKind,
) {
    let cgroup = Cgroup::new().expect("a cgroup");
    let limited = |program: &str| {
        let join = format!("echo $$ >'{}'", cgroup.processes().display());
        script(&scratch.join(program), &format!("{join}\nexec {program} \"$@\""))
    };
    let tools =
        Tools { qemu_img: limited("qemu-img"), storage_daemon: limited("qemu-storage-daemon") };
    let base = scratch.join("base.qcow2");
    Image::new(1 << 20).write(&base);
    let config = PoolConfig {
        tools,
        restock_interval: Duration::ZERO,
        create_timeout: Duration::from_secs(10),
        ..config(creator, &scratch, 4)
    };
    let pool = Arc::new(started(config, &base).await);
    eventually_ready(&pool, 2).await;

    cgroup.limit(Some(TOO_LITTLE)).expect("a limit");
    let (mut made, mut failed) = (0, 0);
    for round in 0..20 {
        let acquires = (0..8).map(|number| {
            let (pool, base) = (Arc::clone(&pool), base.clone());
            let target = scratch.join(format!("vm-{round}-{number}.qcow2"));
            tokio::spawn(async move { (pool.acquire(base, &target).await, target) })
        });
        for acquire in acquires.collect::<Vec<_>>() {
            let (result, target) = acquire.await.expect("no panic");
            assert_eq!(result.is_ok(), target.exists(), "{result:?}");
            match result {
                Ok(_) => {
                    made += 1;
                    qemu::check(&target);
                }
                Err(error) => {
                    failed += 1;
                    assert_eq!(error.name(), "create-failed", "{error}");
                }
            }
        }
        if cgroup.kills().expect("a number") > 1 && failed > 0 {
            break;
        }
    }
    let kills = cgroup.kills().expect("a number");
    println!("{kills} killed by the kernel, {made} overlays made, {failed} not");
    assert!(kills > 0, "memory never ran out");

    cgroup.limit(None).expect("no limit");
    eventually_ready(&pool, 2).await;
    let acquired = pool.acquire(&base, scratch.join("after.qcow2")).await.expect("an overlay");
    assert_eq!(acquired.source, Source::Pooled);
    pool.stop().await;
    assert_nothing_left(&scratch).await;
}
