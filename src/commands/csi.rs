//! `csi`: overlays as ephemeral volumes of Kubernetes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use overlay_pool::api::LabelError;
use overlay_pool::csi::{Driver, NAME, Settings};
use overlay_pool::place::can_confine;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use super::arguments::Socket;
use super::exit::Exit;
use super::failure::Failure;
use super::{Answer, metrics_listener, socket};

/// How long what is still under way may take once the driver has ended.
const LAST: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
A Pod asks for a volume of the driver overlay-pool.csi, with the attributes image, size and format.
The driver has a server on the same node hand its disk over, and so runs as the server's user, which
is root, with the right to mount. Server, driver and kubelet have the directories of images and of the
kubelet at the same paths; the server's targets are --kubelet-dir, with its pool below it too.

Whatever of the two ends or is killed, the other goes on, and volumes stay.

Examples:
  overlay-pool serve --images /var/lib/overlay-pool/images --targets /var/lib/kubelet/pods \\
      --dir /var/lib/kubelet/plugins/overlay-pool.csi/pool
  overlay-pool csi --endpoint unix:///var/lib/kubelet/plugins/overlay-pool.csi/csi.sock \\
      --node-id node-1";

/// Give Pods of Kubernetes disks from a server's pool, as a CSI driver.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Csi {
    /// Where the kubelet finds the driver: a path, or unix:// and a path.
    #[arg(long, value_name = "SOCKET")]
    endpoint: String,
    /// What Kubernetes calls this node.
    #[arg(long, value_name = "NAME", value_parser = node_id)]
    node_id: String,
    #[command(flatten)]
    socket: Socket,
    /// Where the base images are that Pods may name.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/overlay-pool/images")]
    images: PathBuf,
    /// The kubelet's directory, below which volumes are published.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet")]
    kubelet_dir: PathBuf,
    /// How many volumes this node may have; 0 for as many as there is room for.
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_volumes: u64,
    /// Answer `GET /metrics` on this TCP port: a port of loopback, as in 9470, or an address and a
    /// port, as in 0.0.0.0:9470.
    #[arg(long, value_name = "ADDRESS", value_parser = metrics_listener::address)]
    metrics_listen: Option<SocketAddr>,
    /// Keep a feature file for node-feature-discovery here, with a label for each image of --images.
    #[arg(long, value_name = "FILE")]
    image_labels: Option<PathBuf>,
}

impl Csi {
    pub(super) fn run(self) -> Result<Answer, Failure> {
        if !can_confine() {
            let cause = "without openat2 no path can be kept below the kubelet's directory";
            let advice =
                "run it on Linux 5.12 or later, in a sandbox (seccomp) that allows openat2";
            return Err(Failure::new(Exit::Failed, cause, advice));
        }
        let settings = Settings {
            node_id: self.node_id,
            socket: self.socket.path()?,
            owner: NAME
                .parse()
                .map_err(|error: LabelError| Failure::new(Exit::Failed, error, ""))?,
            images: absolute(&self.images)?,
            kubelet: absolute(&self.kubelet_dir)?,
            max_volumes: self.max_volumes,
            image_labels: self.image_labels.as_deref().map(absolute).transpose()?,
        };
        let endpoint = path_of(&self.endpoint);
        // Bound while there is one thread: the mode of what is made is the process's.
        let (listener, _name) = socket::open(endpoint.as_ref(), None, "--endpoint")?;
        let metrics = self.metrics_listen.map(metrics_listener::open).transpose()?;
        // One thread is enough: whatever may wait for a disk is done on others.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(Exit::Failed, error, "raise the limit of open files"))?;
        let served = runtime.block_on(serve(settings, listener, metrics));
        runtime.shutdown_timeout(LAST);
        served.map(|()| Answer::default())
    }
}

/// Serves until it is told to end, and then what is under way, unless it is told again.
async fn serve(
    settings: Settings,
    listener: std::os::unix::net::UnixListener,
    metrics: Option<std::net::TcpListener>,
) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(Exit::Failed, error, "");
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = UnixListener::from_std(listener).map_err(failed)?;
    tracing::info!(node = settings.node_id, server = %settings.socket.display(), "listening");
    let mut driver = Driver::new(settings);
    if let Some(metrics) = metrics {
        driver = driver.with_metrics(TcpListener::from_std(metrics).map_err(failed)?);
    }
    let told = Notify::new();
    let signals = async {
        for _ in 0..2 {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            told.notify_one();
        }
    };
    tokio::select! {
        served = driver.serve(listener, told.notified()) => served.map_err(failed),
        () = signals => Ok(()),
    }
}

/// The path of an endpoint, which gRPC writes as `unix:/path` or `unix:///path`.
fn path_of(endpoint: &str) -> &str {
    let path = endpoint.strip_prefix("unix:").unwrap_or(endpoint);
    path.strip_prefix("//").unwrap_or(path)
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| {
        let cause = format!("{}: {error}", path.display());
        Failure::new(Exit::Usage, cause, "give an absolute path")
    })
}

/// Takes a name that CSI allows for a node.
fn node_id(name: &str) -> Result<String, &'static str> {
    if name.is_empty() || name.len() > 256 {
        return Err("a name of 1 to 256 bytes is wanted");
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    #[rstest]
    #[case("unix:///csi/csi.sock", "/csi/csi.sock")]
    #[case("unix:/csi/csi.sock", "/csi/csi.sock")]
    #[case("unix://csi.sock", "csi.sock")]
    #[case("/csi/csi.sock", "/csi/csi.sock")]
    fn endpoints_are_paths(#[case] endpoint: &str, #[case] path: &str) {
        assert_eq!(super::path_of(endpoint), path);
    }
}
