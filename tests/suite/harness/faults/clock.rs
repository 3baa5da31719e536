//! A wall clock that jumps, for one process and what it starts.
//!
//! No namespace has a wall clock of its own, and the machine's is everybody's; so libfaketime gives
//! the process another one. The monotonic clock goes on as it is.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::requirements::Need;

pub(crate) struct Clock {
    file: PathBuf,
}

impl Clock {
    /// A clock that is right, and the prefix of the command line of a program that goes by it.
    pub(crate) fn new(folder: &Path) -> (Self, Vec<String>) {
        let clock = Self { file: folder.join("clock") };
        clock.set(0);
        let library = Need::Faketime.probe().as_ref().expect("the test needs faketime");
        let prefix = [
            "env".to_owned(),
            format!("LD_PRELOAD={library}"),
            format!("FAKETIME_TIMESTAMP_FILE={}", clock.file.display()),
            "FAKETIME_NO_CACHE=1".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
            "NO_FAKE_STAT=1".to_owned(),
        ];
        (clock, prefix.into())
    }

    /// Has the clock be wrong by so many seconds, from now on.
    pub(crate) fn set(&self, seconds: i64) {
        // It is read at every look at the clock, and must be whole then.
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{seconds:+}\n")).expect("the clock is written");
        std::fs::rename(&new, &self.file).expect("the clock is set");
    }
}

/// The library, where it moves the clock of a program.
pub(crate) fn probe() -> Result<String, String> {
    let run = |program: &[&str]| {
        let mut command = Command::new("faketime");
        command.args(["-m", "-f", "-20y"]).args(program);
        let output = command.output();
        let output = output.map_err(|error| format!("faketime: {error}; install faketime"))?;
        Ok::<_, String>(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    match run(&["date", "+%Y"])?.parse() {
        Ok(0..2020) => run(&["printenv", "LD_PRELOAD"]),
        other => Err(format!("faketime doesn't move the clock: {other:?}")),
    }
}
