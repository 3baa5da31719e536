//! A filesystem in user space: bindfs, which passes everything on to the directory that it covers,
//! but knows no unnamed files and no `RENAME_NOREPLACE`. Stopped, it hangs.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::unshare;

/// Lines of shell that mount it on a directory of the folder, which is the working directory. It
/// ends with the process that the shell becomes, and isn't counted among what that started.
#[must_use]
pub fn mount(point: &str) -> String {
    let mut script = String::new();
    let _ = writeln!(
        script,
        "OVERLAY_POOL_CASE=none setpriv --pdeathsig KILL \\\n\
         bindfs -f --multithreaded -o nonempty './{point}' './{point}' \\\n\
         </dev/null >'./{point}.log' 2>&1 &\n\
         echo $! >'./{point}.pid'\n\
         tries=1000; until mountpoint -q './{point}'; do\n\
         [ $((tries -= 1)) -gt 0 ]; sleep 0.01; done"
    );
    script
}

/// Has the filesystem hang from now on, for as long as that.
///
/// # Errors
///
/// It isn't mounted.
pub fn hang(folder: &Path, point: &str, time: Duration) -> Result<(), String> {
    let file = format!("{point}.pid");
    let text = std::fs::read_to_string(folder.join(&file));
    let text = text.map_err(|error| format!("{file}: {error}"))?;
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| format!("{file} holds no PID: {text}"))?;
    kill_process(pid, Signal::STOP).map_err(|error| format!("bindfs: {error}"))?;
    // The signal is sent by then, but a thread may still be at work.
    while !is_stopped(pid).map_err(|error| format!("bindfs: {error}"))? {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::spawn(move || {
        std::thread::sleep(time);
        let _ = kill_process(pid, Signal::CONT); // it ends with the process under test
    });
    Ok(())
}

/// Whether each thread of a process stands still.
fn is_stopped(pid: Pid) -> std::io::Result<bool> {
    let tasks = format!("/proc/{}/task", pid.as_raw_nonzero());
    for task in std::fs::read_dir(tasks)? {
        let stat = std::fs::read_to_string(task?.path().join("stat"))?;
        // The state comes after the name, which stands in brackets.
        if !stat.rsplit(") ").next().is_some_and(|state| state.starts_with('T')) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What bindfs says of itself, where it can be mounted.
///
/// # Errors
///
/// It isn't there, or can't be mounted.
pub fn probe() -> Result<String, String> {
    let script = format!("cd \"$0\"; mkdir point\n{}bindfs --version", mount("point"));
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-ec", &script])
        .arg(folder.path())
        .output()
        .map_err(|error| format!("unshare: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = std::fs::read_to_string(folder.path().join("point.log")).unwrap_or_default();
    Err(unshare::why(&output, said))
}
