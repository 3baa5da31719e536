//! QEMU's programs and their versions.

use futures_util::future::join_all;

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
    (SYSTEM, "install QEMU 9.0 or later (Debian: qemu-system-x86) to boot and resume VMs"),
];

/// The first version of QEMU that saves a guest's memory so that it can be resumed at once
/// (`mapped-ram`).
const RESUMES: u32 = 9;

pub(super) async fn look() -> Vec<Finding> {
    join_all(PROGRAMS.map(|(program, advice)| async move {
        match version(program).await {
            Ok(version)
                if program == SYSTEM && major(&version).is_some_and(|major| major < RESUMES) =>
            {
                let advice = "each VM boots anew, since resuming one needs QEMU 9.0 or later; \
                              install that (Debian 12: from bookworm-backports)";
                Finding::note(program, version, advice)
            }
            Ok(version) => Finding::ok(program, version),
            Err(error) => Finding::note(program, error, advice),
        }
    }))
    .await
}

/// As in `10.0.2 (Debian 1:10.0.2)`.
fn major(version: &str) -> Option<u32> {
    version.split_once('.')?.0.parse().ok()
}
