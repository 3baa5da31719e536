//! Another attempt.

use std::time::Duration;

use super::registry_error::RegistryError;

/// How long is waited before the first retry; each time twice as long.
const PAUSE: Duration = Duration::from_millis(250);

/// How often something is tried again.
pub(super) struct Retries {
    left: u32,
    pause: Duration,
}

impl Retries {
    pub(super) fn new(left: u32) -> Self {
        Self { left, pause: PAUSE }
    }

    /// Waits for the next attempt, if there is one and it may go better.
    pub(super) async fn after(&mut self, trouble: RegistryError) -> Result<(), RegistryError> {
        if self.left == 0 || !trouble.may_pass() {
            return Err(trouble);
        }
        tracing::info!(%trouble, "asking again");
        tokio::time::sleep(self.pause).await;
        self.left -= 1;
        self.pause *= 2;
        Ok(())
    }
}
