//! VMs of the service that the unit starts.

use serde_json::json;

use crate::harness::faults::strace;
use crate::harness::prelude::*;
use crate::harness::server::Server;
use crate::harness::systemd::allowed_by;
use crate::harness::vm_server::{execute, with_vms};

const NEEDS: &[Need] =
    &[Need::QemuSystem, Need::GuestImages, Need::Accelerator, Need::Systemd, Need::Strace];

/// With the file for VMs beside it, the unit forbids nothing that a VM needs: systemd kills QEMU for
/// anything else.
#[apply(test)]
async fn the_unit_lets_vms_run(scratch: Scratch) {
    let allowed = allowed_by(&["overlay-pool.service", "vms.conf"]);
    assert!(allowed.contains("read") && !allowed.contains("mount"), "{allowed:?}");
    let summary = scratch.join("calls");
    let mut command = strace::around(&summary);
    command.arg("--summary-only").arg(env!("CARGO_BIN_EXE_overlay-pool")).arg("serve");
    command.env("OVERLAY_POOL_DIR", scratch.join("pool"));
    let mut server = Server::launch(&scratch, &mut with_vms(command, 2));
    server.await_ready();
    let ran = execute(&server, &json!({ "language": "python", "code": "print('hello')" }));
    assert_eq!(ran.printed(), "hello\n");
    server.stop();

    let used = strace::summarized(&summary).await;
    assert!(used.contains("seccomp") && used.contains("execve"), "{used:?}");
    let forbidden: Vec<_> = used.difference(&allowed).collect();
    assert!(forbidden.is_empty(), "{forbidden:?}");
}
