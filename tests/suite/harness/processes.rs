//! The processes of a case, as `/proc` has them.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Pid;

/// By this variable in their environment the shim and all that it starts are known.
pub(crate) const MARK: &str = "OVERLAY_POOL_CASE";

/// What a process inherits says which case it belongs to.
enum Mark {
    Own,
    Other,
    None,
}

/// What `/proc/PID/stat` says.
struct Stat {
    parent: i32,
    state: String,
    /// Of its own and of the children that it has waited for, in ticks.
    cpu: u64,
}

impl Stat {
    fn read(process: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(process.join("stat")).ok()?;
        // The program's name before it may hold anything.
        let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
        let cpu = fields.get(11..15)?.iter().map(|ticks| ticks.parse().unwrap_or(0));
        let cpu: u64 = cpu.sum();
        Some(Self { parent: fields.get(1)?.parse().ok()?, state: fields[0].to_owned(), cpu })
    }
}

/// The shim's process is left out. A descendant of it that cleared its environment is found too,
/// unless it is another's now.
pub(crate) fn started_by(shim: Pid, mark: &str) -> Vec<Pid> {
    let mut found = HashMap::new();
    for process in all() {
        let (Some(pid), Some(stat)) = (pid_of(&process), Stat::read(&process)) else { continue };
        if stat.state != "Z" {
            found.insert(pid, (stat.parent, mark_of(&process, mark)));
        }
    }
    let shim = shim.as_raw_nonzero().get();
    let descends = |mut pid: i32| {
        // Bounded: what is read one after the other may form a circle.
        for _ in 0..found.len() {
            match found.get(&pid) {
                Some((parent, _)) if *parent == shim => return true,
                Some((parent, _)) => pid = *parent,
                None => return false,
            }
        }
        false
    };
    let is_started = |(pid, (_, mark)): &(&i32, &(i32, Mark))| match mark {
        Mark::Own => **pid != shim,
        Mark::Other => false,
        Mark::None => descends(**pid),
    };
    found.iter().filter(is_started).filter_map(|(pid, _)| Pid::from_raw(*pid)).collect()
}

/// For how long processes have computed, with the children that they have waited for.
pub(crate) fn cpu_time(pids: impl IntoIterator<Item = Pid>) -> Duration {
    let ticks = pids.into_iter().filter_map(|pid| Some(Stat::read(&folder(pid))?.cpu));
    Duration::from_millis(ticks.sum::<u64>() * 1000 / rustix::param::clock_ticks_per_second())
}

/// Whether a process was stopped by a signal, and stands still.
pub(crate) fn is_stopped(pid: Pid) -> bool {
    Stat::read(&folder(pid)).is_some_and(|stat| stat.state == "T")
}

/// The program that a process runs.
pub(crate) fn program(pid: Pid) -> Option<PathBuf> {
    std::fs::read_link(folder(pid).join("exe")).ok()
}

/// Whether a process runs the program of this name.
pub(crate) fn runs(pid: Pid, name: &str) -> bool {
    program(pid).is_some_and(|program| program.file_name() == Some(name.as_ref()))
}

/// Processes with the names of their programs.
pub(crate) fn names(pids: &[Pid]) -> String {
    let mut text = String::new();
    for pid in pids {
        let name = std::fs::read_to_string(folder(*pid).join("comm")).unwrap_or_default();
        let separator = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{separator}{} ({})", pid.as_raw_nonzero(), name.trim());
    }
    text
}

fn folder(pid: Pid) -> PathBuf {
    format!("/proc/{}", pid.as_raw_nonzero()).into()
}

fn all() -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| pid_of(path).is_some())
}

fn pid_of(process: &Path) -> Option<i32> {
    process.file_name()?.to_str()?.parse().ok()
}

fn mark_of(process: &Path, mark: &str) -> Mark {
    let environment = std::fs::read(process.join("environ")).unwrap_or_default();
    let environment = String::from_utf8_lossy(&environment);
    let mut variables = environment.split('\0').filter_map(|variable| variable.split_once('='));
    match variables.find(|(name, _)| *name == MARK) {
        Some((_, value)) if value == mark => Mark::Own,
        Some(_) => Mark::Other,
        None => Mark::None,
    }
}
