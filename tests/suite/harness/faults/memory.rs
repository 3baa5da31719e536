//! Memory that runs out for some processes, so that the kernel kills them: a cgroup with a limit.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::shim::until;

/// What the two versions of cgroups call the same things.
struct Names {
    root: &'static str,
    limit: &'static str,
    usage: &'static str,
    swap: (&'static str, &'static str),
    kills: &'static str,
}

const VERSIONS: [Names; 2] = [
    Names {
        root: "/sys/fs/cgroup/memory",
        limit: "memory.limit_in_bytes",
        usage: "memory.usage_in_bytes",
        swap: ("memory.swappiness", "0"),
        kills: "memory.oom_control",
    },
    Names {
        root: "/sys/fs/cgroup",
        limit: "memory.max",
        usage: "memory.current",
        swap: ("memory.swap.max", "0"),
        kills: "memory.events",
    },
];

/// A cgroup of the test's own. Dropped, it is removed, when all in it have ended.
pub(crate) struct Cgroup {
    folder: PathBuf,
    names: &'static Names,
}

impl Cgroup {
    pub(crate) fn new() -> io::Result<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let (pid, number) = (std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut failure = io::ErrorKind::NotFound.into();
        for names in &VERSIONS {
            let folder = PathBuf::from(format!("{}/overlay-pool-test-{pid}-{number}", names.root));
            match fs::create_dir(&folder) {
                Ok(()) => {
                    let cgroup = Self { folder, names };
                    if cgroup.folder.join(names.limit).exists() {
                        // A machine without swap has nothing to set here.
                        let _ = cgroup.write(names.swap.0, names.swap.1);
                        return Ok(cgroup);
                    }
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Where a process writes its PID to be in it, with all that it starts from then on.
    pub(crate) fn processes(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// Allows no more than this beyond what is used now, in bytes; without a number anything.
    pub(crate) fn limit(&self, more: Option<u64>) -> io::Result<()> {
        let Some(more) = more else {
            let all = if self.names.limit == "memory.max" { "max" } else { "-1" };
            return self.write(self.names.limit, all);
        };
        let used: u64 = self.read(self.names.usage)?.trim().parse().map_err(io::Error::other)?;
        self.write(self.names.limit, &(used + more).to_string())
    }

    /// How many processes the kernel has killed here.
    pub(crate) fn kills(&self) -> io::Result<u64> {
        let text = self.read(self.names.kills)?;
        let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills.unwrap_or("0").trim().parse().map_err(io::Error::other)
    }

    fn read(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(self.folder.join(name))
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        fs::write(self.folder.join(name), text)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        until(Duration::from_secs(5), || fs::remove_dir(&self.folder).is_ok());
    }
}

pub(crate) fn probe() -> Result<String, String> {
    let cgroup = Cgroup::new().map_err(|error| format!("{error}; run the tests as root"))?;
    Ok(cgroup.names.root.to_owned())
}
