//! What the figures were measured on.

use std::fs;
use std::io;
use std::path::Path;
use std::thread::available_parallelism;
use std::time::Duration;

use rustix::param::clock_ticks_per_second;
use serde::Serialize;

use crate::commands::filesystem;
use crate::commands::version::version;

/// The facts about a machine that figures depend on.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    pub(super) cores: usize,
    pub(super) kernel: String,
    /// Of the folder that was measured in.
    pub(super) filesystem: String,
    /// The version of `qemu-img`; none where the machine lacks it.
    pub(super) qemu: Option<String>,
}

impl Machine {
    /// Asks this machine, with `dir` as the folder that is measured in.
    pub(super) async fn probe(dir: &Path, qemu_img: &Path) -> Self {
        let unknown = || "unknown".to_owned();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease");
        Self {
            cores: available_parallelism().map_or(1, usize::from),
            kernel: kernel.map_or_else(|_| unknown(), |text| text.trim().to_owned()),
            filesystem: filesystem::name(dir).unwrap_or_else(|_| unknown()),
            qemu: version(qemu_img).await.ok(),
        }
    }
}

/// The resident memory of this process and of those it started, in bytes.
pub(super) fn resident_memory() -> io::Result<u64> {
    let mut sum = resident(Path::new("/proc/self"))?.now;
    for task in fs::read_dir("/proc/self/task")? {
        // A kernel may be built without this file, a thread or child may have ended by now.
        let children = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace() {
            sum += resident(&Path::new("/proc").join(child)).map_or(0, |child| child.now);
        }
    }
    Ok(sum)
}

/// The resident memory of a process, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resident {
    pub(super) now: u64,
    /// The most that it ever had.
    pub(super) most: u64,
}

/// Asks for the resident memory of a process by its folder in `/proc`.
pub(super) fn resident(process: &Path) -> io::Result<Resident> {
    let status = fs::read_to_string(process.join("status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.map(|kib| kib << 10).ok_or_else(|| io::Error::other(format!("no {name} in it")))
    };
    Ok(Resident { now: field("VmRSS")?, most: field("VmHWM")? })
}

/// The time that a process has had on any core.
pub(super) fn cpu_time(process: &Path) -> io::Result<Duration> {
    let stat = fs::read_to_string(process.join("stat"))?;
    // The program's name may hold anything; in the user's mode and the kernel's, in ticks.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
    let ticks = |field: usize| fields.get(field).and_then(|ticks| ticks.parse::<u64>().ok());
    let ticks = ticks(11).zip(ticks(12)).map(|(user, system)| user + system);
    let ticks = ticks.ok_or_else(|| io::Error::other("no times in it"))?;
    Ok(Duration::from_millis(ticks * 1000 / clock_ticks_per_second()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    fn this_process_has_memory_and_time() {
        assert!(resident_memory().expect("a resident size") > 0);
        let used = || cpu_time("/proc/self".as_ref()).expect("a time");
        let before = used();
        while used() == before {}
        assert!(used() > before);
    }
}
