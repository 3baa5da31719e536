//! `POST /v1/acquire` and `POST /v1/open`: one overlay is handed over.

use std::path::{Path, PathBuf};
use std::time::Instant;

use axum::extract::State;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::access::AccessError;
use super::connection::Descriptors;
use super::extract::Body;
use super::peers::Peer;
use super::problem::Problem;
use super::server::Shared;
use crate::error::Error;
use crate::image::{BaseError, BaseRef, Format};
use crate::pool::{Source, Target};

/// A base image, as a client names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BaseRequest {
    /// Its absolute path.
    #[schema(value_type = String, example = "/var/lib/vms/images/python-3-base-x86_64.qcow2")]
    pub path: PathBuf,
    /// Its format: qcow2, unless it is declared to be raw.
    #[serde(default)]
    pub format: Format,
}

impl From<BaseRequest> for BaseRef {
    fn from(BaseRequest { path, format }: BaseRequest) -> Self {
        Self { path, format }
    }
}

/// What is to be handed over, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcquireRequest {
    /// The base image's absolute path.
    #[schema(value_type = String, example = "/var/lib/vms/images/python-3-base-x86_64.qcow2")]
    pub base: PathBuf,
    /// The base image's format: qcow2, unless it is declared to be raw.
    #[serde(default)]
    pub format: Format,
    /// Where the overlay shall be: an absolute path at which nothing is.
    #[schema(value_type = String, example = "/var/lib/vms/run/17/disk.qcow2")]
    pub target: PathBuf,
    /// The size of the guest's disk in bytes: the base image's by default, and never smaller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_size: Option<u64>,
}

/// What was handed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AcquireAnswer {
    /// Where the overlay came from.
    pub source: Source,
    /// The base image's resolved path.
    #[schema(value_type = String)]
    pub base: PathBuf,
    /// Where the overlay is.
    #[schema(value_type = String)]
    pub target: PathBuf,
    /// How long the pool took, in microseconds.
    pub took_us: u64,
}

/// What is to be handed over as an open descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenRequest {
    /// The base image's absolute path.
    #[schema(value_type = String, example = "/var/lib/vms/images/python-3-base-x86_64.qcow2")]
    pub base: PathBuf,
    /// The base image's format: qcow2, unless it is declared to be raw.
    #[serde(default)]
    pub format: Format,
    /// The size of the guest's disk in bytes: the base image's by default, and never smaller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_size: Option<u64>,
}

/// What was handed over as an open descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OpenAnswer {
    /// Where the overlay came from.
    pub source: Source,
    /// The base image's resolved path.
    #[schema(value_type = String)]
    pub base: PathBuf,
    /// How long the pool took, in microseconds.
    pub took_us: u64,
}

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
        (status = "default", description = "Nothing was handed over.", body = Problem,
         content_type = "application/problem+json"),
    )
)]
pub(super) async fn acquire(
    State(shared): State<Shared>,
    Extension(peer): Extension<Peer>,
    Body(request): Body<AcquireRequest>,
) -> Result<Json<AcquireAnswer>, Problem> {
    let AcquireRequest { base, format, target, virtual_size } = request;
    let since = Instant::now();
    let target = match shared.access.target(&target) {
        Ok(directory) => Target::within(directory, target),
        Err(error) => return Err(refused(&shared, &base, error)),
    };
    let base = match shared.access.base(&base) {
        Ok(path) => BaseRef { path, format },
        Err(error) => {
            // Which comes before anything else (rule A1).
            target.refuse_existing().map_err(|error| shared.pool.failed(error))?;
            return Err(refused(&shared, &base, error));
        }
    };
    let pool = &shared.pool;
    let acquired = match virtual_size {
        Some(size) => pool.acquire_sized(base, target, size).await?,
        None => pool.acquire(base, target).await?,
    };
    let took = since.elapsed();
    tracing::debug!(%peer, target = %acquired.target.display(), source = ?acquired.source, ?took, "acquire");
    Ok(Json(AcquireAnswer {
        source: acquired.source,
        base: acquired.base,
        target: acquired.target,
        took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
    }))
}

/// A path that can't be resolved fails as in the pool, and is counted there; to refuse one that
/// isn't allowed is up to the server alone.
fn refused(shared: &Shared, base: &Path, error: AccessError) -> Problem {
    let error = match error {
        AccessError::Io { what: "target", path, source } => {
            Error::Target { base: base.to_owned(), target: path, source }
        }
        AccessError::Io { path, source, .. } => BaseError::Io { path, source }.into(),
        denied => return denied.into(),
    };
    shared.pool.failed(error).into()
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
        (status = "default", description = "Nothing was handed over.", body = Problem,
         content_type = "application/problem+json"),
    )
)]
pub(super) async fn open(
    State(shared): State<Shared>,
    Extension(peer): Extension<Peer>,
    Extension(descriptors): Extension<Descriptors>,
    Body(request): Body<OpenRequest>,
) -> Result<Json<OpenAnswer>, Problem> {
    let OpenRequest { base, format, virtual_size } = request;
    let since = Instant::now();
    let base = match shared.access.base(&base) {
        Ok(path) => BaseRef { path, format },
        Err(error) => return Err(refused(&shared, &base, error)),
    };
    let opened = shared.pool.acquire_open(base, virtual_size).await?;
    let took = since.elapsed();
    tracing::debug!(%peer, base = %opened.base.display(), source = ?opened.source, ?took, "open");
    descriptors.attach(opened.file.into());
    Ok(Json(OpenAnswer {
        source: opened.source,
        base: opened.base,
        took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
    }))
}
