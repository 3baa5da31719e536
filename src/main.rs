//! The command line of `overlay-pool`: parse, call, print.

mod commands;

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// A server gives memory back on other threads than it takes it on, for which those of glibc wait for
/// each other, and those of musl for one lock.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    commands::run(std::env::args_os()).print()
}
