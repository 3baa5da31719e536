//! VMs of the service that the unit starts.

use serde_json::json;

use crate::harness::faults::strace;
use crate::harness::prelude::*;
use crate::harness::server::Server;
use crate::harness::systemd::{forbidden_by, traced_server};
use crate::harness::vm_server::{execute, with_vms};

const NEEDS: &[Need] =
    &[Need::QemuSystem, Need::GuestImages, Need::Accelerator, Need::Systemd, Need::Strace];

/// With the file for VMs beside it, the unit forbids nothing that a VM needs: systemd kills QEMU for
/// anything else.
#[apply(test)]
async fn the_unit_lets_vms_run(scratch: Scratch) {
    let summary = scratch.join("calls");
    let mut command = with_vms(traced_server(&scratch, &summary), 2);
    let mut server = Server::launch(&scratch, &mut command);
    server.await_ready();
    let ran = execute(&server, &json!({ "language": "python", "code": "print('hello')" }));
    assert_eq!(ran.printed(), "hello\n");
    server.stop();

    let used = strace::summarized(&summary).await;
    assert!(used.contains("seccomp") && used.contains("execve"), "{used:?}");
    assert_eq!(forbidden_by(&["overlay-pool.service", "vms.conf"], &used), [""; 0]);
}
