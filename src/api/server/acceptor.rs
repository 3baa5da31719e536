//! Taking clients, also if there is no descriptor left for one.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::sleep;

/// How long to wait when the system has no descriptor left for another client.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// A listener that keeps a descriptor in reserve: a process without any still takes a client,
/// which then has its answer, if only that something failed.
#[derive(Debug)]
pub(super) struct Acceptor {
    listener: UnixListener,
    reserve: Option<OwnedFd>,
}

impl Acceptor {
    pub(super) fn new(listener: UnixListener) -> Self {
        let mut acceptor = Self { listener, reserve: None };
        acceptor.refill();
        acceptor
    }

    fn refill(&mut self) {
        if self.reserve.is_none() {
            self.reserve = self.listener.as_fd().try_clone_to_owned().ok();
        }
    }

    /// The next client. Loses none if it is dropped.
    ///
    /// # Errors
    ///
    /// Those that don't pass by themselves.
    pub(super) async fn accept(&mut self) -> io::Result<UnixStream> {
        loop {
            self.refill();
            match self.listener.accept().await {
                Ok((stream, _)) => return Ok(stream),
                Err(error) if is_of_one_client(&error) => {}
                Err(error) if is_exhausted(&error) => {
                    tracing::warn!(%error, "no room for another client");
                    if self.reserve.take().is_none() {
                        sleep(EXHAUSTED).await;
                    } else if let Ok((stream, _)) = self.listener.accept().await {
                        return Ok(stream);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// The client was gone before it was accepted.
fn is_of_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// The system lacks descriptors or memory, which it may have again.
pub(super) fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}
