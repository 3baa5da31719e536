//! The command line of `overlay-pool`: parse, call, print.

mod commands;

use std::process::ExitCode;

fn main() -> ExitCode {
    commands::run(std::env::args_os()).print()
}
