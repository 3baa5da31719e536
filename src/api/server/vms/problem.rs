//! What goes wrong with VMs, as clients see it.

use axum::http::StatusCode;

use super::tenants::TooMany;
use crate::api::wire::Problem;
use crate::vm::{GuestError, VmError};

impl From<TooMany> for Problem {
    fn from(error: TooMany) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "too-many-vms", error.to_string())
    }
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
            VmError::NoSpace { .. } => (StatusCode::INSUFFICIENT_STORAGE, "vm-failed"),
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
