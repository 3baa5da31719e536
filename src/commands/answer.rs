//! What a subcommand has to say, and how it is printed.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::exit::Exit;
use super::failure::Failure;
use super::text;

/// What goes to standard output, and what went wrong.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) text: String,
    /// What is to be known of what was done, though it went well.
    pub(crate) warnings: Vec<String>,
    pub(crate) failures: Vec<Failure>,
    /// The exit code of a program that was run, if nothing else failed.
    pub(crate) code: u8,
}

impl Answer {
    /// One JSON object with what failed in it, `failures`, besides these facts.
    pub(crate) fn json(mut facts: Value, failures: Vec<Failure>) -> Self {
        facts["failures"] = failures.iter().map(Failure::json).collect();
        let text = text::escaped_json(&format!("{facts:#}\n"));
        Self { text, failures, ..Self::default() }
    }

    /// A program that asked for JSON gets a failure as that too, if there is nothing else.
    pub(crate) fn or_failures_as_json(self) -> Self {
        if self.text.is_empty() && !self.failures.is_empty() {
            return Self { code: self.code, ..Self::json(json!({}), self.failures) };
        }
        self
    }

    /// Prints the text, then each warning and each failure as a line on standard error.
    pub(crate) fn print(mut self) -> ExitCode {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(self.text.as_bytes()).and_then(|()| stdout.flush());
        // Whoever closed the pipe has read enough.
        if let Err(error) = written
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            let cause = format!("can't write to standard output: {error}");
            self.failures.push(Failure::new(Exit::Failed, cause, "make room, or write elsewhere"));
        }
        for warning in &self.warnings {
            let _ = writeln!(io::stderr(), "overlay-pool: warning: {}", text::escaped(warning));
        }
        for failure in &self.failures {
            // If standard error is closed too, the exit code is all that is left to tell.
            let _ = writeln!(io::stderr(), "overlay-pool: {failure}");
        }
        self.failures.first().map_or(self.code.into(), |failure| failure.exit().into())
    }
}

impl From<String> for Answer {
    fn from(text: String) -> Self {
        Self { text, ..Self::default() }
    }
}

impl From<Failure> for Answer {
    fn from(failure: Failure) -> Self {
        Self { failures: vec![failure], ..Self::default() }
    }
}
