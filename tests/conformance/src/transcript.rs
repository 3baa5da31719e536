//! What is asked of a shim and what it answers, line by line.

use std::fs::File;
use std::io::Write;
use std::time::Instant;

/// A file of lines, each with its time in seconds.
pub(crate) struct Transcript {
    file: File,
    since: Instant,
}

impl Transcript {
    /// To a file that is open for appending.
    pub(crate) fn to(file: File) -> Self {
        Self { file, since: Instant::now() }
    }

    /// The same one, for another thread.
    pub(crate) fn another(&self) -> std::io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, since: self.since })
    }

    pub(crate) fn note(&mut self, direction: char, line: &str) {
        let time = self.since.elapsed().as_secs_f64();
        // In one write each: two threads append to it.
        let _ = self.file.write_all(format!("{time:8.3} {direction} {line}\n").as_bytes());
    }
}
