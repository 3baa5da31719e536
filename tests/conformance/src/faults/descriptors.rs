//! A process that can open no more files (EMFILE).

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

/// Lets a process open `free` files more; without a number as many as this process may.
///
/// # Errors
///
/// The process is gone, or may not be limited.
pub fn limit(pid: Pid, free: Option<usize>) -> io::Result<()> {
    let ours = getrlimit(Resource::Nofile);
    let current = match free {
        None => ours.current,
        Some(free) => Some(nth_unused(pid, free)?),
    };
    prlimit(Some(pid), Resource::Nofile, Rlimit { current, maximum: ours.maximum })?;
    Ok(())
}

/// What the open descriptors of a process lead to.
///
/// # Errors
///
/// The process is gone, or is another user's.
pub fn open(pid: Pid) -> io::Result<Vec<PathBuf>> {
    let open = std::fs::read_dir(folder(pid))?.flatten();
    // One that was closed meanwhile leads nowhere.
    Ok(open.filter_map(|fd| std::fs::read_link(fd.path()).ok()).collect())
}

fn folder(pid: Pid) -> String {
    format!("/proc/{}/fd", pid.as_raw_nonzero())
}

/// The kernel gives the lowest number that is unused, and none that the limit doesn't exceed.
fn nth_unused(pid: Pid, n: usize) -> io::Result<u64> {
    let open = std::fs::read_dir(folder(pid))?;
    let number = |name: std::ffi::OsString| name.to_str()?.parse().ok();
    let used: HashSet<u64> = open.flatten().filter_map(|fd| number(fd.file_name())).collect();
    Ok((0..).filter(|number| !used.contains(number)).nth(n).unwrap_or(u64::MAX))
}
