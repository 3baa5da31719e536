//! `serve`: the pool for other programs on this host.

mod config_file;
#[cfg(feature = "images")]
mod images;
mod manager;
#[cfg(feature = "images")]
mod notes;
mod options;
mod service;
mod watchdog;

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use self::options::Options;
use self::service::Service;
use super::exit::Exit;
use super::failure::Failure;
use super::{Answer, metrics_listener, socket};

/// How long what is still under way may take once the service has ended.
const LAST: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
The server speaks HTTP/1.1; `overlay-pool openapi` prints its API. Only users that the socket's mode
admits can connect. Targets must lie below --targets, base images below --images or be named with
--base. Under systemd, the server says when it is ready, takes the socket that it is given, and
answers the watchdog.

On SIGTERM the server takes no more clients, finishes requests under way and removes ready overlays;
acquired ones stay. On SIGHUP it looks for base images again.

A configuration file is TOML. Its keys are the options; an option on the command line wins:
  images = \"/var/lib/vms/images\"
  targets = [\"/var/lib/vms/run\"]
  max-vms = 100
  min-free = \"10G\"

Examples:
  overlay-pool serve --images /var/lib/vms/images --max-vms 100
  overlay-pool serve --base python.qcow2 --base node.qcow2 --targets run --dir pool
  overlay-pool serve --config /etc/overlay-pool.toml --socket-group kvm";

/// Serve a pool to other programs, over HTTP on a Unix socket.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Serve {
    /// A file with the options that aren't given here.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

impl Serve {
    pub(super) fn run(self) -> Result<Answer, Failure> {
        let file = self.config.as_deref().map(config_file::read).transpose()?;
        let settings = self.options.or(file.unwrap_or_default()).settings()?;
        allow_open_files();
        // Bound while there is one thread: the mode of what is made is the process's.
        let (listener, _name) =
            socket::open(&settings.socket, settings.socket_group.as_deref(), "--socket")?;
        let metrics = settings.metrics.map(metrics_listener::open).transpose()?;
        let service = Service::new(settings)?;
        let runtime = tokio::runtime::Runtime::new()
            .map_err(|error| Failure::new(Exit::Failed, error, "raise the limit of open files"))?;
        let served = runtime.block_on(service.run(listener, metrics));
        runtime.shutdown_timeout(LAST);
        served.map(|()| Answer::default())
    }
}

/// Raises the limit of open files as far as it goes: many a connection is one.
fn allow_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
