//! `/v1/bases`, `/v1/drain`, `/v1/rescan`: what is kept ready.

use std::path::{Path, PathBuf};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::access::Access;
use super::caller::Caller;
use super::extract::{Administrator, Body, InPath, InQuery};
use super::refusals::{Adding, Changing, Looking, Removing};
use super::state::Shared;
use crate::api::wire::{BaseAdded, BaseRequest, BaseState, Problem, Removed};
use crate::error::Error;
use crate::image::{BaseRef, Format};
use crate::pool::{self, OverlayPool};

/// What tells two base images of one path apart.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FormatQuery {
    /// The base image's format: qcow2, unless it is declared to be raw.
    #[serde(default)]
    format: Format,
}

/// Lists the base images that overlays are kept ready of.
#[utoipa::path(
    get,
    path = "/v1/bases",
    operation_id = "list_bases",
    tag = "base images",
    responses(
        (status = 200, description = "All base images, by ascending path.", body = Vec<BaseState>),
        Looking,
    )
)]
pub(super) async fn list(
    State(shared): State<Shared>,
    caller: Caller,
) -> Result<Response, Problem> {
    let turns = shared.turns.clone();
    // Thousands of them take a while to write, too.
    caller.look(&turns, move || Json(states(&shared)).into_response()).await
}

/// All base images beside the files as they are now: a look at the disk for each that has ready
/// overlays or can't be used.
pub(super) fn states(shared: &Shared) -> Vec<BaseState> {
    let target = usize::try_from(shared.pool.config().pool_size()).unwrap_or(0);
    let bases = shared.pool.bases().into_iter();
    let refusal = |base: &BaseRef| shared.judged(base).err().map(|error| error.to_string());
    let leases = shared.leases.read().map(|book| book.by_base()).unwrap_or_default();
    let leases_of = |path: &Path| leases.get(path).copied().unwrap_or(0);
    let of = |state: pool::BaseState| {
        let leases = leases_of(&state.base.path);
        BaseState { leases, ..BaseState::of(state, target, refusal) }
    };
    bases.map(of).collect()
}

/// Keeps overlays of a base image ready from now on. For root and the server's own user.
#[utoipa::path(
    post,
    path = "/v1/bases",
    operation_id = "add_base",
    tag = "base images",
    request_body = BaseRequest,
    responses(
        (status = 201, description = "Its overlays are being made.", body = BaseAdded),
        Adding,
    )
)]
pub(super) async fn add(
    _: Administrator,
    State(shared): State<Shared>,
    caller: Caller,
    Body(request): Body<BaseRequest>,
) -> Result<(StatusCode, Json<BaseAdded>), Problem> {
    let turns = shared.turns.clone();
    let added = caller.look(&turns, move || {
        let image = shared.judged(&request.into())?;
        Ok::<_, Problem>(shared.pool.add_base(image)?)
    });
    let path = added.await??;
    Ok((StatusCode::CREATED, Json(BaseAdded { path })))
}

/// Gives up the overlays of a base image, until it is asked for again. For root and the server's
/// own user.
#[utoipa::path(
    delete,
    path = "/v1/bases/{path}",
    operation_id = "remove_base",
    tag = "base images",
    params(
        ("path" = String, Path, description = "The base image's path; each `/` is written `%2F`.",
         pattern = r"^/[^\u0000]*$", max_length = 4095,
         example = "/var/lib/vms/images/python-3-base-x86_64.qcow2"),
        FormatQuery,
    ),
    responses(
        (status = 200, description = "They were given up.", body = Removed),
        Removing,
    )
)]
pub(super) async fn remove(
    _: Administrator,
    State(shared): State<Shared>,
    caller: Caller,
    InPath(path): InPath<PathBuf>,
    InQuery(FormatQuery { format }): InQuery<FormatQuery>,
) -> Result<Json<Removed>, Problem> {
    if path.is_relative() {
        let detail = format!("base image {}: give an absolute path", path.display());
        return Err(Problem::bad_request(detail));
    }
    let detail = format!("base image {}: not one of the pool's", path.display());
    let turns = shared.turns.clone();
    let base = BaseRef { path, format };
    let removed = caller.look(&turns, move || shared.pool.remove_base(base)).await??;
    let removed =
        removed.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "unknown-base", detail))?;
    Ok(Json(Removed { removed: removed as u64 }))
}

/// Gives up all ready overlays and makes none ahead, until a rescan or a restart. Acquires go on,
/// on demand. For root and the server's own user.
#[utoipa::path(
    post,
    path = "/v1/drain",
    tag = "base images",
    responses(
        (status = 200, description = "They were given up.", body = Removed),
        Changing,
    )
)]
pub(super) async fn drain(
    _: Administrator,
    State(shared): State<Shared>,
    caller: Caller,
) -> Result<Json<Removed>, Problem> {
    let turns = shared.turns.clone();
    let paused = async move |_: &Caller| shared.pool.pause().await;
    let removed = caller.take_turn(&turns, paused, drop).await??;
    Ok(Json(Removed { removed: removed as u64 }))
}

/// Looks for base images again, and ends a drain. For root and the server's own user.
#[utoipa::path(
    post,
    path = "/v1/rescan",
    tag = "base images",
    responses(
        (status = 204, description = "Overlays are being made of what was found."),
        Changing,
    )
)]
pub(super) async fn rescan(
    _: Administrator,
    State(shared): State<Shared>,
    caller: Caller,
) -> Result<StatusCode, Problem> {
    let turns = shared.turns.clone();
    caller.look(&turns, move || look_again(&shared.pool, &shared.access)).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// Has a shelf for each base image that is to be kept ready now, gives up those that are gone or
/// may no more be named, and ends a pause.
///
/// # Errors
///
/// [`Error::NotStarted`].
pub fn look_again(pool: &OverlayPool, access: &Access) -> Result<(), Error> {
    let wanted = access.bases();
    for kept in pool.bases() {
        if !access.still_allows(&kept.base) {
            pool.remove_base(kept.base)?;
        }
    }
    for base in wanted {
        pool.await_base(base)?;
    }
    pool.resume()
}
