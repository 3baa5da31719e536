//! Overlays that are handed over by a name in an open directory.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use overlay_pool::creator::CreatorKind;
use overlay_pool::{Error, Source, Target};

use crate::harness::pools::{config, ready, started};
use crate::harness::prelude::*;
use crate::harness::qemu;

const NEEDS: &[Need] = &[Need::QemuImg, Need::QemuIo];

fn base(scratch: &Path) -> PathBuf {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "64M");
    base
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
async fn a1_a_target_without_a_name_is_a_directory(scratch: Scratch, #[case] path: &str) {
    let base = base(&scratch);
    let pool = started(config(CreatorKind::Native, &scratch, 2), &base).await;
    let directory = File::open(&*scratch).expect("the folder");
    let refused = pool.acquire(&base, Target::within(directory, path)).await.expect_err("no name");
    assert!(matches!(refused, Error::AlreadyExists { .. }), "{refused}");
    assert_eq!(ready(&pool), 1, "it costs no ready overlay");
}

#[apply(test)]
async fn a2_the_longest_name_is_possible(scratch: Scratch) {
    let base = base(&scratch);
    let pool = started(config(CreatorKind::Native, &scratch, 2), &base).await;
    let target = scratch.join("n".repeat(255));
    let acquired = pool.acquire(&base, &target).await.expect("a name that a file can have");
    assert_eq!(acquired.source, Source::Pooled);
    qemu::check(&target);
}

/// What no file can be called costs no ready overlay.
#[apply(test)]
#[case::too_long("n".repeat(256))]
#[case::a_nul_byte("vm\0.qcow2".to_owned())]
#[case::a_nul_byte_before("vm\0s/vm.qcow2".to_owned())]
async fn a5_a7_impossible_names_cost_nothing(scratch: Scratch, #[case] name: String) {
    let base = base(&scratch);
    let pool = started(config(CreatorKind::Native, &scratch, 2), &base).await;
    let refused = pool.acquire(&base, scratch.join(name)).await.expect_err("an impossible name");
    assert!(matches!(refused, Error::Target { .. }), "{refused}");
    assert_eq!((ready(&pool), pool.stats().discarded), (1, 0));
}
