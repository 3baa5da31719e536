//! Rules A1 to A13 on each creator.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::Arc;
use std::time::Duration;

use overlay_pool::creator::CreatorKind;
use overlay_pool::image::{BaseRef, OverlayOptions};
use overlay_pool::{Error, PoolConfig, Source};

use crate::harness::pools::{assert_nothing_left, config, pool, ready, ready_files, started};
use crate::harness::prelude::*;
use crate::harness::qemu;

const NEEDS: &[Need] = &[Need::QemuImg, Need::QemuIo, Need::StorageDaemon];

#[rstest]
#[test_attr(apply(case))]
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

#[rstest]
#[test_attr(apply(case))]
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
    refused(&base, "/".as_ref()).await;
    refused(&scratch.join("no-such-base"), &target).await; // before the base is looked at
    assert_eq!(std::fs::read(&target).expect("the file"), b"precious");
    assert!(dangling.is_symlink() && !scratch.join("nowhere").exists());
    let stats = pool.stats();
    assert_eq!((stats.failed, stats.discarded), (5, 0));
    assert_eq!(ready(&pool) as i64, max_concurrent_vms / 2, "nothing was lost from the shelf");
}

#[rstest]
#[test_attr(apply(case))]
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
    assert_eq!(
        ready(&pool) + usize::try_from(pool.stats().pooled).expect("few"),
        pool.pool_size() as usize
    );
}

#[rstest]
#[test_attr(apply(case))]
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

#[rstest]
#[test_attr(apply(case))]
async fn a5_vanished_overlay_is_replaced_on_demand(scratch: Scratch) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    let pool = started(config(CreatorKind::Native, &scratch, 8), &base).await;
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

#[rstest]
#[test_attr(apply(case))]
async fn a5_another_filesystem(
    scratch: Scratch,
    #[values(CreatorKind::Native, CreatorKind::StorageDaemon, CreatorKind::QemuImg)]
    creator: CreatorKind,
) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    let elsewhere = tempfile::tempdir_in("/dev/shm").expect("a folder on tmpfs");
    let pool = started(config(creator, &scratch, 8), &base).await;
    let target = elsewhere.path().join("vm.qcow2");
    let acquired = pool.acquire(&base, &target).await.expect("on demand");
    assert_eq!(acquired.source, Source::OnDemand);
    qemu::check(&target);
    assert_eq!((ready(&pool), pool.stats().discarded, ready_files(&pool).len()), (3, 1, 3));
}

#[rstest]
#[test_attr(apply(case))]
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

#[rstest]
#[test_attr(apply(case))]
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

#[rstest]
#[test_attr(apply(case))]
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

#[rstest]
#[test_attr(apply(case))]
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

#[rstest]
#[test_attr(apply(case))]
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

    let overlay = OverlayOptions { virtual_size: Some(1 << 30), ..OverlayOptions::default() };
    let pool = started(PoolConfig { overlay, ..config(creator, &scratch, 4) }, &base).await;
    let acquired = pool.acquire_sized(&base, scratch.join("vm-2.qcow2"), 1 << 30).await;
    assert_eq!(acquired.expect("a ready one").source, Source::Pooled);
}

#[rstest]
#[test_attr(apply(case))]
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

#[rstest]
#[test_attr(apply(case))]
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

#[rstest]
#[test_attr(apply(case))]
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

#[rstest]
#[test_attr(apply(case))]
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
    assert_eq!(stats.pooled as usize + ready(&pool), 10);
    assert_eq!((stats.failed, stats.discarded), (0, 0));
    let target = scratch.join("after.qcow2");
    pool.acquire(&base, &target).await.expect("it still works");
    qemu::check(&target);
    pool.stop().await;
    assert_nothing_left(&scratch).await;
}

#[rstest]
#[test_attr(apply(case))]
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

#[rstest]
#[test_attr(apply(case))]
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
