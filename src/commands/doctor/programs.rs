//! QEMU's programs and their versions.

use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::process::Command;
use tokio::time::timeout;

use super::Finding;

/// The programs, and what to do where one is missing.
const PROGRAMS: [(&str, &str); 3] = [
    ("qemu-img", "install QEMU's tools (Debian: qemu-utils), or do without the qemu-img creator"),
    (
        "qemu-storage-daemon",
        "install QEMU's tools (Debian: qemu-utils), or do without the storage-daemon creator",
    ),
    ("qemu-system-x86_64", "install QEMU (Debian: qemu-system-x86) to boot VMs"),
];

/// How long a program may take to tell its version.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn look() -> Vec<Finding> {
    join_all(PROGRAMS.map(|(program, advice)| async move {
        match version(program).await {
            Ok(version) => Finding::ok(program, version),
            Err(error) => Finding::note(program, error, advice),
        }
    }))
    .await
}

async fn version(program: &str) -> io::Result<String> {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let Output { status, stdout, .. } = timeout(PATIENCE, command.output()).await??;
    // As in "qemu-img version 10.0.2 (Debian 1:10.0.2)".
    let text = String::from_utf8_lossy(&stdout);
    let version = text.lines().next().and_then(|line| line.split_once("version "));
    match version {
        Some((_, version)) if status.success() => Ok(version.to_owned()),
        _ => Err(io::Error::other(format!("--version doesn't tell one ({status})"))),
    }
}
