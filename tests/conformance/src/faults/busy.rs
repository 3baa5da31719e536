//! Files and directories that are busy (EBUSY), since something is mounted on them in the mount
//! namespace of the process under test.

use std::path::Path;
use std::process::Command;

use rustix::process::Pid;

/// Mounts something on a path. The process has a user and a mount namespace of its own.
///
/// # Errors
///
/// What `mount` says.
pub fn make(pid: Pid, path: &Path, is_dir: bool) -> Result<(), String> {
    let what = if is_dir { ["-t", "tmpfs", "tmpfs"] } else { ["--bind", "--", "/dev/null"] };
    run(pid, "mount", &what, path)
}

/// Undoes that.
///
/// # Errors
///
/// What `umount` says.
pub fn undo(pid: Pid, path: &Path) -> Result<(), String> {
    run(pid, "umount", &[], path)
}

fn run(pid: Pid, program: &str, args: &[&str], path: &Path) -> Result<(), String> {
    let mut command = Command::new("nsenter");
    // Without the right to change groups they have to stay as they are.
    command.args(["--preserve-credentials", "--user", "--mount"]);
    command.args(["--target", &pid.as_raw_nonzero().to_string()]);
    command.arg(program).args(args).arg(path);
    let output = command.output().map_err(|error| format!("nsenter: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
