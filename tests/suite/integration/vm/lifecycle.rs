//! What a manager refuses, and what it leaves: nothing.

use std::path::Path;

use overlay_pool::vm::{Accelerator, Language, VmError, VmManager, VmSettings, VmState};

use crate::harness::pools::children;
use crate::harness::prelude::*;
use crate::harness::vms::{assert_no_vm_left, create, prints, settings, started};

const NEEDS: &[Need] = &[Need::QemuSystem, Need::GuestImages, Need::Accelerator];

#[apply(test)]
async fn over_the_limit_a_vm_is_refused_before_qemu_starts(scratch: Scratch) {
    let settings = VmSettings { max_concurrent_vms: 1, ..settings(&scratch) };
    let manager = started(settings, Language::PYTHON).await;
    let vm = create(&manager, Language::PYTHON).await;
    let before = children();
    let refused = manager.create_vm(Language::PYTHON, "tenant", "task").await;
    let refused = refused.expect_err("one too many");
    assert!(matches!(refused, VmError::TooMany { limit: 1 }), "{refused}");
    assert_eq!(children(), before);
    assert_eq!(manager.active_vms().len(), 1);
    manager.destroy_vm(&vm).await;
    manager.destroy_vm(&vm).await;
    assert!(manager.active_vms().is_empty());
    let next = create(&manager, Language::PYTHON).await;
    assert_ne!(next.id(), vm.id());
    manager.stop().await;
    manager.stop().await;
    assert_eq!(next.state(), VmState::Destroyed);
    assert_no_vm_left(&scratch).await;
}

#[apply(test)]
async fn what_is_refused_leaves_nothing(scratch: Scratch) {
    let manager = VmManager::new(settings(&scratch));
    let create = |id| manager.create_vm(Language::PYTHON, id, "task");
    assert!(matches!(create("t").await, Err(VmError::NotStarted)));
    manager.start().await.expect("the manager starts");
    assert!(matches!(manager.start().await, Err(VmError::AlreadyStarted)));
    assert!(matches!(create("../t").await, Err(VmError::BadId { what: "tenant", .. })));
    let raw = manager.create_vm(Language::RAW, "tenant", "task").await;
    assert!(matches!(raw, Err(VmError::NoImage { language: Language::RAW, .. })));
    assert!(manager.active_vms().is_empty());
    manager.stop().await;
    assert!(matches!(create("t").await, Err(VmError::NotStarted)));
    assert_no_vm_left(&scratch).await;

    let qemu = scratch.join("no-qemu");
    let manager = VmManager::new(VmSettings { qemu, ..settings(&scratch) });
    assert!(matches!(manager.start().await, Err(VmError::Spawn { .. })));
    assert_no_vm_left(&scratch).await;
}

/// QEMU says why, and so does the error.
#[apply(test)]
async fn a_qemu_that_refuses_to_start_is_quoted(scratch: Scratch) {
    let kernel = scratch.join("kernel");
    std::fs::write(&kernel, "no kernel").expect("a file");
    let settings = VmSettings { kernel_path: Some(kernel), resume: false, ..settings(&scratch) };
    let manager = started(settings, Language::PYTHON).await;
    let error = manager.create_vm(Language::PYTHON, "tenant", "task").await.expect_err("no VM");
    let VmError::Ended { said, .. } = &error else { panic!("{error}") };
    assert!(said.contains("kernel"), "{error}");
    assert!(manager.active_vms().is_empty());
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

#[apply(test)]
async fn twenty_rounds_leave_nothing(scratch: Scratch) {
    let manager = started(settings(&scratch), Language::PYTHON).await;
    for round in 0..20 {
        let vm = create(&manager, Language::PYTHON).await;
        assert_eq!(children().len(), 1, "round {round}");
        manager.destroy_vm(&vm).await;
        assert_eq!(vm.directory(), None);
        assert!(children().is_empty(), "round {round}: {:?}", children());
    }
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

#[apply(test)]
async fn a_dropped_manager_leaves_nothing(scratch: Scratch) {
    let manager = started(settings(&scratch), Language::PYTHON).await;
    let vm = create(&manager, Language::PYTHON).await;
    drop(manager);
    assert_eq!(vm.state(), VmState::Destroyed);
    assert_no_vm_left(&scratch).await;
}

#[apply(test)]
async fn a_vm_that_is_being_made_can_be_given_up(scratch: Scratch) {
    let settings = VmSettings { resume: false, ..settings(&scratch) };
    let manager = started(settings, Language::PYTHON).await;
    // The call is dropped.
    {
        let create = manager.create_vm(Language::PYTHON, "tenant", "task");
        tokio::pin!(create);
        tokio::select! {
            vm = &mut create => panic!("it can't be ready yet: {vm:?}"),
            () = eventually("QEMU runs", || !children().is_empty()) => {}
        }
        assert_eq!(manager.active_vms().len(), 1);
        assert_eq!(manager.active_vms()[0].state(), VmState::Booting);
    }
    assert!(manager.active_vms().is_empty());
    eventually("QEMU is gone", || children().is_empty()).await;
    // The manager is stopped.
    let create = manager.create_vm(Language::PYTHON, "tenant", "task");
    let stop = async {
        eventually("QEMU runs", || !children().is_empty()).await;
        manager.stop().await;
    };
    let (created, ()) = tokio::join!(create, stop);
    assert!(matches!(created, Err(VmError::NotReady { .. })), "{created:?}");
    assert_no_vm_left(&scratch).await;
}

#[apply(test)]
async fn private_files(scratch: Scratch) {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| path.metadata().expect("a file").permissions().mode() & 0o7777;
    let manager = started(settings(&scratch), Language::PYTHON).await;
    let vm = create(&manager, Language::PYTHON).await;
    let directory = vm.directory().expect("a working directory");
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&vm.disk().expect("a disk")), 0o600);
    let files: Vec<_> = directory.read_dir().expect("it").flatten().map(|e| e.path()).collect();
    assert_eq!(files, [vm.disk().expect("a disk")], "no socket, no log");
    let network = "import os\nprint(os.listdir('/sys/class/net'))";
    assert_eq!(prints(&vm, network).await, "['lo']\n");
    let hostname = "import socket\nprint(socket.gethostname())";
    assert_eq!(prints(&vm, hostname).await, format!("{}\n", vm.id()));
    manager.stop().await;
}

/// TCG only where it was asked for.
#[apply(test)]
async fn auto_never_falls_back_to_tcg(scratch: Scratch) {
    let settings = VmSettings { accelerator: Accelerator::Auto, ..settings(&scratch) };
    let manager = VmManager::new(settings);
    match (manager.start().await, overlay_pool::vm::kvm::probe().is_usable()) {
        (Ok(()), true) => manager.stop().await,
        (Err(VmError::NoAccelerator { .. }), false) => {}
        (result, usable) => panic!("KVM usable: {usable}, and {result:?}"),
    }
    assert_no_vm_left(&scratch).await;
}
