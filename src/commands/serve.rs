//! `serve`: the pool for other programs on this host.

use std::path::PathBuf;
use std::sync::Arc;

use overlay_pool::api::{Access, Limits, Server};
use overlay_pool::creator::CreatorKind;
use overlay_pool::image::BaseRef;
use overlay_pool::{OverlayPool, PoolConfig};
use tokio::net::UnixListener;
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
    /// A directory that clients may have overlays in; can be given again.
    #[arg(long = "targets", value_name = "DIR")]
    targets: Vec<PathBuf>,
    /// How many VMs there may be at once; half as many overlays of each base image are kept ready.
    #[arg(long, value_name = "N", default_value_t = 10)]
    max_vms: i64,
    /// Where to listen.
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// How overlays are made.
    #[arg(long, value_parser = arguments::creator(), default_value = CreatorKind::Native.as_str())]
    creator: CreatorKind,
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
        let failed = |error: std::io::Error| Failure::new(Exit::Failed, error, "");
        let roots: Vec<PathBuf> = self.images.iter().cloned().collect();
        let access = Access::new(&self.targets, &roots, self.bases.clone())
            .map_err(|error| Failure::new(Exit::Failed, error, ""))?;
        let pool = Arc::new(OverlayPool::new(PoolConfig {
            max_concurrent_vms: self.max_vms,
            creator: self.creator,
            images_path: self.images.clone().unwrap_or_else(|| "images".into()),
            pool_dir: self.dir.path(),
            ..PoolConfig::default()
        })?);
        let listener = UnixListener::bind(&self.socket).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let bases = (!self.bases.is_empty())
            .then(|| self.bases.iter().map(BaseRef::from).collect::<Vec<_>>());
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
