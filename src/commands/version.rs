//! The version of a program of QEMU.

use std::ffi::OsStr;
use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// How long a program may take to tell its version.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks a program, by path or by name on `PATH`.
pub(super) async fn version(program: impl AsRef<OsStr>) -> io::Result<String> {
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
