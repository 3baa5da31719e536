//! Rules A1 to A13 on each creator.

use overlay_pool::Source;
use overlay_pool::creator::CreatorKind;

use crate::harness::pools::{config, pool, pool_files};
use crate::harness::prelude::*;
use crate::harness::qemu;

const NEEDS: &[Need] = &[Need::QemuImg, Need::QemuIo, Need::StorageDaemon];

#[rstest]
#[test_attr(apply(case))]
async fn a2_a3_pooled_then_on_demand(
    scratch: Scratch,
    #[values(CreatorKind::Native, CreatorKind::StorageDaemon, CreatorKind::QemuImg)]
    creator: CreatorKind,
) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "1G");
    let pool = pool(config(creator, &scratch, 4));
    pool.start(Some(vec![(&base).into()])).await.expect("start");
    assert_eq!(pool.stats().ready[&base], 2);

    let mut sources = Vec::new();
    for number in 0..3 {
        let target = scratch.join(format!("vm-{number}.qcow2"));
        let acquired = pool.acquire(&base, &target).await.expect("acquire");
        assert_eq!((&acquired.base, &acquired.target), (&base, &target));
        sources.push(acquired.source);
        qemu::check(&target);
        qemu::compare(&base, &target);
    }
    assert_eq!(sources, [Source::Pooled, Source::Pooled, Source::OnDemand]);
    let stats = pool.stats();
    assert_eq!((stats.ready[&base], stats.pooled, stats.on_demand), (0, 2, 1));

    pool.stop().await;
    assert_eq!(pool_files(&scratch), [] as [std::path::PathBuf; 0]);
    assert!(!scratch.join("pool").exists());
}
