//! `/v1/disks`: disks that were acquired with an id.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use utoipa::IntoParams;

use super::book::Book;
use super::hand_over::taken;
use super::key::{Claim, Key};
use super::refusals::{Finding, Listing, Removing, RemovingAll};
use crate::api::server::caller::Caller;
use crate::api::server::extract::{InPath, InQuery};
use crate::api::server::peers::Peer;
use crate::api::server::state::Shared;
use crate::api::wire::{Label, Lease, Problem, Removed};

/// Which disks.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Chosen {
    /// Those with this label alone.
    #[param(value_type = Option<String>, pattern = r"^[0-9A-Za-z][0-9A-Za-z._:@-]{0,127}$")]
    owner: Option<Label>,
    /// Those of this user alone.
    #[param(value_type = Option<i64>, minimum = 0, maximum = 4_294_967_295_i64)]
    uid: Option<u32>,
}

/// Which disks of one owner.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Owned {
    /// The label that they were given.
    #[param(value_type = String, pattern = r"^[0-9A-Za-z][0-9A-Za-z._:@-]{0,127}$")]
    owner: Label,
    /// Of another user, which only root and the server's own user may name.
    #[param(value_type = Option<i64>, minimum = 0, maximum = 4_294_967_295_i64)]
    uid: Option<u32>,
}

/// Which disk is meant by its id.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Meant {
    /// Another user's, which only root and the server's own user may name.
    #[param(value_type = Option<i64>, minimum = 0, maximum = 4_294_967_295_i64)]
    uid: Option<u32>,
    /// The one at this path alone, as the answer to the acquire gave it.
    #[param(value_type = Option<String>, pattern = "^/", example = "/var/lib/vms/run/17/disk.qcow2")]
    #[serde(default, deserialize_with = "absolute")]
    target: Option<PathBuf>,
}

/// No disk is at a path of which nobody knows to what it is relative.
fn absolute<'de, D: Deserializer<'de>>(path: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(path)?;
    if path.is_absolute() { Ok(Some(path)) } else { Err(D::Error::custom("give an absolute path")) }
}

/// Whose disk.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Whose {
    /// Another user's, which only root and the server's own user may name.
    #[param(value_type = Option<i64>, minimum = 0, maximum = 4_294_967_295_i64)]
    uid: Option<u32>,
}

/// Lists the disks that the client's user acquired with an id; for root and the server's own user,
/// those of all.
#[utoipa::path(
    get,
    path = "/v1/disks",
    operation_id = "list_disks",
    tag = "overlays",
    params(Chosen),
    responses(
        (status = 200, description = "They are these, by user and id.", body = Vec<Lease>),
        Listing,
    )
)]
pub(super) async fn list(
    State(shared): State<Shared>,
    caller: Caller,
    InQuery(Chosen { owner, uid }): InQuery<Chosen>,
) -> Result<Response, Problem> {
    let book = shared.leases.known(&shared.turns).await?;
    let peer = caller.peer;
    // Thousands of them take a while to write.
    let list = move || {
        let is_chosen = |lease: &Lease| {
            (peer.is_administrator() || lease.uid == peer.uid())
                && uid.is_none_or(|uid| lease.uid == uid)
                && (owner.is_none() || lease.owner == owner)
        };
        let records = book.map(|book| book.list(|_| true)).unwrap_or_default();
        let leases = records.iter().map(|record| record.lease());
        Json(leases.filter(is_chosen).collect::<Vec<_>>()).into_response()
    };
    caller.look(&shared.turns, list).await
}

/// Says what a disk is that was acquired with an id.
#[utoipa::path(
    get,
    path = "/v1/disks/{id}",
    operation_id = "look_at_disk",
    tag = "overlays",
    params(
        ("id" = String, Path, pattern = r"^[0-9A-Za-z][0-9A-Za-z._:@-]{0,127}$",
         description = "The disk's id."),
        Whose,
    ),
    responses((status = 200, description = "It is this.", body = Lease), Finding)
)]
pub(super) async fn look(
    State(shared): State<Shared>,
    caller: Caller,
    InPath(id): InPath<Label>,
    InQuery(Whose { uid }): InQuery<Whose>,
) -> Result<Json<Lease>, Problem> {
    let key = Key { uid: whose(caller.peer, uid)?, id };
    let Some(book) = shared.leases.known(&shared.turns).await? else { return Err(unknown(&key)) };
    let claim = shared.leases.claims.claim(key).await;
    let turns = shared.turns.clone();
    let look = move || {
        let record = book.find(claim.key()).ok_or_else(|| unknown(claim.key()))?;
        if record.is_there(&shared.access)? {
            return Ok(Json(record.lease()));
        }
        book.forget_gone(&record)?;
        Err(unknown(claim.key()))
    };
    caller.look(&turns, look).await?
}

/// Removes a disk that was acquired with an id. What else is at its target by then stays; and so does a
/// disk that a VM has.
///
/// It is no error if there is no such disk: so the same request can be sent again. With a `target`
/// no disk is removed that has taken the id elsewhere since.
#[utoipa::path(
    delete,
    path = "/v1/disks/{id}",
    operation_id = "remove_disk",
    tag = "overlays",
    params(
        ("id" = String, Path, pattern = r"^[0-9A-Za-z][0-9A-Za-z._:@-]{0,127}$",
         description = "The disk's id."),
        Meant,
    ),
    responses((status = 204, description = "There is no such disk, now or from before."), Removing)
)]
pub(super) async fn remove(
    State(shared): State<Shared>,
    caller: Caller,
    InPath(id): InPath<Label>,
    InQuery(Meant { uid, target }): InQuery<Meant>,
) -> Result<StatusCode, Problem> {
    let key = Key { uid: whose(caller.peer, uid)?, id };
    let Some(book) = shared.leases.known(&shared.turns).await? else {
        return Ok(StatusCode::NO_CONTENT);
    };
    let claim = shared.leases.claims.claim(key).await;
    let turns = shared.turns.clone();
    let remove = move || match (book.find(claim.key()), target) {
        (Some(record), Some(target)) if record.answer.target != target => Err(taken(&record)),
        _ => remove_one(&shared, &book, &claim),
    };
    caller.look(&turns, remove).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes all disks that the client's user acquired with an id and this label.
///
/// If one can't be removed, the others are nevertheless, and the answer says why.
#[utoipa::path(
    delete,
    path = "/v1/disks",
    operation_id = "remove_disks",
    tag = "overlays",
    params(Owned),
    responses((status = 200, description = "They are gone.", body = Removed), RemovingAll)
)]
pub(super) async fn remove_all(
    State(shared): State<Shared>,
    caller: Caller,
    InQuery(Owned { owner, uid }): InQuery<Owned>,
) -> Result<Json<Removed>, Problem> {
    let uid = whose(caller.peer, uid)?;
    let Some(book) = shared.leases.known(&shared.turns).await? else {
        return Ok(Json(Removed { removed: 0 }));
    };
    let is_owned = move |lease: &Lease| lease.uid == uid && lease.owner.as_ref() == Some(&owner);
    let mut claims = Vec::new();
    // In their order, so that no two requests wait for each other.
    for record in book.list(|record| is_owned(&record.lease())) {
        claims.push(shared.leases.claims.claim(record.key()).await);
    }
    let turns = shared.turns.clone();
    let remove = move || {
        let (mut removed, mut failure) = (0, None);
        for claim in &claims {
            // Meanwhile it may have been removed, and another made.
            if book.find(claim.key()).is_some_and(|record| is_owned(&record.lease())) {
                match remove_one(&shared, &book, claim) {
                    Ok(was_there) => removed += u64::from(was_there),
                    Err(problem) => failure = failure.or(Some(problem)),
                }
            }
        }
        failure.map_or(Ok(Json(Removed { removed })), Err)
    };
    caller.look(&turns, remove).await?
}

/// There is no such disk, or not for who asks.
pub(super) fn unknown(key: &Key) -> Problem {
    let detail = format!("disk {}: not there, or not yours", key.id);
    Problem::new(StatusCode::NOT_FOUND, "unknown-disk", detail)
}

/// A VM has the disk.
pub(super) fn busy(key: &Key) -> Problem {
    let detail = format!("disk {}: a VM has it; end that first", key.id);
    Problem::new(StatusCode::CONFLICT, "disk-busy", detail)
}

/// Says whether there was a disk.
fn remove_one(shared: &Shared, book: &Arc<Book>, claim: &Claim) -> Result<bool, Problem> {
    let Some(record) = book.find(claim.key()) else { return Ok(false) };
    let lent = shared.leases.lent.try_claim(claim.key().clone());
    let Some(_until_it_is_gone) = lent else { return Err(busy(claim.key())) };
    let removed = record.remove(&shared.access)?;
    book.forget(&record)?;
    let target = record.answer.target.display();
    tracing::debug!(%target, removed, "disk removed");
    Ok(removed)
}

/// Whose disks a client means: its own user's, unless it may and does name another's.
fn whose(peer: Peer, uid: Option<u32>) -> Result<u32, Problem> {
    match uid {
        Some(uid) if uid != peer.uid() && !peer.is_administrator() => {
            let detail = "only root and the user that the server runs as may name another user";
            Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail))
        }
        uid => Ok(uid.unwrap_or_else(|| peer.uid())),
    }
}
