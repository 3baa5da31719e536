//! The problems that operations on disks with an id can end in, as the `OpenAPI` document names
//! them.

use axum::http::StatusCode;
use utoipa::IntoResponses;

use crate::api::server::refusals::{
    BAD_REQUEST, BUSY, FORBIDDEN, NO_SPACE, Refusal, Responses, TIMED_OUT, problems,
};

const BAD_LABEL: Refusal = Refusal {
    description: "An id or a label can't be one, or there is a parameter that isn't known.",
    detail: "Invalid URL: give 1 to 128 ASCII letters, digits and -._:@, of which the first is a \
             letter or a digit",
    ..BAD_REQUEST
};
const NOT_YOURS: Refusal = Refusal {
    description: "The client is neither root nor the server's own user and names another user, the \
                  target isn't allowed any more, or the system denies it.",
    detail: "only root and the user that the server runs as may name another user",
    ..FORBIDDEN
};
const UNKNOWN: Refusal = Refusal {
    status: StatusCode::NOT_FOUND,
    description: "The disk isn't there, or belongs to another user.",
    error: "unknown-disk",
    detail: "disk vm-17: not there, or not yours",
};
const ELSEWHERE: Refusal = Refusal {
    status: StatusCode::CONFLICT,
    description: "The disk with this id is at another target, where it stays; or a VM has it \
                  (`disk-busy`).",
    error: "id-taken",
    detail: "id vm-17: it is the disk's at /var/lib/vms/run/18/disk.qcow2, which was asked for \
             otherwise; choose another id, or remove that disk first",
};
const IN_A_VM: Refusal = Refusal {
    status: StatusCode::CONFLICT,
    description: "A VM has one of the disks, which stays.",
    error: "disk-busy",
    detail: "disk vm-17: a VM has it; end that first",
};
const FAILED: Refusal = Refusal {
    status: StatusCode::INTERNAL_SERVER_ERROR,
    description: "The system doesn't let the disk be found or removed, or the server read or write \
                  what it knows of it.",
    error: "no-leases",
    detail: "leases in /var/lib/overlay-pool/leases: Input/output error (os error 5)",
};
const FULL: Refusal = Refusal {
    description: "There is no room for what the server has to know of the disk.",
    error: "no-leases",
    detail: "leases in /var/lib/overlay-pool/leases: No space left on device (os error 28)",
    ..NO_SPACE
};

/// Listing disks.
pub(super) struct Listing;
/// Looking at a disk.
pub(super) struct Finding;
/// Removing a disk.
pub(super) struct Removing;
/// Removing the disks of an owner.
pub(super) struct RemovingAll;

impl IntoResponses for Listing {
    fn responses() -> Responses {
        problems([BAD_LABEL, FAILED, BUSY, TIMED_OUT, FULL])
    }
}

impl IntoResponses for Finding {
    fn responses() -> Responses {
        problems([BAD_LABEL, NOT_YOURS, UNKNOWN, FAILED, BUSY, TIMED_OUT, FULL])
    }
}

impl IntoResponses for Removing {
    fn responses() -> Responses {
        problems([BAD_LABEL, NOT_YOURS, ELSEWHERE, FAILED, BUSY, TIMED_OUT, FULL])
    }
}

impl IntoResponses for RemovingAll {
    fn responses() -> Responses {
        problems([BAD_LABEL, NOT_YOURS, IN_A_VM, FAILED, BUSY, TIMED_OUT, FULL])
    }
}
