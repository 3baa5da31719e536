//! The command line: parse, call, print.

mod commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Shim(commands::shim::ShimArgs),
    Conformance(commands::conformance::ConformanceArgs),
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Shim(args) => commands::shim::run(args).await,
        Command::Conformance(args) => commands::conformance::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("overlay-pool: {error}");
            ExitCode::FAILURE
        }
    }
}
