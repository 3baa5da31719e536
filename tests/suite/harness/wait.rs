//! Waiting for conditions, never for time.

use std::time::{Duration, Instant};

/// Far more than anything here takes; reached only when the condition never holds.
const PATIENCE: Duration = Duration::from_secs(30);

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
