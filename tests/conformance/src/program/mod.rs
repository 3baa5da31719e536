//! The program: `overlay-pool-conformance run` and `export`.

mod exit;
mod export;
mod list;
mod run;
mod select;
mod tell;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{Parser, Subcommand};

use exit::{Exit, Stop};

use crate::{contract, isolation};

/// Judges a pool of ready qcow2 overlays, in any language, by the contract of such pools.
#[derive(Debug, Parser)]
#[command(
    name = "overlay-pool-conformance",
    version,
    long_version = LONG_VERSION.as_str(),
    after_help = exit::CODES,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::Run>),
    Export(export::Export),
}

static LONG_VERSION: LazyLock<String> =
    LazyLock::new(|| format!("{}\nof contract {}", env!("CARGO_PKG_VERSION"), contract::version()));

/// Runs the program with these arguments; the first is its own name.
#[must_use]
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    if let Some(code) = isolation::main_if_case() {
        return code;
    }
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody may be there to read it.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Passed }.into();
        }
    };
    let done = match cli.command {
        Command::Run(run) => run.run(),
        Command::Export(export) => export.run(),
    };
    match done {
        Ok(exit) => exit.into(),
        Err(Stop { exit, message }) => {
            tell::warning(format_args!("overlay-pool-conformance: {message}"));
            exit.into()
        }
    }
}
