//! `POST /v1/acquire` and `POST /v1/open`: one overlay is handed over.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use rustix::fs::{AtFlags, statat, unlinkat};
use rustix::io::Errno;

use super::caller::Caller;
use super::extract::Body;
use super::leases;
use super::refusals::{Acquiring, Opening};
use super::refused::{expect_listening, expect_there, failed, refused};
use super::state::Shared;
use crate::api::wire::{AcquireAnswer, AcquireRequest, Label, OpenAnswer, OpenRequest, Problem};
use crate::error::Error;
use crate::image::BaseRef;
use crate::place::{Spot, Target};

/// Hands one overlay over at a path.
///
/// The target appears complete or not at all, and nothing is ever overwritten. A request whose
/// connection is closed before its answer hands nothing over, or has succeeded.
///
/// With an `id` the same request can be sent again: it gives the same answer, also after a restart of
/// the server, for as long as the disk is there. The id is its user's: another user's is another.
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
    if let Some(id) = leased(&request)? {
        return leases::acquire(&shared, caller, id, request).await;
    }
    let pool = Arc::clone(&shared);
    let work = async move |caller: &Caller| hand_over(&pool, caller, request).await;
    let undo = |done: Result<(AcquireAnswer, HandedOver), Problem>| {
        let Ok((AcquireAnswer { target, .. }, handed_over)) = done else { return };
        let removed = handed_over.take_back();
        tracing::warn!(target = %target.display(), ?removed, "taken back, its time was over");
    };
    let (answer, _) = caller.take_turn(&shared.turns, work, undo).await??;
    Ok(Json(answer))
}

/// The id that a disk is to have, if it is to have one.
fn leased(request: &AcquireRequest) -> Result<Option<Label>, Problem> {
    if request.id.is_none() && request.owner.is_some() {
        let detail = "owner: only a disk with an id can have one; give an id too";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-request", detail));
    }
    Ok(request.id.clone())
}

/// An overlay at its target.
struct HandedOver {
    /// The target's directory, wherever it is by then.
    directory: Arc<OwnedFd>,
    name: OsString,
    /// What is there right after, by its number and the time when it came there.
    found: Option<(u64, i64, u64)>,
}

impl HandedOver {
    fn at(directory: Arc<OwnedFd>, target: &Path) -> Self {
        let name = target.file_name().unwrap_or_default().to_owned();
        let found = find(&directory, &name).ok();
        Self { directory, name, found }
    }

    /// Removes an overlay that nobody was told of. Says whether it was there: by now it may be
    /// another file, of who took it for missing.
    fn take_back(&self) -> Result<bool, Errno> {
        let is_it = self.found == Some(find(&self.directory, &self.name)?);
        if is_it {
            unlinkat(&self.directory, &self.name, AtFlags::empty())?;
        }
        Ok(is_it)
    }
}

fn find(directory: &OwnedFd, name: &OsStr) -> Result<(u64, i64, u64), Errno> {
    let found = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok((found.st_ino, found.st_ctime, found.st_ctime_nsec))
}

async fn hand_over(
    shared: &Shared,
    caller: &Caller,
    request: AcquireRequest,
) -> Result<(AcquireAnswer, HandedOver), Problem> {
    let AcquireRequest { base, format, target, virtual_size, .. } = request;
    let since = Instant::now();
    let (directory, real) =
        shared.access.target(&target).map_err(|error| refused(shared, &base, error))?;
    let target = Target::found_at(real, Arc::clone(&directory), target);
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
    let handed_over = HandedOver::at(directory, &acquired.target);
    if let Err(gone) = expect_there(&acquired.base) {
        let removed = handed_over.take_back();
        tracing::warn!(target = %acquired.target.display(), ?removed, "taken back, its base image is gone");
        return Err(failed(shared, gone.into()));
    }
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
    Ok((answer, handed_over))
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
    let pool = Arc::clone(&shared);
    let work = async move |caller: &Caller| open_one(&pool, caller, request).await;
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
    let file = opened.entry.open().map_err(|source| Error::Target {
        base: opened.base.clone(),
        target: shared.pool.config().pool_dir.clone(),
        source,
    })?;
    let took = since.elapsed();
    shared.traffic.handed_over(opened.source, took);
    shared.held.note(&opened.base, &shared.turns);
    tracing::debug!(peer = %caller.peer, base = %opened.base.display(), source = ?opened.source, ?took, "open");
    let answer = OpenAnswer {
        source: opened.source.into(),
        base: opened.base,
        took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
    };
    Ok((answer, file))
}

#[cfg(test)]
mod tests {
    use std::fs::{File, read, remove_file, rename, write};
    use std::sync::Arc;

    use super::HandedOver;

    /// Who was told that nothing was handed over may have put a file of his own there.
    #[test]
    fn what_is_taken_back_is_no_other_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let [target, other] = ["target", "other"].map(|name| folder.path().join(name));
        let handed_over = || {
            write(&target, "overlay").expect("a file");
            HandedOver::at(Arc::new(File::open(folder.path()).expect("it opens").into()), &target)
        };
        assert!(handed_over().take_back().expect("it is removed"));
        assert!(!target.exists());
        let replaced = handed_over();
        write(&other, "precious").expect("a file");
        rename(&other, &target).expect("it takes the place");
        assert!(!replaced.take_back().expect("it is another"));
        assert_eq!(read(&target).expect("the other's file"), b"precious");
        remove_file(&target).expect("removed");
        replaced.take_back().expect_err("nothing is there");
    }
}
