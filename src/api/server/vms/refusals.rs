//! The problems that operations on VMs can end in, as the `OpenAPI` document names them.

use axum::http::StatusCode;
use utoipa::IntoResponses;

use crate::api::server::refusals::{
    BAD_REQUEST, BUSY, NOT_JSON, Refusal, Responses, TIMED_OUT, TOO_LARGE, problems,
};

const NO_VMS: Refusal = Refusal {
    status: StatusCode::NOT_FOUND,
    description: "The server runs no VMs.",
    error: "no-vms",
    detail: "this server runs no VMs: start it with --vms",
};
const UNKNOWN: Refusal = Refusal {
    description: "The VM isn't there, or belongs to another user.",
    error: "unknown-vm",
    detail: "VM \"vm-0123456789abcdef0123456789abcdef\": not there, or not yours",
    ..NO_VMS
};
const NO_DISK: Refusal = Refusal {
    description: "The server runs no VMs (`no-vms`), or none of this language (`no-image`); or the disk \
                  isn't there, or belongs to another user.",
    error: "unknown-disk",
    detail: "disk vm-17: not there, or not yours",
    ..NO_VMS
};
const DISK_DENIED: Refusal = Refusal {
    status: StatusCode::FORBIDDEN,
    description: "Another user may write to the disk's file.",
    error: "forbidden",
    detail: "disk vm-17: another user than the server's may write to its file; have that user give it \
             back, or take that right away (chmod go-w)",
};
const DISK_BUSY: Refusal = Refusal {
    status: StatusCode::CONFLICT,
    description: "Another VM has the disk, or another process uses it.",
    error: "disk-busy",
    detail: "disk vm-17: a VM has it; end that first",
};
const RUNS: Refusal = Refusal {
    status: StatusCode::CONFLICT,
    description: "Another program runs in the VM.",
    error: "vm-busy",
    detail: "VM vm-0123456789abcdef0123456789abcdef runs another program: wait for its end",
};
const LATE: Refusal = Refusal {
    status: StatusCode::REQUEST_TIMEOUT,
    description: "The request didn't come in time; nothing was run.",
    error: "timed-out",
    detail: "the request didn't come within 30s; nothing was run",
};
const UNFIT: Refusal = Refusal {
    status: StatusCode::UNPROCESSABLE_ENTITY,
    description: "The request has other fields than it should, or the guest can't do it.",
    error: "guest-refused",
    detail: "VM vm-0123456789abcdef0123456789abcdef: the guest refused: /no/such/file: No such \
             file or directory",
};
const BAD_DISK: Refusal = Refusal {
    description: "The request has other fields than it should, the guest can't do it (`guest-refused`), \
                  or the disk is none that a VM of this language can have.",
    error: "bad-disk",
    detail: "disk /var/lib/vms/run/17/disk.qcow2: it is an overlay of \
             /var/lib/vms/images/plain-base-1.qcow2, and not of \
             /var/lib/overlay-pool/guest-images/python-3.13-base-x86_64.qcow2",
    ..UNFIT
};
const FAILED: Refusal = Refusal {
    status: StatusCode::INTERNAL_SERVER_ERROR,
    description: "There can be no VM.",
    error: "vm-failed",
    detail: "VM vm-0123456789abcdef0123456789abcdef ended (signal: 9 (SIGKILL)): it said nothing",
};
const TOO_MANY: Refusal = Refusal {
    status: StatusCode::SERVICE_UNAVAILABLE,
    description: "The user, or all together, have as many VMs as they may (the header \
                  `retry-after` says when to try again); the client has too many connections, or \
                  the server isn't ready.",
    error: "too-many-vms",
    detail: "you have 4 VMs, as many as one user may have; end one, or try again later",
};
const TOO_SLOW: Refusal = Refusal {
    description: "The VM took too long to boot.",
    error: "vm-failed",
    detail: "VM vm-0123456789abcdef0123456789abcdef: not ready within 60s: it said nothing",
    ..TIMED_OUT
};
const NO_SPACE: Refusal = Refusal {
    status: StatusCode::INSUFFICIENT_STORAGE,
    description: "There is no room for the VM's disk.",
    error: "vm-failed",
    detail: "VM vm-0123456789abcdef0123456789abcdef: no space is left in /var/lib/overlay-pool: \
             make room there, or name another place with OVERLAY_POOL_DIR",
};

/// Looking at VMs.
pub(super) struct Looking;
/// Doing something with a VM.
pub(super) struct Keeping;
/// Making a VM.
pub(super) struct Creating;
/// Running a program in a VM of its own.
pub(super) struct Executing;
/// Running a program in a VM that is there.
pub(super) struct Running;

impl IntoResponses for Looking {
    fn responses() -> Responses {
        problems([NO_VMS, BUSY])
    }
}

impl IntoResponses for Keeping {
    fn responses() -> Responses {
        problems([BAD_REQUEST, UNKNOWN, BUSY, TIMED_OUT])
    }
}

impl IntoResponses for Creating {
    fn responses() -> Responses {
        let of_disk = [NO_DISK, DISK_DENIED, DISK_BUSY, BAD_DISK];
        let common = [BAD_REQUEST, TOO_LARGE, NOT_JSON, FAILED, TOO_MANY, TOO_SLOW, NO_SPACE];
        problems(common.into_iter().chain(of_disk))
    }
}

impl IntoResponses for Executing {
    fn responses() -> Responses {
        let mut responses = Creating::responses();
        responses.extend(problems([LATE]));
        responses
    }
}

impl IntoResponses for Running {
    fn responses() -> Responses {
        let common = [BAD_REQUEST, UNKNOWN, LATE, RUNS, TOO_LARGE, NOT_JSON, UNFIT];
        problems(common.into_iter().chain([FAILED, BUSY, TIMED_OUT, NO_SPACE]))
    }
}
