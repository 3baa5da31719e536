//! What disk a client's VM shall have.

use axum::http::StatusCode;

use crate::api::server::caller::Caller;
use crate::api::server::leases::{Lent, lend};
use crate::api::server::state::Shared;
use crate::api::wire::{Label, Problem};
use crate::vm::VmDisk;

/// One of the pool's, perhaps of another size, or that of the client's user with this id.
pub(super) async fn disk(
    shared: &Shared,
    caller: &Caller,
    id: Option<Label>,
    size: Option<u64>,
) -> Result<(VmDisk, Option<Lent>), Problem> {
    match (id, size) {
        (None, None) => Ok((VmDisk::Pooled, None)),
        (None, Some(size)) => Ok((VmDisk::Sized(size), None)),
        (Some(id), None) => {
            let (disk, lent) = lend(shared, caller, id).await?;
            Ok((disk.into(), Some(lent)))
        }
        (Some(id), Some(_)) => {
            let detail = format!("disk {id} has its size: leave virtual_size out");
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-request", detail))
        }
    }
}
