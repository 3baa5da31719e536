//! The command line, one file a subcommand.

mod about;
mod acquire;
mod answer;
mod arguments;
mod bench;
mod completions;
mod create;
#[cfg(feature = "csi")]
mod csi;
mod doctor;
mod exec;
mod exit;
mod failure;
mod filesystem;
mod gc;
mod help;
mod images;
#[cfg(feature = "images")]
mod in_use;
mod inspect;
mod lacking;
mod man;
mod metrics_listener;
mod openapi;
mod qemu_img;
mod serve;
mod shim;
mod socket;
mod stats;
mod text;
mod trusted;
mod version;

use std::ffi::OsString;
use std::fmt;
use std::future::Future;
use std::io;

use anstream::{AutoStream, ColorChoice};
use clap::error::ErrorKind;
use clap::{ArgAction, FromArgMatches, Parser, Subcommand, ValueEnum};
use tracing::field::Field;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

pub(crate) use answer::Answer;
use exit::Exit;
use failure::Failure;

/// Says what is logged, in the form of `tracing-subscriber`'s `EnvFilter`.
const LOG: &str = "OVERLAY_POOL_LOG";

const ENVIRONMENT: &str = "\
Exit codes:
  0  everything was done
  1  something failed; standard error says what, and what to do
  2  the arguments can't be understood
  3  an image is missing, unreadable or refused, or can't have a disk of that
     size
  4  a target already exists
  5  this machine lacks what the creator needs
  6  no server answers at the socket
  125  exec: the code could not be run; otherwise exec's exit code is the code's
       own
  130, 143
       Ctrl-C, SIGTERM; serve and stats --watch end so with 0

If several things failed, the code is that of the first. With --json they are in `failures` on
standard output too, each with its `exit_code` and `message`.

Environment, with what holds where a variable isn't set:
  OVERLAY_POOL_DIR     where pools make their directories: for root
                       /var/lib/overlay-pool, else overlay-pool in
                       XDG_STATE_HOME or ~/.local/state
  OVERLAY_POOL_SOCKET  where the server listens: for root
                       /run/overlay-pool/pool.sock, else overlay-pool.sock in
                       XDG_RUNTIME_DIR, without which it has to be named
  OVERLAY_POOL_STORE   where images of registries are kept: base-images in
                       OVERLAY_POOL_DIR
  OVERLAY_POOL_LOG     what to log on standard error, as in
                       `overlay_pool=debug`: nothing, for serve
                       `overlay_pool=info`
  NO_COLOR, CLICOLOR, CLICOLOR_FORCE
                       whether help and log have colours: on a terminal
Registries (images pull and push, serve --image):
  REGISTRY_AUTH_FILE, DOCKER_CONFIG
                       a file of credentials, and a directory of such: those
                       that podman login and docker login keep
  HTTPS_PROXY, HTTP_PROXY, NO_PROXY
                       proxies: none
  SSL_CERT_FILE        the authorities that are trusted: the system's
Guest images and VMs (images, exec):
  OVERLAY_POOL_IMAGES           the guest images: the first of these that has
                                some: images and target/guest-images here,
                                guest-images in OVERLAY_POOL_DIR and in
                                /var/lib/overlay-pool
  OVERLAY_POOL_KERNEL           the guests' kernel: beside the images
  OVERLAY_POOL_INITRAMFS        their initramfs: beside the images
  OVERLAY_POOL_QEMU             the QEMU that runs them: qemu-system-x86_64 on
                                PATH
  OVERLAY_POOL_ACCEL            kvm, tcg or auto, which is KVM and never TCG:
                                auto
  OVERLAY_POOL_MEMORY           a guest's memory in MiB: 128, for JavaScript 256
  OVERLAY_POOL_CPUS             a guest's processors: 1
  OVERLAY_POOL_DISK             what a guest's disk may take of the host's, in
                                MiB: 1056
  OVERLAY_POOL_VM_USER          the unprivileged user that QEMU runs as, for
                                root: this user
  OVERLAY_POOL_CGROUP           on or off, whether each VM has a cgroup if one
                                can be made: on
  OVERLAY_POOL_MAX_VMS          how many there may be at once: 10
  OVERLAY_POOL_BOOT_TIMEOUT     how long one may take to boot, in seconds: 60
  OVERLAY_POOL_EXECUTE_TIMEOUT  how long code may run, in seconds: 60
  OVERLAY_POOL_MAX_OUTPUT       how many bytes of each output are kept: 1048576
  OVERLAY_POOL_RESUME           on or off, whether saved states are resumed: on
  OVERLAY_POOL_STATES           where these are: states in OVERLAY_POOL_DIR
  OVERLAY_POOL_INTERPRETERS     a file of further languages, as exec --help has
                                one: none
  OVERLAY_POOL_WARM             how many wait for code, as in
                                python=4,javascript=2: none
  OVERLAY_POOL_WARM_IDLE        after how many seconds unasked they are given
                                up: 600
  OVERLAY_POOL_DEBIAN_MIRROR    the mirror that images build takes packages
                                from: that of apt

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
    arg_required_else_help = true
)]
struct Cli {
    /// Log what happens on standard error; `-vv` logs more.
    #[arg(short, long, global = true, action = ArgAction::Count, display_order = 900)]
    verbose: u8,
    /// How the log is written: a line for people, or a JSON object each.
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text", display_order = 901)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
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
    #[cfg(feature = "csi")]
    Csi(csi::Csi),
    Shim(shim::Shim),
    Completions(completions::Completions),
    Man(man::Man),
}

/// Does what the arguments ask for.
pub(crate) fn run(arguments: impl Iterator<Item = OsString>) -> Answer {
    let arguments: Vec<OsString> = arguments.collect();
    let answer = parse_and_run(&arguments);
    // A program that asked for JSON reads no lines, whatever went wrong.
    if arguments.iter().any(|argument| argument == "--json") {
        return answer.or_failures_as_json();
    }
    answer
}

fn parse_and_run(arguments: &[OsString]) -> Answer {
    let parsed = help::command().try_get_matches_from(arguments);
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(said) => return said_by_clap(said, arguments),
    };
    let default = match (&cli.command, cli.verbose) {
        (_, 2..) => "overlay_pool=trace",
        (_, 1) => "overlay_pool=debug",
        (Command::Serve(_), 0) => "overlay_pool=info",
        #[cfg(feature = "csi")]
        (Command::Csi(_), 0) => "overlay_pool=info",
        (_, 0) => "off",
    };
    let answer = start_log(default, cli.log_format).and_then(|()| match cli.command {
        Command::Serve(serve) => serve.run(),
        Command::Acquire(acquire) => acquire.run(),
        Command::Stats(stats) => stats.run(),
        Command::Openapi(_) => Ok(openapi::Openapi::run()),
        Command::Exec(exec) => exec.run(),
        Command::Images(images) => images.run(),
        Command::Create(create) => create.run(),
        Command::Inspect(inspect) => inspect.run(),
        Command::Bench(bench) => bench.run(),
        Command::Doctor(doctor) => doctor.run(cli.verbose > 0),
        Command::Gc(gc) => gc.run(),
        #[cfg(feature = "csi")]
        Command::Csi(csi) => csi.run(),
        Command::Shim(shim) => shim.run(),
        Command::Completions(completions) => Ok(completions.run()),
        Command::Man(man) => man.run(),
    });
    answer.unwrap_or_else(Answer::from)
}

/// Help and version, which were asked for, and what is wrong with the arguments.
fn said_by_clap(said: clap::Error, arguments: &[OsString]) -> Answer {
    match said.kind() {
        ErrorKind::DisplayVersion if arguments.iter().any(|argument| argument == "--version") => {
            Answer::from(about::about())
        }
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let text = said.render();
            let colours = AutoStream::choice(&io::stdout()) != ColorChoice::Never;
            Answer::from(if colours { text.ansi().to_string() } else { text.to_string() })
        }
        ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument => qemu_img::advice(arguments)
            .or_else(|| lacking::advice(arguments))
            .unwrap_or_else(|| Failure::from(said))
            .into(),
        _ => qemu_img::advice(arguments).unwrap_or_else(|| Failure::from(said)).into(),
    }
}

fn start_log(default: &str, format: LogFormat) -> Result<(), Failure> {
    let wanted = match std::env::var(LOG) {
        Ok(filter) => filter,
        Err(std::env::VarError::NotPresent) => default.to_owned(),
        Err(error) => return Err(Failure::new(Exit::Usage, format!("{LOG}: {error}"), LOG_ADVICE)),
    };
    let filter = EnvFilter::try_new(wanted)
        .map_err(|error| Failure::new(Exit::Usage, format!("{LOG}: {error}"), LOG_ADVICE))?;
    // What clients and images name may hold anything.
    let escaped = |writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug| {
        let value = text::escaped(&format!("{value:?}"));
        match field.name() {
            "message" => write!(writer, "{value}"),
            name => write!(writer, "{name}={value}"),
        }
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .fmt_fields(debug_fn(escaped).delimited(" "))
        .with_writer(io::stderr)
        // By NO_COLOR, CLICOLOR, CLICOLOR_FORCE and TERM too.
        .with_ansi(AutoStream::choice(&io::stderr()) != ColorChoice::Never)
        .log_internal_errors(false);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
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
