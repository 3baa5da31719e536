//! Disks with an id, for their users' VMs.

use std::sync::Arc;

use axum::http::StatusCode;
use rustix::fs::fstat;

use super::endpoints::{busy, unknown};
use super::key::Key;
use super::lent::Lent;
use crate::api::server::access::{AccessError, TARGET};
use crate::api::server::caller::Caller;
use crate::api::server::state::Shared;
use crate::api::wire::{Label, Problem};
use crate::place::{is_anothers, is_shared};
use crate::vm::OwnDisk;

/// Opens a disk of the caller's user for a VM.
pub(in crate::api::server) async fn lend(
    shared: &Shared,
    caller: &Caller,
    id: Label,
) -> Result<(OwnDisk, Lent), Problem> {
    let key = Key { uid: caller.peer.uid(), id };
    let known = shared.leases.known(&shared.turns).await?;
    let Some(book) = known else { return Err(unknown(&key)) };
    let Some(lent) = shared.leases.lent.try_claim(key.clone()) else { return Err(busy(&key)) };
    let claim = shared.leases.claims.claim(key).await;
    let all = Arc::clone(shared);
    let open = move || {
        let record = book.find(claim.key()).ok_or_else(|| unknown(claim.key()))?;
        let Some(file) = record.open(&all.access)? else {
            book.forget_gone(&record)?;
            return Err(unknown(claim.key()));
        };
        let path = record.answer.target.clone();
        let stat = fstat(&file).map_err(|errno| AccessError::io(TARGET, &path, errno.into()))?;
        if is_anothers(&stat) || is_shared(&stat) {
            return Err(distrusted(claim.key()));
        }
        Ok(OwnDisk::opened(file, path))
    };
    let disk = caller.ahead().look(&shared.turns, open).await??;
    Ok((disk, Lent(lent)))
}

/// Whoever may write to the file decides what QEMU believes of it, also after it was judged.
fn distrusted(Key { id, .. }: &Key) -> Problem {
    let detail = format!(
        "disk {id}: another user than the server's may write to its file; have that user give it back, \
         or take that right away (chmod go-w)"
    );
    Problem::new(StatusCode::FORBIDDEN, "forbidden", detail)
}
