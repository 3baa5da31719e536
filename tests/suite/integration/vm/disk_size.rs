//! VMs whose disk is larger than their base image.

use std::collections::BTreeMap;

use overlay_pool::vm::{Language, OwnDisk, Start, VmDisk, VmError, VmSettings};
use serde_json::json;

use crate::harness::cli::run;
use crate::harness::prelude::*;
use crate::harness::vm_server::{self, Ran, execute};
use crate::harness::vms::{
    assert_no_vm_left, create, exec, overlay, prints, settings, started, until_ready,
};

const NEEDS: &[Need] = &[Need::QemuSystem, Need::GuestImages, Need::Accelerator];

const GIB: u64 = 1 << 30;
/// How much of MiB the file system of the guest has.
const SIZE: &str = "import os; s = os.statvfs('/'); print(s.f_blocks * s.f_frsize >> 20)";
/// Has a file reach over what the image had, with bytes at its end that are read from the disk again.
const REACH_OVER: &str = "import os
file = os.open('/root/large', os.O_RDWR | os.O_CREAT)
os.posix_fallocate(file, 0, 3 << 29)
os.pwrite(file, b'the end', (3 << 29) - 7)
os.fsync(file)
open('/proc/sys/vm/drop_caches', 'w').write('3')
print(os.pread(file, 100, (3 << 29) - 7).decode())";

/// A little of it is the file system's own.
fn is_about(mib: &str, size: u64) -> bool {
    let mib: u64 = mib.trim().parse().expect("a number");
    (size / 100 * 97..=size).contains(&(mib << 20))
}

/// However the VM comes to life, its file system has all of its disk, and the next VM's is as ever.
#[apply(test)]
#[case::booted(Start::Booted)]
#[case::resumed(Start::Resumed)]
#[case::warm(Start::Warm)]
async fn its_file_system_has_all_of_it(scratch: Scratch, #[case] start: Start) {
    let waiting = u32::from(start == Start::Warm);
    let settings = VmSettings {
        resume: start != Start::Booted,
        disk_mib: VmSettings::disk_mib_for(4 * GIB),
        warm: BTreeMap::from([(Language::PYTHON, waiting)]),
        ..settings(&scratch)
    };
    let manager = started(settings, Language::PYTHON).await;
    until_ready(&manager, Language::PYTHON, waiting as usize).await;
    let create_with =
        |size| manager.create_vm_with(VmDisk::Sized(size), Language::PYTHON, "tenant", "task");
    let vm = create_with(4 * GIB - 1).await.expect("a VM");
    assert_eq!(vm.start(), Some(start));
    assert!(vm.disk_source().is_some());
    let size = prints(&vm, SIZE).await;
    assert!(is_about(&size, 4 * GIB), "{size}");
    assert_eq!(prints(&vm, REACH_OVER).await, "the end\n");
    manager.destroy_vm(&vm).await;

    // As large as it is anyway.
    let vm = create_with(GIB).await.expect("a VM");
    let size = prints(&vm, SIZE).await;
    assert!(is_about(&size, GIB), "{size}");
    manager.destroy_vm(&vm).await;
    let vm = create(&manager, Language::PYTHON).await;
    assert_eq!(prints(&vm, SIZE).await, size);
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

/// A caller's disk may be larger, too.
#[apply(test)]
async fn so_has_that_of_a_caller_s_disk(scratch: Scratch) {
    let manager = started(settings(&scratch), Language::PYTHON).await;
    let disk = scratch.join("disk.qcow2");
    let base = manager.base_image(Language::PYTHON).expect("a base image");
    overlay(&base, &disk, Some(2 * GIB));
    for _ in 0..2 {
        let on = manager.create_vm_with(OwnDisk::at(&disk), Language::PYTHON, "tenant", "task");
        let vm = on.await.expect("a VM");
        let size = prints(&vm, SIZE).await;
        assert!(is_about(&size, 2 * GIB), "{size}");
        manager.destroy_vm(&vm).await;
    }
    manager.stop().await;
}

/// No less than the base image has, and no more than may be written.
#[apply(test)]
async fn a_size_that_can_not_be_is_named(scratch: Scratch) {
    let settings = VmSettings { disk_mib: 2000, ..settings(&scratch) };
    let most = settings.largest_disk();
    let manager = started(settings, Language::PYTHON).await;
    for size in [0, GIB - 4097, most + 4096, u64::MAX] {
        let disk = VmDisk::Sized(size);
        let refused = manager.create_vm_with(disk, Language::PYTHON, "tenant", "task").await;
        let error = refused.expect_err("no VM");
        let expected = matches!(error, VmError::DiskSize { least: GIB, limit_mib: 2000, .. });
        assert!(expected, "{error}");
        assert!(error.to_string().contains(&most.to_string()), "{error}");
    }
    assert!(manager.active_vms().is_empty());
    manager.stop().await;
}

/// All of it can be written to within the limit that goes with it, and a kept disk has its size.
#[apply(test)]
fn all_of_it_can_be_written(scratch: Scratch) {
    let kept = scratch.join("kept.qcow2");
    let mut command = exec(&scratch);
    command
        .args(["--size", "1200MiB", "--timeout", "500", "--keep"])
        .arg(&kept)
        .args(["python", "-c"]);
    let code = "import os
part, count = os.urandom(1 << 20), 0
with open('/root/file', 'wb', buffering=0) as file:
    try:
        while file.write(part) == len(part): count += 1
    except OSError as error: print(error.strerror)
    os.fsync(file.fileno())
print(count > 1010)";
    let answer = run(command.arg(code));
    let said = answer.stdout.lines().last();
    assert_eq!((answer.code, said, &*answer.stderr), (Some(0), Some("True"), ""), "{answer}");
    let mut again = exec(&scratch);
    again.args(["--disk", "1300", "--on"]).arg(&kept).args(["python", "-c", SIZE]);
    let answer = run(&mut again);
    assert!(is_about(&answer.stdout, 1200 << 20), "{answer}");

    let answer = run(exec(&scratch).args(["--size", "1M", "python", "-c", "print()"]));
    assert_eq!((answer.code, &*answer.stdout), (Some(125), ""), "{answer}");
    assert!(answer.stderr.contains("a disk of 1048576 bytes"), "{answer}");
    let answer = run(exec(&scratch).args(["--size", "2G", "--on", "a", "python", "-c", "print()"]));
    assert_eq!((answer.code, &*answer.stdout), (Some(2), ""), "{answer}");
    assert!(answer.stderr.contains("--size with --on"), "{answer}");
}

#[apply(test)]
async fn a_server_s_vms_have_it_too(scratch: Scratch) {
    let mut command = vm_server::command(&scratch, 2);
    command.env("OVERLAY_POOL_DISK", "3000");
    let mut server = crate::harness::server::Server::launch(&scratch, &mut command);
    server.await_ready();
    let asked = |size: u64| json!({ "language": "python", "code": SIZE, "virtual_size": size });
    let size = execute(&server, &asked(2 * GIB)).printed();
    assert!(is_about(&size, 2 * GIB), "{size}");
    let vm =
        server.post("/v1/vms", &json!({ "language": "python", "virtual_size": 2 * GIB })).json();
    let path = format!("/v1/vms/{}/execute", vm["id"].as_str().expect("an id"));
    let size = Ran::of(&server.post(&path, &json!({ "code": SIZE }))).printed();
    assert!(is_about(&size, 2 * GIB), "{size}");
    let large = server.post("/v1/execute", &asked(4 * GIB));
    assert_eq!(large.problem(422), "bad-disk");
    assert!(!large.body.contains("--disk"), "{large:?}");
    let both = json!({ "language": "python", "disk": "work", "virtual_size": 2 * GIB });
    assert_eq!(server.post("/v1/vms", &both).problem(422), "bad-request");
    server.stop();
    assert_no_vm_left(&scratch).await;
}
