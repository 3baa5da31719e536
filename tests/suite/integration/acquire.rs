//! What the library's door shows of rules A1 to A12, beyond the cases of the conformance suite.

use std::time::Duration;

use overlay_pool::creator::CreatorKind;
use overlay_pool::{Error, Source};

use crate::harness::pools::{assert_nothing_left, config, pool, ready, started};
use crate::harness::prelude::*;
use crate::harness::qemu;
use crate::harness::wait::cancelled_after;

#[apply(each_creator)]
#[needs(QemuImg, QemuIo)]
async fn a2_a3_a9_what_a_guest_writes_is_read_back(
    #[with(1024)] stage: Stage,
    #[case] creator: CreatorKind,
) {
    let before = std::fs::read(&stage.base).expect("the base image");
    let pool = started(config(creator, &stage, 2), &stage.base).await;
    for (name, source) in [("vm-1.qcow2", Source::Pooled), ("vm-2.qcow2", Source::OnDemand)] {
        let target = stage.join(name);
        let acquired = pool.acquire(&stage.base, &target).await.expect("an overlay");
        assert_eq!((&acquired.base, &acquired.target), (&stage.base, &target));
        assert_eq!(acquired.source, source);
        qemu::io(
            &target,
            &["write -q -P 0x77 4k 8k", "read -q -P 0x77 4k 8k", "read -q -P 0x5a 0 4k"],
        );
        qemu::check(&target);
        assert!(std::fs::read(&stage.base).expect("the base image") == before);
    }
    let stats = pool.stats();
    assert_eq!((stats.created, stats.create_failed), (2, 0), "one ahead, one on demand");
}

#[apply(test)]
async fn a1_the_error_names_the_target(stage: Stage, #[values(0, 4)] max_concurrent_vms: i64) {
    let target = stage.join("vm.qcow2");
    std::fs::write(&target, "precious").expect("a file");
    let pool = pool(config(CreatorKind::Native, &stage, max_concurrent_vms));
    let refused = async |target: &std::path::Path| {
        let error = pool.acquire(&stage.base, target).await.expect_err("the target exists");
        assert!(matches!(&error, Error::AlreadyExists { target: t } if t == target), "{error}");
        assert!(error.to_string().contains("already exists"));
    };
    refused(&target).await; // also before L1
    pool.start(Some(vec![(&stage.base).into()])).await.expect("the pool starts");
    refused(&target).await;
    refused("/".as_ref()).await; // without a name, maybe on another filesystem
    assert_eq!(std::fs::read(&target).expect("the file"), b"precious");
}

#[apply(each_creator)]
async fn a7_the_error_names_base_target_and_cause(stage: Stage, #[case] creator: CreatorKind) {
    let pool = started(config(creator, &stage, 0), &stage.base).await;
    let target = stage.join("missing/vm.qcow2");
    let error = pool.acquire(&stage.base, &target).await.expect_err("no such directory");
    assert!(matches!(error, Error::Target { .. }), "{error}");
    for part in [stage.base.to_str(), target.to_str(), Some("missing is missing")] {
        assert!(error.to_string().contains(part.expect("text")), "{error}");
    }
}

/// A future may be dropped at any moment.
#[apply(each_creator)]
#[needs(QemuImg)]
async fn a12_cancelled_acquire_hands_nothing_over(stage: Stage, #[case] creator: CreatorKind) {
    let pool = started(config(creator, &stage, 20), &stage.base).await;
    let (mut handed_over, mut cancelled) = (0, 0);
    for number in 0..100_u64 {
        let target = stage.join(format!("vm-{number}.qcow2"));
        let acquire = pool.acquire(&stage.base, &target);
        let acquired = if number % 2 == 0 {
            cancelled_after(number % 12, acquire).await
        } else {
            tokio::time::timeout(Duration::from_millis(number % 40), acquire).await.ok()
        };
        assert_eq!(target.exists(), acquired.is_some());
        match acquired {
            Some(acquired) => handed_over += u64::from(acquired.is_ok()),
            None => cancelled += 1,
        }
    }
    println!("{cancelled} were cancelled, {handed_over} handed over");
    // The native creator waits for nothing that could be cancelled.
    assert!(cancelled > 0 || creator == CreatorKind::Native, "none was cancelled");
    let stats = pool.stats();
    assert_eq!(stats.pooled + stats.on_demand, handed_over);
    assert_eq!(usize::try_from(stats.pooled).expect("few") + ready(&pool), 10);
    assert_eq!((stats.failed, stats.discarded), (0, 0));
    let target = stage.join("after.qcow2");
    pool.acquire(&stage.base, &target).await.expect("it still works");
    qemu::check(&target);
    pool.stop().await;
    assert_nothing_left(&stage).await;
}
