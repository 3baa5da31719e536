//! QEMU's programs and their versions.

use futures_util::future::join_all;
use overlay_pool::vm::can_resume;

use super::Finding;
use crate::commands::version::version;

/// What boots VMs.
const SYSTEM: &str = "qemu-system-x86_64";

/// The programs, and what to do if one is missing.
const PROGRAMS: [(&str, &str); 3] = [
    ("qemu-img", "install QEMU's tools (Debian: qemu-utils), or do without the qemu-img creator"),
    (
        "qemu-storage-daemon",
        "install QEMU's tools (Debian: qemu-utils), or do without the storage-daemon creator",
    ),
    (SYSTEM, "install QEMU 8.2 or later (Debian: qemu-system-x86) to boot and resume VMs"),
];

pub(super) async fn look() -> Vec<Finding> {
    join_all(PROGRAMS.map(|(program, advice)| async move {
        match version(program).await {
            Ok(version) if program == SYSTEM && !can_resume(&version) => {
                let advice = "each VM boots anew, since resuming one needs QEMU 8.2 or later; \
                              install that (Debian 12: from bookworm-backports)";
                Finding::note(program, version, advice)
            }
            Ok(version) => Finding::ok(program, version),
            Err(error) => Finding::note(program, error, advice),
        }
    }))
    .await
}
