//! VMs to test.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use overlay_pool::vm::{Execution, Language, Vm, VmManager, VmSettings};

use super::cli;
use super::pool_process::whole;
use super::pools::children;
use super::wait::eventually;

/// A program in Python that leaves a line in a file on its disk.
pub(crate) const LEAVES: &str = "open('/root/file', 'a').write('left\\n')";
/// The same, which has the disk written before it says so, and goes on.
pub(crate) const LEAVES_AND_SLEEPS: &str = "import os, time
open('/root/file', 'a').write('left\\n')
os.sync()
print('synced', flush=True)
time.sleep(1000)";
/// One that prints what others left there.
pub(crate) const FINDS: &str = "print(open('/root/file').read(), end='')";

/// The build directory, where the guest images lie and all tests share the saved states.
fn target() -> PathBuf {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    tmp.parent().expect("the build directory").to_owned()
}

/// The guest images: those of the environment, or those that `fixtures/provision.sh` built.
pub(crate) fn images() -> PathBuf {
    std::env::var_os("OVERLAY_POOL_IMAGES")
        .map_or_else(|| target().join("guest-images"), Into::into)
}

/// The saved states that all tests share, so that only the first of them boots.
pub(crate) fn states() -> PathBuf {
    target().join("vm-states")
}

/// `overlay-pool exec`, to be given the rest.
pub(crate) fn exec(scratch: &Path) -> Command {
    exec_by(cli::overlay_pool(scratch))
}

/// The same, where the program is started by another one.
pub(crate) fn exec_by(mut program: Command) -> Command {
    let accelerator = VmSettings::from_env().expect("a good environment").accelerator;
    program.arg("exec").env("OVERLAY_POOL_IMAGES", images());
    program.env("OVERLAY_POOL_STATES", states()).args(["--accel", accelerator.as_str()]);
    program
}

/// Settings whose working directories lie in the test's folder.
pub(crate) fn settings(scratch: &Path) -> VmSettings {
    VmSettings {
        base_images_dir: images(),
        max_concurrent_vms: 2,
        dir: scratch.join("pool"),
        states_dir: Some(states()),
        ..VmSettings::from_env().expect("a good environment")
    }
}

/// A manager that makes overlays ready for one language.
pub(crate) async fn started(settings: VmSettings, language: Language) -> VmManager {
    let manager = VmManager::new(settings);
    manager.start_for(language).await.expect("the manager starts");
    manager
}

/// A manager that keeps so many VMs of one language waiting.
pub(crate) async fn warmed(settings: VmSettings, language: Language, count: u32) -> VmManager {
    let warm = BTreeMap::from([(language, count)]);
    started(VmSettings { warm, ..settings }, language).await
}

/// Waits until so many VMs of a language wait, which takes long on a loaded machine.
pub(crate) async fn until_ready(manager: &VmManager, language: Language, count: usize) {
    while manager.warm_stats(language).ready != count {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn create(manager: &VmManager, language: Language) -> Arc<Vm> {
    manager.create_vm(language, "tenant", "task").await.expect("a VM")
}

/// Runs code that ends by itself in time.
pub(crate) async fn execute(vm: &Vm, code: &str) -> Execution {
    vm.execute(code, None).await.expect("the code runs")
}

/// What code prints, which has nothing to complain about.
pub(crate) async fn prints(vm: &Vm, code: &str) -> String {
    let execution = execute(vm, code).await;
    assert_eq!(execution.stderr.text(), "", "{code}");
    assert_eq!(execution.end.code(), 0, "{code}");
    execution.stdout.text()
}

/// An overlay of a base image, with nothing in it.
pub(crate) fn overlay(base: &Path, path: &Path, virtual_size: Option<u64>) {
    let mut file = File::create_new(path).expect("a file");
    file.write_all(&whole(base, virtual_size)).expect("written");
}

/// A QEMU that isn't ours, and has a disk open; `options` are those of the guest's device.
#[track_caller]
pub(crate) fn hold(disk: &Path, options: &str) -> Child {
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-nodefaults", "-display", "none", "-S", "-accel", "tcg", "-monitor", "stdio"])
        .arg("-blockdev")
        .arg(format!("qcow2,node-name=disk,file.driver=file,file.filename={}", disk.display()))
        .args(["-device", &format!("virtio-blk-pci,drive=disk{options}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("QEMU runs");
    // It obeys once it has opened all.
    let mut input = qemu.stdin.as_ref().expect("its input");
    input.write_all(b"info status\n").expect("it is asked");
    let mut said = BufReader::new(qemu.stdout.as_mut().expect("its output")).lines();
    assert!(said.any(|line| line.is_ok_and(|line| line.contains("VM status"))), "it obeys");
    qemu
}

/// Nothing is left of a manager: no QEMU, no working directory, no pool directory.
pub(crate) async fn assert_no_vm_left(scratch: &Path) {
    let left: Vec<_> = match scratch.join("pool").read_dir() {
        Ok(entries) => entries.flatten().map(|entry| entry.file_name()).collect(),
        Err(_) => Vec::new(),
    };
    assert!(
        left.iter().all(|name| name == "console" || name == "states" || name == "leases"),
        "{left:?} are left"
    );
    eventually("every QEMU is gone", || children().is_empty()).await;
}
