//! `create`: rules A1, A3 and A9 from outside, on each creator.

use std::fs;

use overlay_pool::creator::CreatorKind;

use super::names;
use crate::harness::cli::{answer, assert_answer, overlay_pool, run};
use crate::harness::prelude::*;
use crate::harness::qcow2::Image;
use crate::harness::qemu;

const NEEDS: &[Need] = &[Need::QemuImg];

#[apply(each_creator)]
fn a1_existing_target_is_kept_and_hides_no_other(
    #[with(1024)] stage: Stage,
    #[case] creator: CreatorKind,
) {
    fs::write(stage.join("vm-2"), "precious").expect("a file in the way");

    let targets = ["vm-1", "vm-2", "vm-3"];
    let create = ["create", "--creator", creator.as_str(), "base.qcow2"];
    let created = answer(&stage, create.into_iter().chain(targets));
    assert_answer!(stage, "create_existing_target", created);

    for target in ["vm-1", "vm-3"] {
        qemu::check(&stage.join(target));
        qemu::compare(&stage.base, &stage.join(target));
    }
    assert_eq!(fs::read(stage.join("vm-2")).expect("still there"), b"precious");
    assert_eq!(names(&stage), ["base.qcow2", "vm-1", "vm-2", "vm-3"]);
}

#[apply(each_creator)]
fn a3_many_targets_at_once(stage: Stage, #[case] creator: CreatorKind) {
    let targets: Vec<String> = (0..24).map(|number| format!("vm-{number}.qcow2")).collect();
    let mut command = overlay_pool(&stage);
    command.args(["create", "--creator", creator.as_str(), "base.qcow2"]).args(&targets);
    let created = run(&mut command);
    assert_eq!((created.code, created.stderr.as_str()), (Some(0), ""));
    for target in &targets {
        qemu::check(&stage.join(target));
    }
}

/// A drop-in: the bytes are those that `qemu-img create -b` writes.
#[apply(test)]
#[needs(StorageDaemon)]
#[case::qemu("qemu", "cluster_size=128k,extended_l2=on,lazy_refcounts=on")]
#[case::portable("portable", "cluster_size=64k,extended_l2=off,lazy_refcounts=off")]
fn a9_overlay_is_what_qemu_img_makes(
    scratch: Scratch,
    #[case] profile: &str,
    #[case] options: &str,
    #[values("qcow2", "raw")] format: &str,
    #[values(CreatorKind::Native, CreatorKind::StorageDaemon, CreatorKind::QemuImg)]
    creator: CreatorKind,
) {
    let (base, theirs) = (scratch.join("base, a b"), scratch.join("theirs"));
    let (base_path, theirs_path) = (base.to_string_lossy(), theirs.to_string_lossy());
    qemu::run("qemu-img", ["create", "-q", "-f", format, &base_path, "3M"]);
    let create = ["create", "-q", "-f", "qcow2", "-F", format, "-b", &base_path, "-o", options];
    qemu::run("qemu-img", create.into_iter().chain([&*theirs_path, "5M"]));

    let raw: &[&str] = if format == "raw" { &["--raw"] } else { &[] };
    let ours = ["create", "--creator", creator.as_str(), "--profile", profile, "--size", "5M"];
    let ours = ours.iter().chain(raw).chain(&["base, a b", "ours"]);
    assert_eq!(answer(&scratch, ours).to_string(), "exit code: 0\n--- stdout\n--- stderr\n");
    assert!(fs::read(scratch.join("ours")).expect("ours") == fs::read(theirs).expect("theirs"));
}

#[apply(test)]
fn sizes_are_read_as_qemu_img_reads_them(
    scratch: Scratch,
    #[values(
        "4096", "5000", "4k", "1.5K", "0.3m", "7M", "1.1G", "2g", "1T", "1.7t", "1P", "4096b"
    )]
    size: &str,
) {
    Image::new(512).write(&scratch.join("base.qcow2"));
    let (theirs, ours) = (scratch.join("theirs"), scratch.join("ours"));
    // Clusters large enough for any of the sizes.
    let create = ["create", "-q", "-f", "qcow2", "-o", "cluster_size=2M"];
    qemu::run("qemu-img", create.into_iter().chain([&*theirs.to_string_lossy(), size]));
    let created = answer(&scratch, ["create", "--size", size, "base.qcow2", "ours"]);
    assert_eq!(created.code, Some(0), "{created}");
    assert_eq!(qemu::info(&ours)["virtual-size"], qemu::info(&theirs)["virtual-size"]);
}

#[apply(test)]
fn base_that_refers_is_taken_where_allowed(stage: Stage) {
    let create = |args: &[&str]| answer(&stage, ["create"].iter().chain(args));
    assert_eq!(create(&["base.qcow2", "middle.qcow2"]).code, Some(0));
    assert_eq!(create(&["middle.qcow2", "vm.qcow2"]).code, Some(3));
    assert_eq!(create(&["--allow-references", "middle.qcow2", "vm.qcow2"]).code, Some(0));
    qemu::compare(&stage.base, &stage.join("vm.qcow2"));
}
