//! How the program ends.

use std::process::ExitCode;

pub(super) const CODES: &str = "\
Exit codes:
  0  the port passes every case that was run
  1  it fails a case, passes one that its shim.toml disables, or (--strict) this machine
     lacks something that a case needs
  2  the arguments, the shim.toml or the folder of cases can't be used
  3  nothing could be judged: the shim doesn't start or answer, or this machine lacks what
     every case needs; or a report can't be written";

/// What scripts may rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Exit {
    Passed = 0,
    Failed = 1,
    Usage = 2,
    NotJudged = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why it ends before it is done, and what to do.
#[derive(Debug)]
pub(super) struct Stop {
    pub(super) exit: Exit,
    pub(super) message: String,
}

impl Stop {
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into() }
    }

    pub(super) fn not_judged(message: impl Into<String>) -> Self {
        Self { exit: Exit::NotJudged, message: message.into() }
    }
}
