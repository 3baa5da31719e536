//! `POST /v1/acquire` and `POST /v1/open`: one overlay is handed over.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use rustix::fs::{AtFlags, unlinkat};

use super::access::{AccessError, TARGET};
use super::caller::Caller;
use super::extract::Body;
use super::refusals::{Acquiring, Opening};
use super::state::Shared;
use crate::api::wire::{AcquireAnswer, AcquireRequest, OpenAnswer, OpenRequest, Problem};
use crate::error::Error;
use crate::image::{BaseError, BaseRef};
use crate::place::{Spot, Target};

/// Hands one overlay over at a path.
///
/// The target appears complete or not at all, and nothing is ever overwritten. A request whose
/// connection is closed before its answer hands nothing over, or has succeeded.
#[utoipa::path(
    post,
    path = "/v1/acquire",
    tag = "overlays",
    request_body = AcquireRequest,
    responses(
        (status = 200, description = "The overlay is at the target.", body = AcquireAnswer),
        Acquiring,
    )
)]
pub(super) async fn acquire(
    State(shared): State<Shared>,
    caller: Caller,
    Body(request): Body<AcquireRequest>,
) -> Result<Json<AcquireAnswer>, Problem> {
    let (pool, asks) = (Arc::clone(&shared), caller.clone());
    let work = async move { hand_over(&pool, &asks, request).await };
    let undo = |done: Result<(AcquireAnswer, OwnedFd), Problem>| {
        let Ok((AcquireAnswer { target, .. }, directory)) = done else { return };
        let name = target.file_name().unwrap_or_default();
        let removed = unlinkat(directory, name, AtFlags::empty());
        tracing::warn!(target = %target.display(), ?removed, "taken back, its time was over");
    };
    let (answer, _) = caller.take_turn(&shared.turns, work, undo).await??;
    Ok(Json(answer))
}

/// Also gives the target's directory, wherever it is by then.
async fn hand_over(
    shared: &Shared,
    caller: &Caller,
    request: AcquireRequest,
) -> Result<(AcquireAnswer, OwnedFd), Problem> {
    let AcquireRequest { base, format, target, virtual_size } = request;
    let since = Instant::now();
    let opened = shared.access.target(&target).and_then(|(directory, real)| {
        let again = directory.try_clone();
        let failed = |source| AccessError::io(TARGET, &target, source);
        Ok((directory, again.map_err(failed)?, real))
    });
    let (directory, target) = match opened {
        Ok((directory, again, real)) => (directory, Target::found_at(real, again, target)),
        Err(error) => return Err(refused(shared, &base, error)),
    };
    let base = match shared.judged(&BaseRef { path: base.clone(), format }) {
        Ok(image) => image,
        Err(error) => {
            // Which comes before anything else (rule A1).
            let in_the_way = target.open().ok().filter(Spot::exists);
            return Err(match in_the_way {
                Some(spot) => failed(shared, Error::AlreadyExists { target: spot.into_path() }),
                None => refused(shared, &base, error),
            });
        }
    };
    expect_listening(caller)?;
    let pool = &shared.pool;
    let acquired = match virtual_size {
        Some(size) => pool.acquire_sized(base, target, size).await?,
        None => pool.acquire(base, target).await?,
    };
    let took = since.elapsed();
    shared.traffic.handed_over(acquired.source, took);
    shared.held.note(&acquired.base, &shared.turns);
    tracing::debug!(peer = %caller.peer, target = %acquired.target.display(), source = ?acquired.source, ?took, "acquire");
    let answer = AcquireAnswer {
        source: acquired.source.into(),
        base: acquired.base,
        target: acquired.target,
        took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
    };
    Ok((answer, directory))
}

/// Nothing is handed over to a client that hung up, perhaps before its request was read.
fn expect_listening(caller: &Caller) -> Result<(), Problem> {
    if caller.channel.is_hung_up() {
        return Err(Problem::bad_request("the client has hung up"));
    }
    Ok(())
}

/// A path that can't be resolved fails as in the pool, and counts; to refuse one that isn't allowed
/// is up to the server alone.
fn refused(shared: &Shared, base: &Path, error: AccessError) -> Problem {
    let error = match error {
        AccessError::Io { what: TARGET, path, source } => {
            Error::Target { base: base.to_owned(), target: path, source }
        }
        AccessError::Io { path, source, .. } => BaseError::Io { path, source }.into(),
        AccessError::Base(error) => error.into(),
        denied => return denied.into(),
    };
    failed(shared, error)
}

/// An acquire that didn't come as far as the pool.
fn failed(shared: &Shared, error: Error) -> Problem {
    match error {
        error if shared.pool.is_started() => {
            shared.traffic.acquire_failures.inc();
            error.into()
        }
        in_the_way @ Error::AlreadyExists { .. } => in_the_way.into(),
        // Which comes before all that is wrong with a path (rule L1).
        _ => Error::NotStarted.into(),
    }
}

/// Hands one overlay over as an open descriptor.
///
/// The file has no name. Its descriptor, open for reading and writing, comes as `SCM_RIGHTS` with
/// the first byte of this answer: receive it with `recvmsg`, and send no further request on the
/// connection before.
#[utoipa::path(
    post,
    path = "/v1/open",
    tag = "overlays",
    request_body = OpenRequest,
    responses(
        (status = 200, description = "The descriptor comes with this answer.", body = OpenAnswer),
        Opening,
    )
)]
pub(super) async fn open(
    State(shared): State<Shared>,
    caller: Caller,
    Body(request): Body<OpenRequest>,
) -> Result<Json<OpenAnswer>, Problem> {
    let Caller { peer, channel, .. } = caller.clone();
    let counted = shared.unreceived.count(peer, channel.ours()).map_err(|too_many| {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Problem::new(status, "too-many-descriptors", too_many.to_string())
    })?;
    let (pool, asks) = (Arc::clone(&shared), caller.clone());
    let work = async move { open_one(&pool, &asks, request).await };
    // Nobody else has the file: dropped, it is gone.
    let (answer, file) = caller.take_turn(&shared.turns, work, drop).await??;
    channel.attach(file.into(), counted);
    Ok(Json(answer))
}

async fn open_one(
    shared: &Shared,
    caller: &Caller,
    request: OpenRequest,
) -> Result<(OpenAnswer, File), Problem> {
    let OpenRequest { base, format, virtual_size } = request;
    let since = Instant::now();
    let base = match shared.judged(&BaseRef { path: base.clone(), format }) {
        Ok(image) => image,
        Err(error) => return Err(refused(shared, &base, error)),
    };
    expect_listening(caller)?;
    let opened = shared.open_files.acquire(&shared.pool, base, virtual_size).await?;
    let took = since.elapsed();
    shared.traffic.handed_over(opened.source, took);
    shared.held.note(&opened.base, &shared.turns);
    tracing::debug!(peer = %caller.peer, base = %opened.base.display(), source = ?opened.source, ?took, "open");
    let answer = OpenAnswer {
        source: opened.source.into(),
        base: opened.base,
        took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
    };
    Ok((answer, opened.file))
}
