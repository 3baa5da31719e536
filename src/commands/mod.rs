//! The command line, one file a subcommand.

mod acquire;
mod answer;
mod arguments;
mod bench;
mod completions;
mod create;
mod doctor;
mod exec;
mod exit;
mod failure;
mod filesystem;
mod gc;
mod images;
mod inspect;
mod openapi;
mod serve;
mod shim;
mod stats;
mod text;
mod version;

use std::ffi::OsString;
use std::future::Future;
use std::io::{self, IsTerminal};

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

pub(crate) use answer::Answer;
use exit::Exit;
use failure::Failure;

/// Says what is logged, in the form of `tracing-subscriber`'s `EnvFilter`.
const LOG: &str = "OVERLAY_POOL_LOG";

const ENVIRONMENT: &str = "\
Exit codes:
  0  everything that was asked for was done
  1  something failed; standard error says what, and what to do
  2  the arguments can't be understood or don't fit the base image
  3  an image is missing, unreadable or refused
  4  a target already exists
  5  this machine lacks what the creator needs
  6  no server answers at the socket
  125  exec: the code could not be run; else its exit code is the code's own
  130  exec: it was interrupted
Of several failures the first gives the code.

Environment:
  OVERLAY_POOL_DIR     where pools make their directories
  OVERLAY_POOL_SOCKET  where the server listens
  OVERLAY_POOL_LOG     what to log on standard error, as in `overlay_pool=debug`

Examples:
  overlay-pool create base.qcow2 vm-1.qcow2 vm-2.qcow2
  overlay-pool exec python -c \"print('hello from pool')\"
  overlay-pool serve --images /var/lib/vms/images
  overlay-pool bench
  overlay-pool doctor";

/// Ready qcow2 overlays for instant VM boot.
#[derive(Debug, Parser)]
#[command(
    name = "overlay-pool",
    version,
    max_term_width = 100,
    after_help = ENVIRONMENT,
    arg_required_else_help = false,
    disable_help_subcommand = true
)]
struct Cli {
    /// Log what happens on standard error.
    #[arg(short, long, global = true)]
    verbose: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::Serve>),
    Acquire(acquire::Acquire),
    Stats(stats::Stats),
    Openapi(openapi::Openapi),
    Exec(exec::Exec),
    Images(images::Images),
    Create(create::Create),
    Inspect(inspect::Inspect),
    Bench(bench::Bench),
    Doctor(doctor::Doctor),
    Gc(gc::Gc),
    Shim(shim::Shim),
    Completions(completions::Completions),
}

/// Does what the arguments ask for.
pub(crate) fn run(arguments: impl Iterator<Item = OsString>) -> Answer {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(said) if said.use_stderr() => return Failure::from(said).into(),
        Err(help) => return Answer::from(help.to_string()),
    };
    let default = match &cli.command {
        _ if cli.verbose => "overlay_pool=debug",
        Command::Serve(_) => "overlay_pool=info",
        _ => "off",
    };
    let answer = start_log(default).and_then(|()| match cli.command {
        Command::Serve(serve) => serve.run(),
        Command::Acquire(acquire) => acquire.run(),
        Command::Stats(stats) => stats.run(),
        Command::Openapi(_) => Ok(openapi::Openapi::run()),
        Command::Exec(exec) => exec.run(),
        Command::Images(images) => images.run(),
        Command::Create(create) => create.run(),
        Command::Inspect(inspect) => inspect.run(),
        Command::Bench(bench) => bench.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Gc(gc) => gc.run(),
        Command::Shim(shim) => shim.run(),
        Command::Completions(completions) => Ok(completions.run()),
    });
    answer.unwrap_or_else(Answer::from)
}

fn start_log(default: &str) -> Result<(), Failure> {
    let wanted = match std::env::var(LOG) {
        Ok(filter) => filter,
        Err(std::env::VarError::NotPresent) => default.to_owned(),
        Err(error) => return Err(Failure::new(Exit::Usage, format!("{LOG}: {error}"), LOG_ADVICE)),
    };
    let filter = EnvFilter::try_new(wanted)
        .map_err(|error| Failure::new(Exit::Usage, format!("{LOG}: {error}"), LOG_ADVICE))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .log_internal_errors(false)
        .init();
    Ok(())
}

const LOG_ADVICE: &str = "write it as in overlay_pool=debug";

/// Runs a future to its end, on this thread.
fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        let cause = format!("can't start the runtime: {error}");
        Failure::new(Exit::Failed, cause, "raise the limit of open files")
    })?;
    Ok(runtime.block_on(future))
}
