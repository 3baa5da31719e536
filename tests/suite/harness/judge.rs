//! The program that judges ports, run by this binary: it may lie anywhere, also in an archive.

use std::process::{Command, ExitCode};

use overlay_pool_conformance::program;

const ROLE: &str = "as-overlay-pool-conformance";

/// A command that is `overlay-pool-conformance`.
pub(crate) fn judge() -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the test binary"));
    command.arg(ROLE);
    command
}

/// Where this process was started as that program, is it.
pub(crate) fn main_if_judge() -> Option<ExitCode> {
    let mut arguments = std::env::args_os();
    let name = arguments.next()?;
    (arguments.next()? == ROLE).then(|| program::main(std::iter::once(name).chain(arguments)))
}
