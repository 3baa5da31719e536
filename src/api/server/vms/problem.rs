//! What goes wrong with VMs, as clients see it.

use std::io;

use axum::http::StatusCode;

use super::tenants::TooMany;
use crate::Error;
use crate::api::wire::Problem;
use crate::creator::CreatorError;
use crate::vm::{GuestError, UnknownLanguage, VmError};

impl From<TooMany> for Problem {
    fn from(error: TooMany) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "too-many-vms", error.to_string())
    }
}

impl From<UnknownLanguage> for Problem {
    fn from(error: UnknownLanguage) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-request", error.to_string())
    }
}

/// Whether the host has no room: for a VM's disk, for its directory, or for what its guest writes.
fn is_for_want_of_space(error: &VmError) -> bool {
    let source = match error {
        VmError::NoSpace { .. } => return true,
        VmError::File { source, .. }
        | VmError::Disk(
            Error::Target { source, .. }
            | Error::Create { source: CreatorError::Write(source), .. },
        ) => source,
        _ => return false,
    };
    matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl From<VmError> for Problem {
    fn from(error: VmError) -> Self {
        Self::from(&error)
    }
}

impl From<&VmError> for Problem {
    fn from(error: &VmError) -> Self {
        let (status, name) = match error {
            VmError::NotStarted => (StatusCode::SERVICE_UNAVAILABLE, "not-started"),
            VmError::TooMany { .. } => (StatusCode::SERVICE_UNAVAILABLE, "too-many-vms"),
            VmError::NoImage { .. } => (StatusCode::NOT_FOUND, "no-image"),
            VmError::NotReady { .. } => (StatusCode::CONFLICT, "vm-busy"),
            VmError::Guest {
                source: GuestError::Refused(_) | GuestError::TooLong { .. }, ..
            } => (StatusCode::UNPROCESSABLE_ENTITY, "guest-refused"),
            VmError::BootTimeout { .. } => (StatusCode::GATEWAY_TIMEOUT, "vm-failed"),
            error if is_for_want_of_space(error) => (StatusCode::INSUFFICIENT_STORAGE, "vm-failed"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "vm-failed"),
        };
        let detail = match error {
            // Which is up to the server, not to its client.
            VmError::NotStarted => {
                "the server isn't ready yet; try again once /readyz is".to_owned()
            }
            VmError::TooMany { limit } => {
                format!(
                    "{limit} VMs are in use, which is all that this server has; try again later"
                )
            }
            error => error.to_string(),
        };
        Self::new(status, name, detail)
    }
}
