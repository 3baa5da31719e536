//! `/v1/stats`, `/livez` and `/readyz`: how the pool does.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::caller::Caller;
use super::refusals::{Looking, Readiness};
use super::restocking::Restocking;
use super::state::Shared;
use crate::api::wire::{Problem, Stats};

/// What the pool holds now, and what it did since the server started.
#[utoipa::path(
    get,
    path = "/v1/stats",
    tag = "status",
    responses((status = 200, description = "The counters.", body = Stats), Looking)
)]
pub(super) async fn stats(
    State(shared): State<Shared>,
    caller: Caller,
) -> Result<Json<Stats>, Problem> {
    let turns = shared.turns.clone();
    Ok(Json(caller.look(&turns, move || shared.stats().into()).await?))
}

/// Says that the server answers.
#[utoipa::path(
    get,
    path = "/livez",
    tag = "status",
    operation_id = "is_live",
    responses(
        (status = 200, description = "It does.", body = String, content_type = "text/plain",
         example = "ok\n"),
        Looking,
    )
)]
pub(super) async fn live() -> &'static str {
    "ok\n"
}

/// Says whether overlays are kept ready: not before the shelves were filled first, not while the
/// pool is drained, space is low, or the server is ending. Files that aren't kept ready since their
/// names don't fit are noted, a line each.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "status",
    operation_id = "is_ready",
    responses(
        (status = 200, description = "They are.", body = String, content_type = "text/plain",
         example = "ok\n"),
        Readiness,
    )
)]
pub(super) async fn ready(State(shared): State<Shared>, caller: Caller) -> Result<String, Problem> {
    let well = || {
        let notes = shared.access.notes().into_iter();
        notes.fold("ok\n".to_owned(), |text, note| text + "note: " + &note + "\n")
    };
    let pool = Arc::clone(&shared.pool);
    let detail = match caller.look(&shared.turns, move || Restocking::of(&pool)).await? {
        _ if shared.is_ending() => "the server is ending",
        #[cfg(feature = "vm")]
        _ if !shared.has_its_vms() => "its VMs aren't started yet",
        Restocking::On => return Ok(well()),
        // Nothing is made ahead by configuration, or for want of a directory: on demand goes on.
        Restocking::Off if shared.pool.is_started() => return Ok(well()),
        Restocking::Off => "the pool isn't started yet",
        Restocking::Drained => "the pool is drained; rescan to have it make overlays ahead again",
        Restocking::LowSpace => {
            "low space: no overlay is made ahead; make room in the pool's directory"
        }
    };
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", detail))
}
