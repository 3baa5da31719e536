//! A cgroup of version 2 that a program is given to divide, as a service manager gives it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::fs::{XattrFlags, setxattr};

use crate::harness::shim::until;

const ROOT: &str = "/sys/fs/cgroup";
/// What those below it must be able to limit.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// Where the program moves itself.
const OWN: &str = "overlay-pool";

/// Dropped, it is removed with all that is in it.
pub(crate) struct Delegated(PathBuf);

impl Delegated {
    pub(crate) fn new() -> io::Result<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let (pid, number) = (std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let folder = PathBuf::from(format!("{ROOT}/overlay-pool-test-{pid}-{number}"));
        fs::create_dir(&folder)?;
        let cgroup = Self(folder);
        let controllers = fs::read_to_string(cgroup.0.join("cgroup.controllers"));
        // In the tree of version 1 such a folder can't be made, or has no such file.
        let controllers = controllers.unwrap_or_default();
        let has = |name: &&str| controllers.split_whitespace().any(|found| found == *name);
        if let Some(lacking) = CONTROLLERS.iter().find(|name| !has(name)) {
            return Err(io::Error::other(format!("{ROOT} has no controller {lacking} for it")));
        }
        // As systemd marks one; its absence means nothing where systemd doesn't run.
        setxattr(&cgroup.0, "trusted.delegate", b"1", XattrFlags::empty())?;
        Ok(cgroup)
    }

    /// A command that runs in it; a program that ran there has divided it already.
    pub(crate) fn command(&self, inner: &Command) -> Command {
        let own = self.0.join(OWN);
        let at = if own.exists() { own } else { self.0.clone() };
        let mut command = Command::new("sh");
        command.args(["-c", "echo 0 > \"$0\" && exec \"$@\""]).arg(at.join("cgroup.procs"));
        command.arg(inner.get_program()).args(inner.get_args()).env_clear();
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        inner.get_current_dir().map(|dir| command.current_dir(dir));
        command
    }

    /// The cgroups of VMs in it.
    pub(crate) fn vms(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).expect("a cgroup").flatten().map(|entry| entry.path());
        entries.filter(|path| is_vm(path)).collect()
    }

    /// That of a VM's process.
    #[track_caller]
    pub(crate) fn of(&self, pid: i32) -> PathBuf {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
        let path = text.lines().find_map(|line| line.strip_prefix("0::/")).expect("a cgroup");
        let path = Path::new(ROOT).join(path);
        assert!(path.parent() == Some(&*self.0) && is_vm(&path), "{}", path.display());
        path
    }
}

fn is_vm(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("overlay-pool-vm-"))
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        until(Duration::from_secs(5), || {
            for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(entry.path());
            }
            fs::remove_dir(&self.0).is_ok()
        });
    }
}

pub(crate) fn probe() -> Result<String, String> {
    let cgroup = Delegated::new().map_err(|error| {
        format!("{error}; run the tests as root, on a host with version 2 of cgroups alone")
    })?;
    Ok(cgroup.0.parent().unwrap_or(&cgroup.0).display().to_string())
}
