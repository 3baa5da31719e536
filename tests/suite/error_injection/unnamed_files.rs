//! Rules A1, A3, A7 and A11 on a filesystem that has no unnamed files, as NFS and FUSE have none.
//! Here strace has the system say so; the conformance cases with `passed_on` have a real one.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use overlay_pool::creator::CreatorKind;

use crate::harness::prelude::*;
use crate::harness::qemu;

const NEEDS: &[Need] = &[Need::Strace];

/// `overlay-pool create` if opening an unnamed file in the target's folder isn't supported: the
/// first `openat` there, since the folder itself is opened by `openat2`.
fn create(scratch: &Path, creator: &str, base: &Path, target: &Path) -> Output {
    let folder = target.parent().expect("a folder");
    let mut command = Command::new("strace");
    command.args([
        "-f",
        "-qq",
        "-e",
        "trace=openat",
        "-e",
        "inject=openat:error=EOPNOTSUPP:when=1",
    ]);
    command.arg("-P").arg(folder).arg("-o").arg(scratch.join("strace.log"));
    command.args([env!("CARGO_BIN_EXE_overlay-pool"), "create", "--creator", creator]);
    let output = command.arg(base).arg(target).output().expect("strace runs");
    let log = std::fs::read_to_string(scratch.join("strace.log")).expect("strace's log");
    assert!(log.contains("(INJECTED)"), "the fault wasn't made: {log}");
    output
}

#[apply(each_creator)]
#[needs(QemuImg)]
fn a1_a3_a11_overlays_have_a_hidden_name_first(stage: Stage, #[case] creator: CreatorKind) {
    let folder = stage.join("vm");
    std::fs::create_dir(&folder).expect("a folder");
    let target = folder.join("vm.qcow2");
    let output = create(&stage, creator.as_str(), &stage.base, &target);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    qemu::check(&target);
    let mode = target.metadata().expect("the target").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    assert_eq!(folder.read_dir().expect("the folder").count(), 1, "A7: nothing is beside it");

    let before = std::fs::read(&target).expect("the overlay");
    let again = Command::new(env!("CARGO_BIN_EXE_overlay-pool"))
        .args(["create", "--creator", creator.as_str()])
        .args([&stage.base, &target])
        .output();
    assert!(!again.expect("it runs").status.success(), "it exists");
    assert!(std::fs::read(&target).expect("the overlay") == before, "it was overwritten");
}

#[apply(test)]
#[needs(StorageDaemon)]
fn a7_what_fails_loses_its_name(stage: Stage) {
    let folder = stage.join("vm");
    std::fs::create_dir(&folder).expect("a folder");
    let target = folder.join("vm.qcow2");
    // A path that QMP can't carry fails after the file was made.
    let odd = stage.join(OsStr::from_bytes(b"caf\xe9.qcow2"));
    std::fs::rename(&stage.base, &odd).expect("renamed");
    let output = create(&stage, "storage-daemon", &odd, &target);
    assert!(!output.status.success());
    let left = folder.read_dir().expect("the folder").count();
    assert_eq!(left, 0, "a partial file is left");
}
