//! The processes of a case, as `/proc` has them.

use std::fmt::Write;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Pid;

/// By this variable in their environment the shim and all that it starts are known.
pub const MARK: &str = "OVERLAY_POOL_CASE";

/// How often a process is looked at that becomes another program, a millisecond apart.
const LOOKS: usize = 1000;

/// The letter that `/proc/PID/stat` has for its state.
fn state(pid: Pid) -> Option<char> {
    let text = std::fs::read_to_string(folder(pid).join("stat")).ok()?;
    // The program's name before it may hold anything.
    text.rsplit_once(") ")?.1.chars().next()
}

/// The processes with this mark but for the shim's, and descendants of the shim that have none,
/// since they cleared their environment.
#[must_use]
pub fn started_by(shim: Pid, mark: &str) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    let mut found: Vec<Pid> =
        pids.filter(|pid| *pid != shim && mark_of(*pid).as_deref() == Some(mark)).collect();
    let mut parents = vec![shim];
    while let Some(parent) = parents.pop() {
        for child in children(parent) {
            if mark_of(child).is_none() && is_alive(child) {
                found.push(child);
            }
            parents.push(child);
        }
    }
    found
}

fn children(parent: Pid) -> Vec<Pid> {
    let tasks = std::fs::read_dir(folder(parent).join("task")).into_iter().flatten().flatten();
    let mut found = Vec::new();
    for task in tasks {
        let pids = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(pids.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)));
    }
    found
}

fn is_alive(pid: Pid) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Whether a process was stopped by a signal, and stands still.
#[must_use]
pub fn is_stopped(pid: Pid) -> bool {
    state(pid) == Some('T')
}

/// How many files a process has open.
pub(crate) fn open_files(pid: Pid) -> std::io::Result<usize> {
    std::fs::read_dir(folder(pid).join("fd")).map(Iterator::count)
}

/// The words of a process' command.
#[must_use]
pub fn command(pid: Pid) -> Vec<u8> {
    std::fs::read(folder(pid).join("cmdline")).unwrap_or_default()
}

/// Whether a process runs the program of this name.
#[must_use]
pub fn runs(pid: Pid, name: &str) -> bool {
    let program = std::fs::read_link(folder(pid).join("exe"));
    program.is_ok_and(|program| program.file_name() == Some(name.as_ref()))
}

/// Processes with the names of their programs.
#[must_use]
pub fn names(pids: &[Pid]) -> String {
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

/// The value of the mark in its environment, which is empty once the process has ended.
fn mark_of(pid: Pid) -> Option<String> {
    let environment = environment(pid);
    let mark = format!("{MARK}=");
    let mut variables = environment.split(|byte| *byte == 0);
    let value = variables.find_map(|variable| variable.strip_prefix(mark.as_bytes()))?;
    Some(String::from_utf8_lossy(value).into_owned())
}

/// What a process was started with. While it becomes another program it has neither environment nor
/// arguments, and would be taken for one that cleared its environment: that passes.
fn environment(pid: Pid) -> Vec<u8> {
    let read = || std::fs::read(folder(pid).join("environ")).unwrap_or_default();
    for _ in 0..LOOKS {
        let environment = read();
        if !environment.is_empty() {
            return environment;
        }
        // A thread of the kernel has no program, nor has what ended.
        if std::fs::read_link(folder(pid).join("exe")).is_err() {
            return Vec::new();
        }
        if !command(pid).is_empty() {
            // By now it is the other program.
            return read();
        }
        sleep(Duration::from_millis(1));
    }
    Vec::new()
}
