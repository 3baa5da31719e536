//! Answers for the service manager's watchdog, as long as the server answers its clients.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::manager;

const REQUEST: &[u8] = b"GET /livez HTTP/1.1\r\nhost: pool\r\nconnection: close\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 ";

/// Asks the server as a client does, twice as often as the manager wants to hear of it. Dropped,
/// it ends.
#[derive(Debug)]
pub(super) struct Watchdog(AbortHandle);

impl Watchdog {
    /// Begins, if the manager has a watchdog.
    pub(super) fn start(socket: PathBuf) -> Option<Self> {
        let half = sd_notify::watchdog_enabled()? / 2;
        // A period of 0 is none.
        let half = half.max(Duration::from_millis(1));
        Some(Self(tokio::spawn(watch(socket, half)).abort_handle()))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn watch(socket: PathBuf, period: Duration) {
    let mut tick = interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match timeout(period, ask(&socket)).await.unwrap_or_else(|late| Err(late.into())) {
            Ok(()) => manager::alive(),
            Err(error) => tracing::warn!(%error, "the server doesn't answer itself"),
        }
    }
}

async fn ask(socket: &Path) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(REQUEST).await?;
    let mut answer = [0; ANSWER.len()];
    stream.read_exact(&mut answer).await?;
    if answer == ANSWER { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}
