//! What became of code that ran in a VM.

use std::time::Duration;

use serde::Serialize;

/// What became of code that ran in a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execution {
    /// How the program ended.
    pub end: End,
    /// What it wrote on its standard output.
    pub stdout: Output,
    /// What it wrote on its standard error.
    pub stderr: Output,
    /// Whether the VM's disk refused writes since it was made: it has reached its limit.
    pub disk_failed: bool,
    /// How long it took, from handing the code over to having its output.
    pub elapsed: Duration,
}

/// What became of a program whose output was passed on as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How the program ended.
    pub end: End,
    /// Whether there was more standard output, and more standard error, than came.
    pub cut: [bool; 2],
    /// Whether the VM's disk refused writes since it was made: it has reached its limit.
    pub disk_failed: bool,
    /// How long it took, from handing the code over to its end.
    pub elapsed: Duration,
}

/// How a program in a guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// By itself, with this exit code.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// It ran for too long, and was killed with all that ran in the guest.
    TimedOut,
}

impl End {
    /// The exit code as shells give it: 128 and more for a signal, 124 for a time-out.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
            Self::TimedOut => 124,
        }
    }
}

/// What a program wrote on one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// The bytes, from the first one on.
    pub bytes: Vec<u8>,
    /// Whether there was more of it than is kept.
    pub truncated: bool,
}

impl Output {
    /// The bytes as text, with what isn't UTF-8 replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}
