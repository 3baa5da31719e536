//! The cgroup of one VM.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::parent::{MEMORY, PROCESSES, PROCESSORS, Parent};
use crate::place::{Directory, Leftover, Sweep, sweep};

/// What the names of VMs' cgroups begin with.
const PREFIX: &str = "overlay-pool-vm-";
/// How long processes that were killed may take to be gone.
const END: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };
/// What a processor's time is counted in, in microseconds.
const PERIOD: u64 = 100_000;

/// How much a VM may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) memory_mib: u64,
    pub(super) processors: u64,
    pub(super) threads: u64,
}

/// A cgroup with a lock on it, like any directory that this process owns. Dropped, it is removed,
/// once all in it have ended.
#[derive(Debug)]
pub(in crate::vm) struct Cgroup {
    directory: Option<Directory>,
    path: PathBuf,
}

impl Cgroup {
    pub(super) fn create(parent: &Parent, limits: &Limits) -> io::Result<Self> {
        let directory = Directory::create(parent.path(), PREFIX)?;
        let path = directory.path().to_owned();
        let Limits { memory_mib, processors, threads } = *limits;
        let cgroup = Self { directory: Some(directory), path };
        if parent.has(MEMORY) {
            cgroup.set("memory.max", &(memory_mib << 20).to_string())?;
            match cgroup.set("memory.swap.max", "0") {
                // The kernel swaps nothing.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                set => set?,
            }
        }
        if parent.has(PROCESSORS) {
            // One more for QEMU's own work, which a busy guest would wait for.
            cgroup.set("cpu.max", &format!("{} {PERIOD}", (processors + 1) * PERIOD))?;
        }
        if parent.has(PROCESSES) {
            cgroup.set("pids.max", &threads.to_string())?;
        }
        Ok(cgroup)
    }

    fn set(&self, file: &str, value: &str) -> io::Result<()> {
        // Not made where it is missing.
        File::options().write(true).open(self.path.join(file))?.write_all_at(value.as_bytes(), 0)
    }

    /// Where a process writes itself to be in it.
    pub(super) fn processes(&self) -> io::Result<File> {
        File::options().write(true).open(self.path.join("cgroup.procs"))
    }

    /// How many MiB it allows, if the kernel killed a process that needed more.
    pub(in crate::vm) fn ran_out_of_memory(&self) -> Option<u64> {
        let events = fs::read_to_string(self.path.join("memory.events")).ok()?;
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
        let limit = fs::read_to_string(self.path.join("memory.max")).ok()?;
        let bytes: u64 = limit.trim().parse().ok()?;
        (kills != "0").then_some(bytes >> 20)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let Some(directory) = self.directory.take() else { return };
        if directory.remove().is_ok() {
            return;
        }
        // Its process is dying, or was only just told to.
        let path = self.path.clone();
        let end = move || {
            end(&path);
            drop(directory);
        };
        if let Err(error) = thread::Builder::new().spawn(end) {
            tracing::warn!(cgroup = %self.path.display(), %error, "cgroup not removed");
        }
    }
}

/// Kills all that is in a cgroup and waits for its end, unless that takes long.
fn end(cgroup: &Path) {
    let killed = fs::write(cgroup.join("cgroup.kill"), "1");
    let ended = killed.and_then(|()| until_empty(cgroup));
    if let Err(error) = ended {
        tracing::warn!(cgroup = %cgroup.display(), %error, "its processes don't end");
    }
}

fn until_empty(cgroup: &Path) -> io::Result<()> {
    let events = File::open(cgroup.join("cgroup.events"))?;
    loop {
        let mut text = [0; 64];
        let length = events.read_at(&mut text, 0)?;
        if text[..length].windows(11).any(|text| text == b"populated 0") {
            return Ok(());
        }
        if poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&END))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// Finds the cgroups of VMs whose owner is dead, and removes them on demand, with all that is
/// still in them.
#[must_use]
pub fn sweep_cgroups(what: Sweep) -> Vec<Leftover> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let roots = mounts.lines().filter_map(|mount| {
        let (at, kind) = mount.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then(|| at.split(' ').nth(4))?
    });
    let mut parents = BTreeSet::new();
    roots.for_each(|root| find_parents(Path::new(root), &mut parents));
    parents.iter().flat_map(|parent| sweep_in(parent, what)).collect()
}

/// Gathers the directories that have cgroups of VMs.
fn find_parents(directory: &Path, parents: &mut BTreeSet<PathBuf>) {
    // Another user's may be hidden.
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            parents.insert(directory.to_owned());
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            find_parents(&entry.path(), parents);
        }
    }
}

/// Removes those, and tells in the log what was found.
pub(super) fn remove_leftovers() {
    for Leftover { path, error, .. } in sweep_cgroups(Sweep::Remove) {
        match error {
            None => tracing::info!(cgroup = %path.display(), "removed what a dead owner left"),
            Some(error) => tracing::warn!(cgroup = %path.display(), %error, "not removed"),
        }
    }
}

/// Those in one cgroup.
fn sweep_in(parent: &Path, what: Sweep) -> Vec<Leftover> {
    let look = |what| {
        sweep(parent, PREFIX, what).unwrap_or_else(|error| {
            tracing::debug!(%error, "cgroups not swept");
            Vec::new()
        })
    };
    if what == Sweep::Remove {
        for leftover in look(Sweep::Look) {
            end(&leftover.path);
        }
    }
    look(what)
}
