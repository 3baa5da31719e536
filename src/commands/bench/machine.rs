//! What the figures were measured on.

use std::fs;
use std::io;
use std::path::Path;
use std::thread::available_parallelism;

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
    let mut sum = resident(Path::new("/proc/self"))?;
    for task in fs::read_dir("/proc/self/task")? {
        // A kernel may be built without this file, a thread or child may have ended by now.
        let children = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace() {
            sum += resident(&Path::new("/proc").join(child)).unwrap_or(0);
        }
    }
    Ok(sum)
}

fn resident(process: &Path) -> io::Result<u64> {
    let status = fs::read_to_string(process.join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| io::Error::other("no VmRSS in it"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    fn this_process_has_memory() {
        assert!(resident_memory().expect("a resident size") > 0);
    }
}
