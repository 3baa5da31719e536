//! QEMU's programs and their versions.

use futures_util::future::join_all;
use overlay_pool::vm::can_resume;

use super::Finding;
use crate::commands::version::version;

/// The programs, and what to do where one is missing.
const PROGRAMS: [(&str, &str); 3] = [
    ("qemu-img", "install QEMU's tools (Debian: qemu-utils), or do without the qemu-img creator"),
    (
        "qemu-storage-daemon",
        "install QEMU's tools (Debian: qemu-utils), or do without the storage-daemon creator",
    ),
    ("qemu-system-x86_64", "install QEMU (Debian: qemu-system-x86) to boot VMs"),
];

pub(super) async fn look() -> Vec<Finding> {
    join_all(PROGRAMS.map(|(program, advice)| async move {
        match version(program).await {
            Ok(version) if program.starts_with("qemu-system") && !can_resume(&version) => {
                Finding::note(program, version, "VMs boot each time: QEMU resumes them from 8.2 on")
            }
            Ok(version) => Finding::ok(program, version),
            Err(error) => Finding::note(program, error, advice),
        }
    }))
    .await
}
