//! The benchmarks in `tests/bench`, each in a process of its own: this binary, which holds them too.

use std::path::Path;
use std::process::{Command, ExitCode};

use super::cli;
use crate::bench;

const ROLE: &str = "OVERLAY_POOL_TEST_BENCH";

/// A benchmark that measures in `folder`, to be given more arguments.
pub(crate) fn command(name: &str, folder: &Path) -> Command {
    let program = std::env::current_exe().expect("the test binary");
    let mut command = cli::clean(Command::new(program), folder);
    command.env(ROLE, name).arg("--dir").arg(folder);
    command
}

/// If this process was started as a benchmark, is one.
pub(crate) fn main_if_bench() -> Option<ExitCode> {
    let name = std::env::var(ROLE).ok()?;
    Some(bench::main(&name))
}
