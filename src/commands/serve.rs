//! `serve`: the pool for other programs on this host.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use overlay_pool::api::{Access, Limits, Server};
use overlay_pool::creator::CreatorKind;
use overlay_pool::image::BaseRef;
use overlay_pool::{OverlayPool, PoolConfig};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};

use super::Answer;
use super::arguments::{self, PoolDir};
use super::exit::Exit;
use super::failure::Failure;

/// Serve a pool to other programs, over HTTP on a Unix socket.
#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    /// A directory of base images: those named `*-base-*.qcow2` are kept ready.
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// A base image to keep ready; can be given again.
    #[arg(long = "base", value_name = "IMG")]
    bases: Vec<PathBuf>,
    /// A raw base image to keep ready; can be given again.
    #[arg(long = "raw-base", value_name = "IMG")]
    raw_bases: Vec<PathBuf>,
    /// A directory that clients may have overlays in; can be given again.
    #[arg(long = "targets", value_name = "DIR")]
    targets: Vec<PathBuf>,
    /// How many VMs there may be at once; half as many overlays of each base image are kept ready.
    #[arg(long, value_name = "N", default_value_t = 10, allow_negative_numbers = true)]
    max_vms: i64,
    /// Where to listen.
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// How overlays are made.
    #[arg(long, value_parser = arguments::creator(), default_value = CreatorKind::Native.as_str())]
    creator: CreatorKind,
    /// How long after an acquire the shelves are filled again.
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = milliseconds)]
    restock_interval: Duration,
    /// How long one creation may take.
    #[arg(long, value_name = "TIME", default_value = "10000ms", value_parser = milliseconds)]
    create_timeout: Duration,
    /// After how long without an acquire a base image's overlays are given up: never by default.
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    shelf_idle: Option<Duration>,
    #[command(flatten)]
    dir: PoolDir,
}

impl Serve {
    pub(super) fn run(self) -> Result<Answer, Failure> {
        let runtime = tokio::runtime::Runtime::new()
            .map_err(|error| Failure::new(Exit::Failed, error, "raise the limit of open files"))?;
        runtime.block_on(self.serve())?;
        Ok(Answer::default())
    }

    async fn serve(self) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::new(Exit::Failed, error, "");
        let roots: Vec<PathBuf> = self.images.iter().cloned().collect();
        let named = self.bases.iter().chain(&self.raw_bases).cloned();
        let access = Access::new(&self.targets, &roots, named)
            .map_err(|error| Failure::new(Exit::Failed, error, ""))?;
        let pool = Arc::new(OverlayPool::new(PoolConfig {
            max_concurrent_vms: self.max_vms,
            creator: self.creator,
            images_path: self.images.clone().unwrap_or_else(|| "images".into()),
            pool_dir: self.dir.path(),
            restock_interval: self.restock_interval,
            create_timeout: self.create_timeout,
            shelf_idle: self.shelf_idle,
            ..PoolConfig::default()
        })?);
        if let Err(error) = UnixStream::connect(&self.socket).await {
            // What a server left that was killed.
            if error.kind() == io::ErrorKind::ConnectionRefused {
                std::fs::remove_file(&self.socket).map_err(failed)?;
            }
        } else {
            let cause = format!("socket {}: another server listens there", self.socket.display());
            return Err(Failure::new(Exit::Failed, cause, "stop it, or name another path"));
        }
        let listener = UnixListener::bind(&self.socket).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let raw = self.raw_bases.iter().map(BaseRef::raw);
        let bases: Vec<_> = self.bases.iter().map(BaseRef::qcow2).chain(raw).collect();
        let bases = (!bases.is_empty()).then_some(bases);
        pool.start(bases).await?;
        let server = Server::new(Arc::clone(&pool), access, Limits::default());
        let end = async move {
            terminate.recv().await;
        };
        let served = server.serve(listener, end).await;
        pool.stop().await;
        let _ = std::fs::remove_file(&self.socket);
        served.map_err(failed)
    }
}

/// Takes a number of milliseconds, as in `500ms`.
fn milliseconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix("ms").and_then(|number| number.parse().ok());
    number.map(Duration::from_millis).ok_or_else(|| "write it as in 500ms".to_owned())
}
