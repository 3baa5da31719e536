//! Errors as clients see them: problem details for HTTP APIs (RFC 9457).

use std::io;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::acceptor::is_exhausted;
use super::access::AccessError;
use crate::api::wire::Problem;
use crate::creator::CreatorError;
use crate::error::Error;
use crate::image::{BaseError, HeaderError};

/// When a problem that passes soon may have, in seconds.
const SOON: &str = "1";

impl Problem {
    pub(super) fn new(status: StatusCode, error: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:overlay-pool:{error}"),
            title: title(error).to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            error: error.to_owned(),
        }
    }

    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", detail)
    }
}

/// One short sentence for each name of an error.
fn title(error: &str) -> &'static str {
    match error {
        "already-exists" => "The target already exists",
        "bad-base" => "The base image is missing or can't be used",
        "bad-target" => "The target can't be used",
        "create-failed" => "The overlay can't be made",
        "creator-unavailable" => "The server can't make overlays",
        "not-started" => "The pool isn't started",
        "forbidden" => "The server doesn't allow it",
        "unknown-base" => "The pool has no such base image",
        "too-many-connections" => "There are too many connections",
        "no-threads" => "The server has no thread for this",
        "too-many-descriptors" => "Too many descriptors weren't received",
        "timed-out" => "The request took too long",
        "not-found" => "There is nothing at this path",
        "method-not-allowed" => "This path doesn't take this method",
        "bad-request" => "The request can't be understood",
        "too-large" => "The request is too large",
        "not-ready" => "The server isn't ready",
        "no-vms" => "The server runs no VMs",
        "no-image" => "The server has no VMs of this language",
        "too-many-disks" => "The user has too many disks with an id",
        "id-taken" => "The id is another disk's",
        "disk-busy" => "The disk is in use",
        "bad-disk" => "The disk can't be used by a VM",
        "no-leases" => "The server can't keep disks with an id",
        "unknown-disk" => "There is no such disk",
        "unknown-vm" => "There is no such VM",
        "vm-busy" => "The VM runs another program",
        "vm-failed" => "The VM failed",
        "guest-refused" => "The VM's guest can't do it",
        "too-many-vms" => "There are too many VMs",
        _ => "The request failed",
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status);
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        let soon = (self.error == "too-many-vms").then_some([(header::RETRY_AFTER, SOON)]);
        (status, kind, soon, Json(self)).into_response()
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::AlreadyExists { .. } | Error::AlreadyStarted => StatusCode::CONFLICT,
            Error::NotStarted | Error::CreatorUnavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Error::Base(BaseError::Io { source, .. }) if is_missing(source) => {
                StatusCode::NOT_FOUND
            }
            Error::Base(BaseError::Io { source, .. }) if is_exhausted(source) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Error::Base(_) | Error::Path { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Error::Target { source, .. }
            | Error::Create { source: CreatorError::Write(source), .. } => of_system(source),
            Error::Create { source: CreatorError::Timeout(_), .. } => StatusCode::GATEWAY_TIMEOUT,
            Error::Create { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let detail = match &error {
            // Which is up to the server, not to its client.
            Error::NotStarted => "the server isn't ready yet; try again once /readyz is".to_owned(),
            Error::Base(BaseError::Header { source: HeaderError::Magic(_), .. }) => {
                format!("{error}; if it is a raw image, send \"format\": \"raw\"")
            }
            error => error.to_string(),
        };
        Self::new(status, error.name(), detail)
    }
}

impl From<AccessError> for Problem {
    fn from(error: AccessError) -> Self {
        let detail = error.to_string();
        let (name, status) = match error {
            AccessError::Relative { .. } | AccessError::NoName { .. } => {
                return Self::bad_request(detail);
            }
            AccessError::Denied { .. } | AccessError::Untrusted { .. } => {
                ("forbidden", StatusCode::FORBIDDEN)
            }
            AccessError::Base(error) => return Error::Base(error).into(),
            AccessError::Io { what: "target", source, .. } => ("bad-target", of_system(&source)),
            AccessError::Io { source, .. } => ("bad-base", of_system(&source)),
        };
        Self::new(status, name, detail)
    }
}

/// The status for what the system said of a path that a client named.
pub(super) fn of_system(error: &io::Error) -> StatusCode {
    match error.kind() {
        _ if is_missing(error) => StatusCode::NOT_FOUND,
        _ if is_exhausted(error) => StatusCode::SERVICE_UNAVAILABLE,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            StatusCode::FORBIDDEN
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            StatusCode::INSUFFICIENT_STORAGE
        }
        io::ErrorKind::InvalidFilename | io::ErrorKind::InvalidInput => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

pub(super) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", rejection.body_text())
            }
            status => Self::new(status, "bad-request", rejection.body_text()),
        }
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rstest::rstest;
    use rustix::io::Errno;

    use super::*;

    #[rstest]
    #[case(Errno::NOENT, 404)]
    #[case(Errno::NOTDIR, 404)]
    #[case(Errno::MFILE, 503)]
    #[case(Errno::NFILE, 503)]
    #[case(Errno::NOMEM, 503)]
    #[case(Errno::NOBUFS, 503)]
    #[case(Errno::ACCESS, 403)]
    #[case(Errno::ROFS, 403)]
    #[case(Errno::NOSPC, 507)]
    #[case(Errno::DQUOT, 507)]
    #[case(Errno::NAMETOOLONG, 422)]
    #[case(Errno::INVAL, 422)]
    #[case(Errno::IO, 500)]
    fn what_the_system_says_of_a_path_has_its_status(#[case] errno: Errno, #[case] status: u16) {
        let (base, target) = (PathBuf::new(), PathBuf::new());
        let refused = Problem::from(Error::Target { base, target, source: errno.into() });
        assert_eq!((refused.status, &*refused.error), (status, "bad-target"));
        let of_base = AccessError::io("base image", "/base".as_ref(), errno.into());
        let of_target = AccessError::io("target", "/target".as_ref(), errno.into());
        for (error, name) in [(of_base, "bad-base"), (of_target, "bad-target")] {
            let refused = Problem::from(error);
            assert_eq!((refused.status, &*refused.error), (status, name));
        }
    }

    /// What passes is told from what doesn't.
    #[rstest]
    #[case(Errno::NOENT, 404)]
    #[case(Errno::MFILE, 503)]
    #[case(Errno::NOMEM, 503)]
    #[case(Errno::IO, 422)]
    fn what_the_system_says_of_a_base_image(#[case] errno: Errno, #[case] status: u16) {
        let base = BaseError::Io { path: PathBuf::new(), source: errno.into() };
        assert_eq!(Problem::from(Error::Base(base)).status, status);
    }

    #[test]
    fn a_pool_that_is_not_started_is_the_server_s_to_start() {
        let problem = Problem::from(Error::NotStarted);
        assert_eq!((problem.status, &*problem.error), (503, "not-started"));
        assert!(problem.detail.contains("/readyz"), "{problem:?}");
    }

    /// Each name has a title of its own, not that of what nobody knows.
    #[test]
    fn each_problem_has_its_title() {
        let names = [
            "already-exists",
            "bad-base",
            "bad-target",
            "create-failed",
            "creator-unavailable",
            "not-started",
            "forbidden",
            "unknown-base",
            "too-many-connections",
            "no-threads",
            "too-many-descriptors",
            "timed-out",
            "not-found",
            "method-not-allowed",
            "bad-request",
            "too-large",
            "not-ready",
            "no-vms",
            "no-image",
            "too-many-disks",
            "id-taken",
            "disk-busy",
            "bad-disk",
            "no-leases",
            "unknown-disk",
            "unknown-vm",
            "vm-busy",
            "vm-failed",
            "guest-refused",
            "too-many-vms",
            "failed",
        ];
        let titles: std::collections::BTreeSet<_> = names.into_iter().map(title).collect();
        assert_eq!(titles.len(), names.len(), "{titles:?}");
    }

    /// When there may be a VM, and of nothing else.
    #[test]
    fn what_passes_soon_says_when_to_ask_again() {
        for (error, soon) in [("too-many-vms", Some("1")), ("too-many-disks", None)] {
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, error, "");
            let answer = problem.into_response();
            let said = answer.headers().get(header::RETRY_AFTER);
            assert_eq!(said.map(|said| said.to_str().expect("text")), soon);
        }
    }
}
