//! How the program ends.

use std::process::ExitCode;

/// The exit codes, which `--help` lists and scripts may rely on. Of several failures the first
/// one's counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Something failed.
    Failed = 1,
    /// The arguments can't be understood.
    Usage = 2,
    /// An image is missing, unreadable or refused, as a base of a disk of this size too.
    BadImage = 3,
    /// A target already exists.
    TargetExists = 4,
    /// This machine lacks what the creator needs.
    CreatorUnavailable = 5,
    /// No server answers at the socket.
    NoServer = 6,
    /// Code could not be run in a VM, or not to its end.
    NotRun = 125,
    /// Ctrl-C: 128 and the signal's number, as shells count.
    Interrupted = 130,
    /// SIGTERM.
    Terminated = 143,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
