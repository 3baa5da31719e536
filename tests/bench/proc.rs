//! What the kernel says of a process, by its folder in `/proc`.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::param::clock_ticks_per_second;

/// The resident memory of a process, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resident {
    pub(super) now: f64,
    /// The most that it ever had.
    pub(super) most: f64,
}

pub(super) fn resident(process: &Path) -> io::Result<Resident> {
    let status = fs::read_to_string(process.join("status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<f64>().ok());
        kib.map(|kib| kib * 1024.0).ok_or_else(|| io::Error::other(format!("no {name} in it")))
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
