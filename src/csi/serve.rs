//! A driver's life: it answers the kubelet, and looks for what the kubelet has forgotten.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream};
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::Server;

use super::driver::Driver;
use super::identity::Identity;
use super::node::Node;
use super::service::Serving;

/// How many calls of one connection are answered at once; the kubelet has one connection for all.
const AT_ONCE: usize = 64;
/// How often disks of forgotten Pods are looked for.
const SWEEP: Duration = Duration::from_secs(60);
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
        self,
        listener: UnixListener,
        end: impl Future<Output = ()> + Send,
    ) -> io::Result<()> {
        let driver = Arc::new(self);
        let mut server = Server::builder().concurrency_limit_per_connection(AT_ONCE);
        let serving = server
            .add_service(Serving::<Identity>::by(&driver))
            .add_service(Serving::<Node>::by(&driver))
            .serve_with_incoming_shutdown(connections(listener), end);
        tokio::select! {
            served = serving => served.map_err(io::Error::other),
            () = sweep(&driver) => Ok(()),
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
