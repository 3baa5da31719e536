//! Overlays that are handed over without a path in common: as an open file, or by a name in an
//! open directory.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use overlay_pool::creator::CreatorKind;
use overlay_pool::{Error, Opened, PoolConfig, Source, Target};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::{FdFlags, fcntl_getfd};

use crate::harness::pools::{config, pool, ready, ready_files, started};
use crate::harness::prelude::*;
use crate::harness::qemu;

const NEEDS: &[Need] = &[Need::QemuImg, Need::QemuIo, Need::StorageDaemon];

/// The open file, at a path that QEMU's tools can open.
fn path_of(opened: &Opened) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), opened.file.as_raw_fd()).into()
}

fn base(scratch: &Path) -> PathBuf {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    base
}

#[apply(test)]
async fn a2_a3_a9_open_files_are_sound_and_have_no_name(
    scratch: Scratch,
    #[values(CreatorKind::Native, CreatorKind::StorageDaemon, CreatorKind::QemuImg)]
    creator: CreatorKind,
) {
    let base = base(&scratch);
    let pool = started(config(creator, &scratch, 2), &base).await;
    for expected in [Source::Pooled, Source::OnDemand] {
        let opened = pool.acquire_open(&base, None).await.expect("an overlay");
        assert_eq!((opened.source, &opened.base), (expected, &base));
        let metadata = opened.file.metadata().expect("the file");
        assert_eq!((metadata.nlink(), metadata.mode() & 0o7777), (0, 0o600));
        let flags = fcntl_getfl(&opened.file).expect("its flags");
        assert!(flags.contains(OFlags::RDWR), "it can't be written to: {flags:?}");
        assert_eq!(fcntl_getfd(&opened.file), Ok(FdFlags::CLOEXEC));
        let path = path_of(&opened);
        qemu::check(&path);
        qemu::compare(&path, &base);
        qemu::io(&path, &["write -q -P 0x77 0 64k", "read -q -P 0x77 0 64k"]);
    }
    assert_eq!(ready_files(&pool), [] as [PathBuf; 0], "no name is left");
    qemu::io(&base, &["read -q -P 0x5a 0 64k"]);
    let stats = pool.stats();
    assert_eq!((stats.pooled, stats.on_demand, stats.failed), (1, 1, 0));
}

#[apply(test)]
async fn a4_no_overlay_is_opened_twice(scratch: Scratch) {
    let base = base(&scratch);
    let pool = started(config(CreatorKind::Native, &scratch, 20), &base).await;
    let all = (0..16).map(|_| pool.acquire_open(&base, None));
    let all = futures_util::future::try_join_all(all).await.expect("overlays");
    let pooled = all.iter().filter(|opened| opened.source == Source::Pooled).count();
    let inode = |opened: &Opened| opened.file.metadata().expect("the file").ino();
    let inodes: std::collections::HashSet<_> = all.iter().map(inode).collect();
    assert_eq!((pooled, inodes.len()), (10, 16));
}

#[apply(test)]
async fn a5_one_that_vanished_is_made_on_demand(scratch: Scratch) {
    let base = base(&scratch);
    let pool = started(config(CreatorKind::Native, &scratch, 4), &base).await;
    for file in ready_files(&pool) {
        std::fs::remove_file(file).expect("removed");
    }
    let opened = pool.acquire_open(&base, None).await.expect("an overlay");
    assert_eq!(opened.source, Source::OnDemand);
    assert_eq!((pool.stats().discarded, ready(&pool)), (1, 1));
}

#[apply(test)]
async fn a7_a9_what_is_refused(scratch: Scratch) {
    let base = base(&scratch);
    let pool = pool(config(CreatorKind::Native, &scratch, 4));
    let refused = pool.acquire_open(&base, None).await.expect_err("not started");
    assert!(matches!(refused, Error::NotStarted), "{refused}");
    pool.start(Some(vec![(&base).into()])).await.expect("it starts");
    let refused = pool.acquire_open(scratch.join("none"), None).await.expect_err("no base");
    assert!(matches!(refused, Error::Base(_)), "{refused}");
    let refused = pool.acquire_open(&base, Some(512)).await.expect_err("smaller");
    assert!(matches!(refused, Error::Base(_)), "{refused}");
    let larger = pool.acquire_open(&base, Some(1 << 30)).await.expect("larger");
    assert_eq!(qemu::info(&path_of(&larger))["virtual-size"], 1 << 30);
    assert_eq!((ready(&pool), pool.stats().failed), (2, 2));
}

#[apply(test)]
async fn l2_without_a_pool_directory(scratch: Scratch) {
    let base = base(&scratch);
    let pool = started(config(CreatorKind::Native, &scratch, 0), &base).await;
    let refused = pool.acquire_open(&base, None).await.expect_err("no place for it");
    let said = refused.to_string();
    assert!(matches!(refused, Error::Target { .. }) && said.contains("pool"), "{said}");
    std::fs::create_dir(scratch.join("pool")).expect("a folder");
    let opened = pool.acquire_open(&base, None).await.expect("an overlay");
    assert_eq!(opened.source, Source::OnDemand);
    assert_eq!(scratch.join("pool").read_dir().expect("the folder").count(), 0);
}

#[apply(test)]
async fn l12_without_the_pool_directory_that_was_there(scratch: Scratch) {
    let base = base(&scratch);
    let pool = started(config(CreatorKind::Native, &scratch, 4), &base).await;
    std::fs::remove_dir_all(scratch.join("pool")).expect("removed");
    let opened = pool.acquire_open(&base, None).await.expect("an overlay");
    assert_eq!(opened.source, Source::OnDemand);
    qemu::check(&path_of(&opened));
    pool.stop().await;
    assert!(!scratch.join("pool").exists());
}

#[apply(test)]
async fn a1_a2_a3_a_name_in_an_open_directory(scratch: Scratch) {
    let base = base(&scratch);
    let (run, moved) = (scratch.join("run"), scratch.join("moved"));
    std::fs::create_dir(&run).expect("a folder");
    let directory = File::open(&run).expect("the folder");
    let within = |name: &str| {
        let directory = directory.try_clone().expect("a descriptor");
        Target::within(directory, run.join(name))
    };
    let pool = started(config(CreatorKind::Native, &scratch, 2), &base).await;
    // What is there now is not what was opened.
    std::fs::rename(&run, &moved).expect("moved away");
    std::fs::create_dir(scratch.join("trap")).expect("a folder");
    symlink(scratch.join("trap"), &run).expect("a link");
    for (name, source) in [("1.qcow2", Source::Pooled), ("2.qcow2", Source::OnDemand)] {
        let acquired = pool.acquire(&base, within(name)).await.expect("an overlay");
        assert_eq!((acquired.source, acquired.target), (source, run.join(name)));
        qemu::check(&moved.join(name));
        let again = pool.acquire(&base, within(name)).await.expect_err("it exists");
        assert!(matches!(again, Error::AlreadyExists { .. }), "{again}");
    }
    assert_eq!(scratch.join("trap").read_dir().expect("the trap").count(), 0);
}

#[apply(test)]
#[case::the_root("/")]
#[case::a_parent("..")]
async fn a7_a_target_without_a_name(scratch: Scratch, #[case] path: &str) {
    let base = base(&scratch);
    let pool = pool(PoolConfig { ..config(CreatorKind::Native, &scratch, 2) });
    pool.start(Some(vec![(&base).into()])).await.expect("it starts");
    let directory = File::open(&*scratch).expect("the folder");
    let refused = pool.acquire(&base, Target::within(directory, path)).await.expect_err("no name");
    assert!(matches!(refused, Error::Target { .. }), "{refused}");
}
