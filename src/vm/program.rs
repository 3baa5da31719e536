//! A program to be run in a VM.

use std::time::Duration;

/// Code, and all that it is run with.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use overlay_pool::vm::Program;
///
/// let program = Program::new("import sys; print(sys.argv[1:])")
///     .argument("one")
///     .variable("MODE", "test")
///     .timeout(Duration::from_secs(5));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub(super) code: Vec<u8>,
    pub(super) name: String,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<String>,
    pub(super) timeout: Option<Duration>,
    pub(super) max_output: Option<usize>,
}

impl Program {
    /// A program without arguments.
    pub fn new(code: impl AsRef<[u8]>) -> Self {
        Self {
            code: code.as_ref().to_owned(),
            name: "-c".to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            timeout: None,
            max_output: None,
        }
    }

    /// The code's name, which errors show and the program finds before its arguments.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = without_nul(name.into());
        self
    }

    /// Adds an argument, up to a NUL in it.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(without_nul(argument.into()));
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push(without_nul(format!("{name}={value}")));
        self
    }

    /// How long it may run, from being handed over; else as long as the settings say.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How many bytes of each output are kept; else as many as the settings say.
    #[must_use]
    pub fn max_output(mut self, bytes: usize) -> Self {
        self.max_output = Some(bytes);
        self
    }
}

/// No process can be given a NUL.
fn without_nul(mut text: String) -> String {
    if let Some(at) = text.find('\0') {
        text.truncate(at);
    }
    text
}
