//! Waiting for conditions, never for time.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

/// Far more than anything here takes; reached only when the condition never holds.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `condition` holds; panics, naming `what`, where it never does.
#[track_caller]
pub(crate) fn eventually(
    what: &str,
    mut condition: impl FnMut() -> bool,
) -> impl Future<Output = ()> {
    let deadline = Instant::now() + PATIENCE;
    async move {
        while !condition() {
            assert!(Instant::now() < deadline, "never happened: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Cancels a future that still waits after so many polls: at a moment that no clock chooses.
pub(crate) async fn cancelled_after<T>(polls: u64, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut polled = 0;
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => {
            polled += 1;
            if polled < polls { Poll::Pending } else { Poll::Ready(None) }
        }
    })
    .await
}
