//! What the figures were measured on.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::available_parallelism;

use serde::Serialize;

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
    pub(super) fn probe(dir: &Path, qemu_img: &Path) -> Self {
        let unknown = || "unknown".to_owned();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease");
        Self {
            cores: available_parallelism().map_or(1, usize::from),
            kernel: kernel.map_or_else(|_| unknown(), |text| text.trim().to_owned()),
            filesystem: filesystem(dir).unwrap_or_else(unknown),
            qemu: qemu_version(qemu_img),
        }
    }
}

/// The type of the filesystem that `dir`, an absolute path, is on.
fn filesystem(dir: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    // The last one mounted hides those before.
    let longest = mounts.lines().filter_map(mount).filter(|(point, _)| dir.starts_with(point));
    longest.max_by_key(|(point, _)| point.as_os_str().len()).map(|(_, kind)| kind.to_owned())
}

/// Where something is mounted, and its type, from a line of `mountinfo`.
fn mount(line: &str) -> Option<(PathBuf, &str)> {
    let (mount, source) = line.split_once(" - ")?;
    let point = mount.split(' ').nth(4)?.replace("\\040", " ");
    Some((point.into(), source.split(' ').next()?))
}

fn qemu_version(qemu_img: &Path) -> Option<String> {
    let output = Command::new(qemu_img).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.strip_prefix("qemu-img version ")?.split_whitespace().next().map(str::to_owned)
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
    #[case("36 35 98:0 /a /mnt/x rw shared:1 - ext4 /dev/root rw", Some(("/mnt/x", "ext4")))]
    #[case("40 1 0:9 / /a\\040b rw - tmpfs none rw", Some(("/a b", "tmpfs")))]
    #[case("nonsense", None)]
    fn mountinfo_lines(#[case] line: &str, #[case] expected: Option<(&str, &str)>) {
        assert_eq!(mount(line), expected.map(|(point, kind)| (point.into(), kind)));
    }

    #[rstest]
    fn this_process_has_memory() {
        assert!(resident_memory().expect("a resident size") > 0);
    }
}
