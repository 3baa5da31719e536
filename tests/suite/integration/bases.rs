//! Rules A8, A9, A10 and A13: what an acquire makes of its base image, on each creator.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::time::Duration;

use overlay_pool::creator::CreatorKind;
use overlay_pool::image::{BaseRef, OverlayOptions};
use overlay_pool::{Error, PoolConfig, Source};

use crate::harness::pools::{config, pool, ready, ready_files, started};
use crate::harness::prelude::*;
use crate::harness::qemu;

const NEEDS: &[Need] = &[Need::QemuImg, Need::QemuIo, Need::StorageDaemon];

#[apply(test)]
async fn a8_one_shelf_for_all_names_of_a_base(scratch: Scratch) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    symlink(&base, scratch.join("link")).expect("a link");
    std::fs::create_dir(scratch.join("sub")).expect("a folder");
    let names =
        [scratch.join("link"), scratch.join("sub/../base.qcow2"), scratch.join(".//base.qcow2")];
    let pool = started(config(CreatorKind::Native, &scratch, 10), &scratch.join("link")).await;
    for (number, name) in names.iter().enumerate() {
        let target = scratch.join(format!("vm-{number}.qcow2"));
        let acquired = pool.acquire(name, &target).await.expect("an overlay");
        assert_eq!((acquired.source, &acquired.base), (Source::Pooled, &base));
        assert_eq!(qemu::info(&target)["backing-filename"], base.to_str().expect("a plain path"));
    }
    assert_eq!(pool.stats().ready, [(base, 2)].into());
}

#[apply(test)]
async fn a8_link_to_another_base_is_followed(scratch: Scratch) {
    let (one, other, link) =
        (scratch.join("1.qcow2"), scratch.join("2.qcow2"), scratch.join("link"));
    qemu::base_image(&one, "64M");
    qemu::base_image(&other, "128M");
    symlink(&one, &link).expect("a link");
    let pool = started(config(CreatorKind::Native, &scratch, 4), &link).await;
    std::fs::remove_file(&link).expect("unlinked");
    symlink(&other, &link).expect("a link");
    let acquired = pool.acquire(&link, scratch.join("vm-1.qcow2")).await.expect("an overlay");
    assert_eq!((acquired.source, acquired.base), (Source::OnDemand, other));
    let acquired = pool.acquire(&one, scratch.join("vm-2.qcow2")).await.expect("an overlay");
    assert_eq!(acquired.source, Source::Pooled, "the first base's overlays are still good");
}

#[apply(test)]
async fn a9_larger_on_request(
    scratch: Scratch,
    #[values(CreatorKind::Native, CreatorKind::StorageDaemon, CreatorKind::QemuImg)]
    creator: CreatorKind,
) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    let pool = started(config(creator, &scratch, 4), &base).await;
    let target = scratch.join("vm.qcow2");
    let acquired = pool.acquire_sized(&base, &target, 10 << 30).await.expect("a larger overlay");
    assert_eq!(acquired.source, Source::OnDemand);
    qemu::check(&target);
    assert_eq!(qemu::info(&target)["virtual-size"], 10_u64 << 30);
    let error =
        pool.acquire_sized(&base, scratch.join("small.qcow2"), 1).await.expect_err("smaller");
    assert!(matches!(error, Error::Base(_)) && error.to_string().contains("smaller"), "{error}");
    assert!(!scratch.join("small.qcow2").exists());
    // The size that they have anyway costs none of them.
    let acquired = pool.acquire_sized(&base, scratch.join("same.qcow2"), 64 << 20).await;
    assert_eq!(acquired.expect("a ready one").source, Source::Pooled);

    let overlay = OverlayOptions { virtual_size: Some(1 << 30), ..OverlayOptions::default() };
    let pool = started(PoolConfig { overlay, ..config(creator, &scratch, 4) }, &base).await;
    let acquired = pool.acquire_sized(&base, scratch.join("vm-2.qcow2"), 1 << 30).await;
    assert_eq!(acquired.expect("a ready one").source, Source::Pooled);
}

#[apply(test)]
async fn a9_raw_base(
    scratch: Scratch,
    #[values(CreatorKind::Native, CreatorKind::StorageDaemon, CreatorKind::QemuImg)]
    creator: CreatorKind,
) {
    let base = scratch.join("disk.img");
    std::fs::write(&base, [0x42; 10_000]).expect("a raw image");
    let pool = pool(config(creator, &scratch, 2));
    pool.start(Some(vec![BaseRef::raw(&base)])).await.expect("the pool starts");
    for (number, source) in [Source::Pooled, Source::OnDemand].into_iter().enumerate() {
        let target = scratch.join(format!("vm-{number}.qcow2"));
        let acquired = pool.acquire(BaseRef::raw(&base), &target).await.expect("an overlay");
        assert_eq!(acquired.source, source);
        qemu::check(&target);
        qemu::io(&target, &["read -q -P 0x42 0 10000"]);
        let info = qemu::info(&target);
        assert_eq!(
            (&info["virtual-size"], &info["backing-filename-format"]),
            (&10_240.into(), &"raw".into())
        );
    }
    let error =
        pool.acquire(&base, scratch.join("probed.qcow2")).await.expect_err("not declared raw");
    assert!(matches!(error, Error::Base(_)), "{error}");
}

/// What can happen to a base image while overlays of it are ready.
#[derive(Clone, Copy, Debug)]
enum Change {
    Replaced,
    Grown,
    Touched,
    BecameRaw,
    Vanished,
}

#[apply(test)]
async fn a10_changed_base_invalidates_its_overlays(
    scratch: Scratch,
    #[values(
        Change::Replaced,
        Change::Grown,
        Change::Touched,
        Change::BecameRaw,
        Change::Vanished
    )]
    change: Change,
) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    let pool = started(config(CreatorKind::Native, &scratch, 4), &base).await;
    let path = base.to_str().expect("a plain path");
    match change {
        Change::Replaced => {
            qemu::base_image(&scratch.join("new"), "128M");
            std::fs::rename(scratch.join("new"), &base).expect("replaced");
        }
        Change::Grown => drop(qemu::run("qemu-img", ["resize", "-q", path, "128M"])),
        Change::Touched => {
            let later = std::time::SystemTime::now() + Duration::from_secs(5);
            let file = std::fs::File::options().write(true).open(&base).expect("the base");
            file.set_modified(later).expect("touched");
        }
        Change::BecameRaw => std::fs::write(&base, vec![0; 1 << 20]).expect("overwritten"),
        Change::Vanished => std::fs::remove_file(&base).expect("removed"),
    }
    let target = scratch.join("vm.qcow2");
    let result = pool.acquire(&base, &target).await;
    match change {
        Change::BecameRaw | Change::Vanished => {
            assert!(matches!(result, Err(Error::Base(_))));
            assert!(!target.exists());
        }
        _ => {
            assert_eq!(result.expect("an overlay").source, Source::OnDemand);
            assert_eq!(qemu::info(&target)["virtual-size"], qemu::info(&base)["virtual-size"]);
        }
    }
    assert_eq!((ready(&pool), pool.stats().discarded, ready_files(&pool).len()), (0, 2, 0));
}

#[apply(test)]
async fn a13_relative_paths_are_those_of_the_call(scratch: Scratch) {
    std::fs::create_dir(scratch.join("later")).expect("a folder");
    qemu::base_image(&scratch.join("base.qcow2"), "64M");
    // A process of its own for each test, so this harms nobody.
    std::env::set_current_dir(&scratch).expect("the test's folder");
    let pool =
        pool(PoolConfig { pool_dir: "pool".into(), ..config(CreatorKind::Native, &scratch, 4) });
    std::env::set_current_dir("later").expect("another folder");
    pool.start(Some(vec!["../base.qcow2".into()])).await.expect("the pool starts");
    let acquired = pool.acquire("../base.qcow2", "vm.qcow2").await.expect("an overlay");
    std::env::set_current_dir("/").expect("yet another folder");
    assert_eq!(acquired.source, Source::Pooled);
    assert_eq!(acquired.target, scratch.join("later/vm.qcow2"));
    qemu::check(&acquired.target);
    let absolute = scratch.join("base.qcow2");
    let again = pool.acquire(&absolute, scratch.join("vm-2.qcow2")).await.expect("an overlay");
    assert_eq!((again.source, again.base), (Source::Pooled, absolute));
    assert!(pool.directory().expect("a directory").starts_with(scratch.join("pool")));
}

#[apply(test)]
async fn paths_that_are_not_text(
    scratch: Scratch,
    #[values(CreatorKind::Native, CreatorKind::StorageDaemon, CreatorKind::QemuImg)]
    creator: CreatorKind,
) {
    let folder = scratch.join(std::ffi::OsStr::from_bytes(b"caf\xe9: a,b"));
    std::fs::create_dir(&folder).expect("a folder");
    qemu::base_image(&scratch.join("base.qcow2"), "64M");
    let base = folder.join("base.qcow2");
    std::fs::rename(scratch.join("base.qcow2"), &base).expect("moved");
    let pool = started(config(creator, &scratch, 0), &base).await;
    let target = folder.join("vm.qcow2");
    let result = pool.acquire(&base, &target).await;
    if creator == CreatorKind::StorageDaemon {
        let error = result.expect_err("QMP carries text");
        assert!(error.to_string().contains("not valid UTF-8"), "{error}");
        assert!(!target.exists());
    } else {
        result.expect("an overlay");
        qemu::check(&target);
    }
}
