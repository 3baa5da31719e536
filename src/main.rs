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
}

#[tokio::main]
async fn main() -> ExitCode {
    let Command::Shim(args) = Cli::parse().command;
    match commands::shim::run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("overlay-pool: {error}");
            ExitCode::FAILURE
        }
    }
}
