//! VMs on disks that their callers have.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use overlay_pool::image::LayerError;
use overlay_pool::vm::{
    DiskError, Language, OwnDisk, Start, Unfit, Vm, VmError, VmManager, VmSettings,
};

use crate::harness::cli::run;
use crate::harness::pools::children;
use crate::harness::prelude::*;
use crate::harness::qemu;
use crate::harness::vms::{
    FINDS, LEAVES, LEAVES_AND_SLEEPS, assert_no_vm_left, create, exec, execute, hold, overlay,
    prints, settings, started, until_ready, warmed,
};

const NEEDS: &[Need] = &[Need::QemuSystem, Need::GuestImages, Need::Accelerator];

/// A disk of Python's, with nothing in it.
fn disk(manager: &VmManager, scratch: &Path) -> PathBuf {
    let path = scratch.join("disk.qcow2");
    overlay(&manager.base_image(Language::PYTHON).expect("a base image"), &path, None);
    path
}

async fn on(manager: &VmManager, disk: &Path) -> Result<Arc<Vm>, VmError> {
    manager.create_vm_with(OwnDisk::at(disk), Language::PYTHON, "tenant", "task").await
}

/// Why a disk can't be used.
async fn refused(manager: &VmManager, disk: &Path) -> Unfit {
    match on(manager, disk).await {
        Err(VmError::OwnDisk(DiskError { path, why })) => {
            assert_eq!(path, disk);
            why
        }
        other => panic!("{other:?}"),
    }
}

/// What one VM writes, the next one reads, also after one that waited was to be had.
#[apply(test)]
async fn what_one_vm_leaves_the_next_one_finds(scratch: Scratch) {
    let manager = warmed(settings(&scratch), Language::PYTHON, 1).await;
    let disk = disk(&manager, &scratch);
    until_ready(&manager, Language::PYTHON, 1).await;
    for round in 1..=2 {
        let vm = on(&manager, &disk).await.expect("a VM");
        assert_eq!((vm.start(), vm.disk_source()), (Some(Start::Booted), None));
        assert_eq!(vm.disk().as_deref(), Some(&*disk));
        // Nobody syncs it: that is done when the VM ends.
        execute(&vm, LEAVES).await;
        assert_eq!(prints(&vm, FINDS).await, "left\n".repeat(round));
        manager.destroy_vm(&vm).await;
    }
    assert_eq!(manager.warm_stats(Language::PYTHON).hits, 0);
    manager.stop().await;
    assert!(disk.is_file());
    assert_no_vm_left(&scratch).await;
}

/// QEMU may be another user's, who may not open the disk: it is given it open.
#[apply(test)]
#[needs(Root)]
async fn another_user_s_qemu_has_it_too(scratch: Scratch) {
    let settings = VmSettings { vm_user: Some("nobody".to_owned()), ..settings(&scratch) };
    let manager = started(settings, Language::PYTHON).await;
    let disk = disk(&manager, &scratch);
    fs::set_permissions(&disk, Permissions::from_mode(0o600)).expect("a mode");
    for round in 1..=2 {
        let vm = on(&manager, &disk).await.expect("a VM");
        execute(&vm, LEAVES).await;
        assert_eq!(prints(&vm, FINDS).await, "left\n".repeat(round));
        manager.destroy_vm(&vm).await;
    }
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

/// As `keep_disk` leaves it; and its file system is whole, as that of a VM that ends in order is.
#[apply(test)]
#[needs(QemuImg)]
async fn a_kept_disk_is_used_again_and_is_whole(scratch: Scratch) {
    let manager = started(settings(&scratch), Language::PYTHON).await;
    let vm = create(&manager, Language::PYTHON).await;
    execute(&vm, LEAVES).await;
    let disk = scratch.join("kept.qcow2");
    manager.keep_disk(&vm, &disk).await.expect("it is kept");
    assert_whole(&disk);
    let vm = on(&manager, &disk).await.expect("a VM");
    assert_eq!(prints(&vm, FINDS).await, "left\n");
    let kept = manager.keep_disk(&vm, &scratch.join("again.qcow2")).await;
    assert!(matches!(kept, Err(VmError::NotKept { .. })), "{kept:?}");
    execute(&vm, LEAVES).await;
    // Also of one that still runs something.
    let sleeps = vm.execute("import time\ntime.sleep(1000)", None);
    let stop = async {
        eventually("it runs", || vm.state().to_string() == "executing").await;
        manager.stop().await;
    };
    let (ran, ()) = tokio::join!(sleeps, stop);
    assert!(matches!(ran, Err(VmError::NotReady { .. })), "{ran:?}");
    assert_whole(&disk);
    assert!(!scratch.join("again.qcow2").exists());
    manager.start_for(Language::PYTHON).await.expect("it starts again");
    let vm = on(&manager, &disk).await.expect("a VM");
    assert_eq!(prints(&vm, FINDS).await, "left\nleft\n");
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

/// The image is sound, and the ext4 file system in it was marked so, as its superblock says.
#[track_caller]
fn assert_whole(disk: &Path) {
    qemu::check(disk);
    let state = qemu::io(disk, &["read -v 1082 2"]);
    assert!(state.contains("0000043a:  01 00"), "{state}");
}

/// A disk has one VM at a time; and none while another program uses it.
#[apply(test)]
#[needs(QemuImg)]
async fn a_disk_that_is_in_use_is_refused(scratch: Scratch) {
    let manager = started(settings(&scratch), Language::PYTHON).await;
    let disk = disk(&manager, &scratch);
    let (one, other) = tokio::join!(on(&manager, &disk), on(&manager, &disk));
    let (vm, refusal) = if one.is_ok() { (one, other) } else { (other, one) };
    let (vm, refusal) = (vm.expect("one has it"), refusal.expect_err("the other has not"));
    let in_use = matches!(refusal, VmError::OwnDisk(DiskError { why: Unfit::InUse, .. }));
    assert!(in_use && refusal.to_string().contains("QEMU's lock"), "{refusal}");
    assert_eq!(manager.active_vms().len(), 1);
    // Nor has a program that keeps to QEMU's locks.
    let written = Command::new("qemu-io").args(["-c", "write 0 512"]).arg(&disk).output();
    let said = String::from_utf8(written.expect("it runs").stderr).expect("text");
    assert!(said.contains("lock"), "{said}");
    manager.destroy_vm(&vm).await;
    let vm = on(&manager, &disk).await.expect("it is free at once");
    manager.destroy_vm(&vm).await;

    // The second lets others write too.
    for options in ["", ",share-rw=on"] {
        let mut other = hold(&disk, options);
        let why = refused(&manager, &disk).await;
        assert!(matches!(why, Unfit::InUse), "{why} {options}");
        other.kill().expect("it is killed");
        other.wait().expect("it ends");
    }
    let vm = on(&manager, &disk).await.expect("it is free again");
    manager.destroy_vm(&vm).await;
    manager.stop().await;
}

/// What isn't such a disk is named, and left as it was.
#[apply(test)]
#[needs(QemuImg)]
async fn what_is_no_such_disk_is_named(scratch: Scratch) {
    let manager = started(settings(&scratch), Language::PYTHON).await;
    let base = manager.base_image(Language::PYTHON).expect("a base image");
    let good = disk(&manager, &scratch);

    let missing = scratch.join("none/disk.qcow2");
    let why = refused(&manager, &missing).await;
    assert!(why.to_string().ends_with("/none is missing"), "{why}");
    let link = scratch.join("link.qcow2");
    symlink(&good, &link).expect("a link");
    let why = refused(&manager, &link).await;
    assert!(why.to_string().contains("symbolic link"), "{why}");
    assert!(matches!(refused(&manager, &scratch).await, Unfit::Io(_)));
    let fifo = scratch.join("fifo");
    qemu::run("mkfifo", [&fifo]);
    assert!(matches!(refused(&manager, &fifo).await, Unfit::Layer(LayerError::NotAFile)));

    let copy = scratch.join("base.qcow2");
    fs::copy(&base, &copy).expect("a copy");
    let why = refused(&manager, &copy).await;
    assert!(matches!(why, Unfit::Layer(LayerError::NoBackingFile { .. })), "{why}");
    // The same bytes, and another file.
    let other = scratch.join("other.qcow2");
    overlay(&copy, &other, None);
    let why = refused(&manager, &other).await;
    assert!(matches!(why, Unfit::Layer(LayerError::OtherBase { .. })), "{why}");
    assert!(why.to_string().contains(&*copy.to_string_lossy()), "{why}");
    fs::remove_file(&copy).expect("removed");
    let why = refused(&manager, &other).await;
    assert!(matches!(why, Unfit::Layer(LayerError::OtherBase { .. })), "{why}");

    let make = |name: &str, format: &str, options: &str| {
        let path = scratch.join(name);
        let mut command = Command::new("qemu-img");
        command.args(["create", "-q", "-f", "qcow2", "-F", format, "-b"]).arg(&base);
        command.args(["-o", &format!("cluster_size=64k{options}")]).arg(&path);
        assert!(command.status().expect("it runs").success(), "{command:?}");
        path
    };
    let raw = make("raw.qcow2", "raw", ",size=1G");
    let why = refused(&manager, &raw).await;
    assert!(matches!(why, Unfit::Layer(LayerError::OtherFormat { .. })), "{why}");
    let data = scratch.join("data");
    let outside = make("outside.qcow2", "qcow2", &format!(",data_file={}", data.display()));
    let why = refused(&manager, &outside).await;
    assert!(matches!(why, Unfit::Layer(LayerError::DataFile)), "{why}");
    let small = make("small.qcow2", "qcow2", ",size=64M");
    let why = refused(&manager, &small).await;
    assert!(matches!(why, Unfit::Layer(LayerError::Smaller { .. })), "{why}");
    let text = scratch.join("text.qcow2");
    fs::write(&text, "no image").expect("a file");
    let why = refused(&manager, &text).await;
    assert!(matches!(why, Unfit::Layer(LayerError::Header(_))), "{why}");
    assert_eq!(fs::read(&text).expect("the file"), b"no image");
    let long = disk_of_length(&good, &scratch.join("long.qcow2"), 1 << 31);
    let why = refused(&manager, &long).await;
    assert!(matches!(why, Unfit::TooLong { bytes: 0x8000_0000, limit_mib: 1056 }), "{why}");
    assert!(manager.active_vms().is_empty() && children().is_empty());
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

fn disk_of_length(disk: &Path, path: &Path, length: u64) -> PathBuf {
    fs::copy(disk, path).expect("a copy");
    File::options().write(true).open(path).expect("it").set_len(length).expect("longer");
    path.to_owned()
}

/// Whoever is killed leaves the disk where it is, with what the guest had written to it.
#[apply(test)]
async fn a_killed_program_leaves_the_disk(scratch: Scratch) {
    let disk = scratch.join("kept.qcow2");
    let code = "print('kept')";
    let answer = run(exec(&scratch).arg("--keep").arg(&disk).args(["python", "-c", code]));
    assert_eq!(answer.code, Some(0), "{answer}");
    let on = || {
        let mut command = exec(&scratch);
        command.arg("--on").arg(&disk).args(["python", "-c"]);
        command
    };
    let mut killed = on().arg(LEAVES_AND_SLEEPS).stdout(Stdio::piped()).spawn().expect("it runs");
    let mut line = String::new();
    BufReader::new(killed.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
    assert_eq!(line, "synced\n");
    let answer = run(on().arg(FINDS));
    assert_eq!(answer.code, Some(125), "{answer}");
    assert!(answer.stderr.contains("another process has it open"), "{answer}");
    killed.kill().expect("killed");
    killed.wait().expect("it ends");
    // Its QEMU dies with it, a moment later.
    let found = loop {
        let answer = run(on().arg(FINDS));
        if !answer.stderr.contains("another process has it open") {
            break answer;
        }
    };
    let said = (found.code, &*found.stdout, &*found.stderr);
    assert_eq!(said, (Some(0), "left\n", ""), "{found}");
}

/// The command line says what it can't do with a disk.
#[apply(test)]
fn the_command_line_names_what_it_refuses(scratch: Scratch) {
    let hello = ["python", "-c", "print('hello')"];
    let answer = run(exec(&scratch).args(["--on", "a", "--keep", "b"]).args(hello));
    assert_eq!((answer.code, &*answer.stdout), (Some(2), ""), "{answer}");
    assert!(answer.stderr.contains("--keep with --on"), "{answer}");
    let answer = run(exec(&scratch).args(["--on", "a", "--socket", "b"]).args(hello));
    assert_eq!((answer.code, &*answer.stdout), (Some(2), ""), "{answer}");
    let answer = run(exec(&scratch).args(["--on", "none.qcow2"]).args(hello));
    assert_eq!((answer.code, &*answer.stdout), (Some(125), ""), "{answer}");
    assert!(answer.stderr.contains("disk none.qcow2: No such file"), "{answer}");
}
