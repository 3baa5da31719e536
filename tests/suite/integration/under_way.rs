//! What happens while an overlay is being made: a `qemu-img` that waits makes it last.

use std::path::Path;
use std::time::Duration;

use overlay_pool::creator::{CreatorKind, Tools};
use overlay_pool::{Error, PoolConfig, Source};

use crate::harness::fake_tool::script;
use crate::harness::pools::{config, eventually_ready, pool, ready, started};
use crate::harness::prelude::*;
use crate::harness::qemu;

const NEEDS: &[Need] = &[Need::QemuImg];

/// A pool of `max_concurrent_vms` whose `qemu-img` runs `body` before it makes an overlay.
fn with_body(scratch: &Path, max_concurrent_vms: i64, body: &str) -> PoolConfig {
    let body = format!("if [ \"$1\" = create ]; then\n{body}\nfi\nexec qemu-img \"$@\"");
    let qemu_img = script(&scratch.join("qemu-img"), &body);
    PoolConfig {
        tools: Tools { qemu_img, ..Tools::default() },
        restock_interval: Duration::ZERO,
        ..config(CreatorKind::QemuImg, scratch, max_concurrent_vms)
    }
}

#[apply(test)]
async fn a1_target_that_appears_meanwhile_exists(stage: Stage) {
    let target = stage.join("vm.qcow2");
    let config = with_body(&stage, 0, &format!("echo another >'{}'", target.display()));
    let pool = started(config, &stage.base).await;
    let error = pool.acquire(&stage.base, &target).await.expect_err("somebody else was first");
    assert!(matches!(error, Error::AlreadyExists { .. }), "{error}");
    assert_eq!(std::fs::read(&target).expect("theirs"), b"another\n");
}

/// An overlay that is finished when its base is no longer what it was is never handed out.
#[apply(test)]
async fn a10_base_that_changes_meanwhile(stage: Stage) {
    // The first creation after `hold` appears waits for `go`.
    let [hold, held, go] = ["hold", "held", "go"].map(|name| stage.join(name));
    let body = format!(
        "if [ -e '{}' ] && mkdir '{}' 2>/dev/null; then until [ -e '{}' ]; do sleep 0.01; done; fi",
        hold.display(),
        held.display(),
        go.display()
    );
    let pool = started(with_body(&stage, 2, &body), &stage.base).await;
    std::fs::write(&hold, []).expect("a file");
    pool.acquire(&stage.base, stage.join("vm-1.qcow2")).await.expect("a ready one");
    eventually("its successor is being made", || held.exists()).await;

    stage.another("base.qcow2", 128);
    let acquired = pool.acquire(&stage.base, stage.join("vm-2.qcow2")).await.expect("a new one");
    assert_eq!(acquired.source, Source::OnDemand);
    std::fs::write(&go, []).expect("a file");
    eventually_ready(&pool, 1).await;
    assert_eq!(pool.stats().discarded, 0, "T2: the old base's was never ready");
    let target = stage.join("vm-3.qcow2");
    let acquired = pool.acquire(&stage.base, &target).await.expect("a ready one");
    assert_eq!(acquired.source, Source::Pooled);
    assert_eq!(qemu::info(&target)["virtual-size"], 128_u64 << 20);
}

/// A program that the pool runs can reach the one file that it shall fill, and nothing else.
#[apply(test)]
async fn programs_get_no_other_descriptor(stage: Stage) {
    let list = stage.join("descriptors");
    let body = format!("readlink /proc/self/fd/* >>'{}'", list.display());
    let pool = started(with_body(&stage, 4, &body), &stage.base).await;
    pool.acquire(&stage.base, stage.join("vm.qcow2")).await.expect("an overlay");
    pool.stop().await;
    let text = std::fs::read_to_string(&list).expect("what the programs have");
    let ours = text.lines().filter(|path| Path::new(path).starts_with(&*stage));
    // Standard output is the list.
    let (files, others): (Vec<_>, Vec<_>) =
        ours.filter(|path| Path::new(path) != list).partition(|path| path.contains(".qcow2"));
    assert!(!files.is_empty(), "{text}");
    assert_eq!(others, [""; 0], "{text}");
}

/// Stopped while it restocks, a pool leaves nothing of it.
#[apply(test)]
async fn l11_stopped_meanwhile_it_ends_what_is_under_way(stage: Stage) {
    let [hold, held] = ["hold", "held"].map(|name| stage.join(name));
    let (on, mark) = (hold.display(), held.display());
    let body = format!("if [ -e '{on}' ]; then touch '{mark}'; exec sleep 1000; fi");
    let pool = pool(with_body(&stage, 4, &body));
    pool.start(Some(vec![(&stage.base).into()])).await.expect("the pool starts");
    std::fs::write(&hold, []).expect("a file");
    pool.acquire(&stage.base, stage.join("vm.qcow2")).await.expect("a ready one");
    eventually("its successor is being made", || held.exists()).await;
    pool.stop().await;
    assert!(!stage.join("pool").exists(), "the pool directory is left");
    assert_eq!(ready(&pool), 0);
}
