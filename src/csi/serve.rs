//! A driver's life: it answers the kubelet, and looks for what the kubelet has forgotten.

use std::future::{Future, pending};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::task::spawn_blocking;
use tonic::transport::Server;

use super::driver::Driver;
use super::figures::Figures;
use super::identity::Identity;
use super::image_labels::ImageLabels;
use super::node::Node;
use super::service::Serving;
use crate::scrape;

/// How many calls of one connection are answered at once; the kubelet has one connection for all.
const AT_ONCE: usize = 64;
/// How often disks of forgotten Pods are looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// How often is looked which images there are.
const LOOK: Duration = Duration::from_secs(5);
/// After how long it is tried again what failed.
const AGAIN: Duration = Duration::from_secs(1);

impl Driver {
    /// Answers the clients of a socket until `end` is ready, and then those calls that are under
    /// way.
    ///
    /// # Errors
    ///
    /// What the system says of the socket.
    pub async fn serve(
        mut self,
        listener: UnixListener,
        end: impl Future<Output = ()> + Send,
    ) -> io::Result<()> {
        let metrics = self.metrics.take();
        let driver = Arc::new(self);
        let mut server = Server::builder().concurrency_limit_per_connection(AT_ONCE);
        let serving = server
            .add_service(Serving::<Identity>::by(&driver))
            .add_service(Serving::<Node>::by(&driver))
            .serve_with_incoming_shutdown(connections(listener), end);
        tokio::select! {
            served = serving => served.map_err(io::Error::other),
            () = sweep(&driver) => Ok(()),
            () = tell_figures(metrics, driver.figures.clone()) => Ok(()),
            () = tell_images(driver.image_labels.as_ref()) => Ok(()),
        }
    }
}

/// Each client of a socket. If none can be accepted now, the next ones are waited for.
fn connections(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> {
    stream::unfold(listener, |listener| async {
        loop {
            match listener.accept().await {
                Ok((connection, _)) => return Some((Ok(connection), listener)),
                Err(error) => {
                    tracing::warn!(%error, "a client can't be accepted");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    })
}

/// Never ends.
async fn tell_figures(listener: Option<TcpListener>, figures: Figures) {
    let Some(listener) = listener else { return pending().await };
    let text = move || {
        let text = figures.text();
        async move { Some(text) }
    };
    scrape::serve(listener, text).await;
}

/// Never ends.
async fn tell_images(labels: Option<&ImageLabels>) {
    let Some(labels) = labels else { return pending().await };
    let mut said = None;
    loop {
        let labels = labels.clone();
        let renewed =
            spawn_blocking(move || labels.renew()).await.unwrap_or_else(|ended| Err(ended.into()));
        let failure = renewed.err().map(|error| error.to_string());
        if let Some(error) = failure.as_ref().filter(|_| failure != said) {
            tracing::warn!(error, "the node's images can't be told");
        }
        said = failure;
        tokio::time::sleep(LOOK).await;
    }
}

/// Never ends.
async fn sweep(driver: &Driver) {
    loop {
        let wait = match driver.sweep().await {
            Ok(removed) => {
                tracing::debug!(removed, "looked for disks of forgotten Pods");
                SWEEP
            }
            Err(error) => {
                tracing::debug!(%error, "disks of forgotten Pods can't be looked for");
                AGAIN
            }
        };
        tokio::time::sleep(wait).await;
    }
}
