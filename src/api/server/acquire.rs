//! `POST /v1/acquire` and `POST /v1/open`: one overlay is handed over.

use std::path::{Path, PathBuf};
use std::time::Instant;

use axum::extract::State;
use axum::{Extension, Json};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Number;
use utoipa::ToSchema;

use super::access::AccessError;
use super::connection::Descriptors;
use super::extract::Body;
use super::peers::Peer;
use super::problem::Problem;
use super::refusals::{Acquiring, Opening};
use super::server::Shared;
use crate::error::Error;
use crate::image::{BaseError, BaseRef, Format};
use crate::pool::{Source, Target, paths};

/// A base image, as a client names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BaseRequest {
    /// Its absolute path.
    #[schema(value_type = String, pattern = r"^/[^\u0000]*$", max_length = 4095,
             example = "/var/lib/vms/images/python-3-base-x86_64.qcow2")]
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
    #[schema(value_type = String, pattern = r"^/[^\u0000]*$", max_length = 4095,
             example = "/var/lib/vms/images/python-3-base-x86_64.qcow2")]
    pub base: PathBuf,
    /// The base image's format: qcow2, unless it is declared to be raw.
    #[serde(default)]
    pub format: Format,
    /// Where the overlay shall be: an absolute path at which nothing is.
    #[schema(value_type = String, max_length = 4095,
             pattern = r"^/([^\u0000]*/)?[^/\u0000]*[^/.\u0000][^/\u0000]*$",
             example = "/var/lib/vms/run/17/disk.qcow2")]
    pub target: PathBuf,
    /// The size of the guest's disk in bytes: the base image's by default, and never smaller.
    #[serde(default, deserialize_with = "whole", skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 4_503_599_627_370_496_i64, example = 10_737_418_240_u64)]
    pub virtual_size: Option<u64>,
}

/// What was handed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AcquireAnswer {
    /// Where the overlay came from.
    pub source: Source,
    /// The base image's resolved path.
    #[serde(serialize_with = "paths::one")]
    #[schema(value_type = String, example = "/var/lib/vms/images/python-3-base-x86_64.qcow2")]
    pub base: PathBuf,
    /// Where the overlay is.
    #[serde(serialize_with = "paths::one")]
    #[schema(value_type = String, example = "/var/lib/vms/run/17/disk.qcow2")]
    pub target: PathBuf,
    /// How long the pool took, in microseconds.
    #[schema(example = 27)]
    pub took_us: u64,
}

/// What is to be handed over as an open descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenRequest {
    /// The base image's absolute path.
    #[schema(value_type = String, pattern = r"^/[^\u0000]*$", max_length = 4095,
             example = "/var/lib/vms/images/python-3-base-x86_64.qcow2")]
    pub base: PathBuf,
    /// The base image's format: qcow2, unless it is declared to be raw.
    #[serde(default)]
    pub format: Format,
    /// The size of the guest's disk in bytes: the base image's by default, and never smaller.
    #[serde(default, deserialize_with = "whole", skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 4_503_599_627_370_496_i64, example = 10_737_418_240_u64)]
    pub virtual_size: Option<u64>,
}

/// What was handed over as an open descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OpenAnswer {
    /// Where the overlay came from.
    pub source: Source,
    /// The base image's resolved path.
    #[serde(serialize_with = "paths::one")]
    #[schema(value_type = String, example = "/var/lib/vms/images/python-3-base-x86_64.qcow2")]
    pub base: PathBuf,
    /// How long the pool took, in microseconds.
    #[schema(example = 27)]
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
        Acquiring,
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
        Opening,
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

/// A number that is whole, also where it is written with a fraction: to JSON Schema, and to clients
/// that have one kind of number, `1024.0` is an integer.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let Some(number) = Option::<Number>::deserialize(deserializer)? else { return Ok(None) };
    let written_out = || {
        let number = number.as_f64().filter(|number| number.fract() == 0.0)?;
        format!("{number:.0}").parse().ok()
    };
    let whole = number.as_u64().or_else(written_out);
    let error =
        || D::Error::custom(format_args!("{number} isn't a whole number from 0 to 2^64 - 1"));
    whole.map(Some).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::OpenRequest;

    fn size(size: &Value) -> Result<Option<u64>, String> {
        let request = json!({ "base": "/base", "virtual_size": size });
        let request: Result<OpenRequest, _> = serde_json::from_value(request);
        request.map(|request| request.virtual_size).map_err(|error| error.to_string())
    }

    #[rstest]
    #[case(json!(1024), Some(1024))]
    #[case(json!(1024.0), Some(1024))]
    #[case(json!(1e15), Some(1_000_000_000_000_000))]
    #[case(json!(0.0), Some(0))]
    #[case(json!(u64::MAX), Some(u64::MAX))]
    #[case(Value::Null, None)]
    fn a_whole_number_is_a_size(#[case] number: Value, #[case] expected: Option<u64>) {
        assert_eq!(size(&number), Ok(expected));
    }

    #[rstest]
    #[case(json!(0.5))]
    #[case(json!(-1))]
    #[case(json!(-1.0))]
    #[case(json!(1e300))]
    #[case(json!("1024"))]
    #[case(json!(true))]
    fn nothing_else_is(#[case] number: Value) {
        size(&number).expect_err("no size");
    }
}
