//! Mounts that only the process under test and its children see.

use std::path::Path;
use std::process::Command;

use rustix::process::Pid;

/// Has a command run in a mount namespace of its own, as a root that has power over its mounts
/// alone.
pub(crate) fn private() -> Vec<String> {
    ["unshare", "--map-root-user", "--mount", "--"].map(str::to_owned).into()
}

/// Mounts something in the namespace of a process, with arguments as `mount` has them.
pub(crate) fn mount<const N: usize>(pid: Pid, args: [&str; N], at: &Path) {
    inside(pid, "mount", &args, at);
}

/// Mounts a file over itself: from then on it can be neither removed nor renamed (EBUSY).
pub(crate) fn make_busy(pid: Pid, file: &Path) {
    let file_name = file.to_string_lossy();
    mount(pid, ["--bind", &file_name], file);
}

/// Takes away what was mounted there.
pub(crate) fn unmount(pid: Pid, at: &Path) {
    inside(pid, "umount", &[], at);
}

fn inside(pid: Pid, program: &str, args: &[&str], at: &Path) {
    let target = format!("--target={}", pid.as_raw_nonzero());
    let status = Command::new("nsenter")
        .args([&target, "--user", "--mount", "--preserve-credentials", "--", program])
        .args(args)
        .arg(at)
        .status();
    assert!(status.expect("nsenter runs").success(), "{program} {args:?} {}", at.display());
}
