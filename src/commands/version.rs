//! Versions: this program's, and those of QEMU's.

use std::ffi::OsStr;
use std::fmt::Write;
use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::process::Command;
use tokio::time::timeout;

use super::block_on;
use super::text::escaped;

/// The programs of QEMU that are looked for.
const PROGRAMS: [&str; 3] = ["qemu-img", "qemu-storage-daemon", "qemu-system-x86_64"];

/// What this program is and which QEMU it finds, a line each.
pub(super) fn of_all() -> String {
    let mut text = concat!("overlay-pool ", env!("CARGO_PKG_VERSION"), "\n").to_owned();
    if let Some(commit) = option_env!("OVERLAY_POOL_COMMIT") {
        let _ = writeln!(text, "commit               {commit}");
    }
    let found = block_on(join_all(PROGRAMS.map(version)));
    for (program, version) in PROGRAMS.iter().zip(found.unwrap_or_default()) {
        let version = version.unwrap_or_else(|error| error.to_string());
        let _ = writeln!(text, "{program:<21}{}", escaped(&version));
    }
    text
}

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
