//! Disks that their users removed by themselves.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::known::in_turn;
use crate::api::server::state::Shared;

/// How often it is looked whether the disks are still there.
const LOOK: Duration = Duration::from_secs(60);

/// Reads the records that there are, and forgets those whose disks are gone: now, and from time to
/// time. Never ends.
pub(in crate::api::server) async fn look_after(shared: Shared) {
    let failed = |error| tracing::warn!(%error, "disks that were acquired with an id");
    if let Err(error) = shared.leases.known(&shared.turns).await {
        failed(error);
    }
    loop {
        if let Some(book) = shared.leases.read().cloned() {
            let (all, read) = (Arc::clone(&shared), Arc::clone(&book));
            let looked = in_turn(&shared.turns, move || {
                read.look(&all.leases.claims, &all.access);
                read.needs().iter().for_each(|base| all.access.tell_of(base));
                Ok(())
            });
            looked.await.unwrap_or_else(failed);
            // An earlier server may have handed them over.
            for base in book.by_base().into_keys() {
                shared.held.note(&base, &shared.turns);
            }
        }
        sleep(LOOK).await;
    }
}
