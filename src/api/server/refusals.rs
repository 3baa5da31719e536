//! The problems that operations can end in, as the `OpenAPI` document names them.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde_json::json;
use utoipa::IntoResponses;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};

use crate::api::wire::Problem;

/// One status, and an example of what comes with it.
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) description: &'static str,
    pub(super) error: &'static str,
    pub(super) detail: &'static str,
}

pub(super) const BAD_REQUEST: Refusal = Refusal {
    status: StatusCode::BAD_REQUEST,
    description: "The request can't be understood, or a path in it isn't absolute.",
    error: "bad-request",
    detail: "target disk.qcow2: give an absolute path",
};
pub(super) const FORBIDDEN: Refusal = Refusal {
    status: StatusCode::FORBIDDEN,
    description: "The server doesn't allow this path, others may write where the base image is, or \
                  the system denies it.",
    error: "forbidden",
    detail: "target /etc/disk.qcow2: outside of the directories that the server allows: \
             /var/lib/vms/run",
};
const NOT_YOURS: Refusal = Refusal {
    description: "The client is neither root nor the server's own user.",
    detail: "only root and the user that the server runs as may do this",
    ..FORBIDDEN
};
const NO_BASE: Refusal = Refusal {
    status: StatusCode::NOT_FOUND,
    description: "The base image or the target's directory isn't there.",
    error: "bad-base",
    detail: "base image /var/lib/vms/images/gone.qcow2: No such file or directory (os error 2)",
};
const UNKNOWN_BASE: Refusal = Refusal {
    status: StatusCode::NOT_FOUND,
    description: "The pool has no such base image.",
    error: "unknown-base",
    detail: "base image /var/lib/vms/images/other.qcow2: not one of the pool's",
};
const MAY_NOT_ACQUIRE: Refusal = Refusal {
    description: "The server doesn't allow this path, others may write where the base image is, the \
                  system denies it, or the user has as many disks with an id as it may \
                  (`too-many-disks`).",
    ..FORBIDDEN
};
const EXISTS: Refusal = Refusal {
    status: StatusCode::CONFLICT,
    description: "Something is at the target already, which is left as it was; or the id is another \
                  disk's (`id-taken`).",
    error: "already-exists",
    detail: "target /var/lib/vms/run/17/disk.qcow2 already exists",
};
pub(super) const TOO_LARGE: Refusal = Refusal {
    status: StatusCode::PAYLOAD_TOO_LARGE,
    description: "The body is larger than the server takes.",
    error: "too-large",
    detail: "Failed to buffer the request body: length limit exceeded",
};
pub(super) const NOT_JSON: Refusal = Refusal {
    status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
    description: "The body isn't said to be JSON.",
    error: "bad-request",
    detail: "Expected request with `Content-Type: application/json`",
};
const UNUSABLE: Refusal = Refusal {
    status: StatusCode::UNPROCESSABLE_ENTITY,
    description: "The body has other fields than it should, the base image can't be used, or a disk \
                  of this size can't be had of it.",
    error: "bad-base",
    detail: "base image /var/lib/vms/images/disk.img: magic: 00 00 00 00 is not qcow2's \
             51 46 49 fb; if it is a raw image, send \"format\": \"raw\"",
};
const FAILED: Refusal = Refusal {
    status: StatusCode::INTERNAL_SERVER_ERROR,
    description: "The overlay can't be made.",
    error: "create-failed",
    detail: "overlay of /var/lib/vms/images/disk.qcow2 at /var/lib/vms/run/17/disk.qcow2: \
             Input/output error (os error 5)",
};
pub(super) const BUSY: Refusal = Refusal {
    status: StatusCode::SERVICE_UNAVAILABLE,
    description: "The client has too many connections, or didn't receive the descriptors that were \
                  sent to it; the server can open no more files, or its pool isn't started.",
    error: "too-many-connections",
    detail: "close some, or use them for more than one request",
};
pub(super) const TIMED_OUT: Refusal = Refusal {
    status: StatusCode::GATEWAY_TIMEOUT,
    description: "The request took too long; nothing was handed over.",
    error: "timed-out",
    detail: "no answer within 30s; nothing was handed over",
};
pub(super) const NO_SPACE: Refusal = Refusal {
    status: StatusCode::INSUFFICIENT_STORAGE,
    description: "There is no room for the overlay.",
    error: "create-failed",
    detail: "overlay of /var/lib/vms/images/disk.qcow2 at /var/lib/vms/run/17/disk.qcow2: No space \
             left on device (os error 28)",
};

/// Looking at something.
pub(super) struct Looking;
/// Looking whether the server is ready.
pub(super) struct Readiness;
/// Having the pool do something.
pub(super) struct Changing;
/// Adding a base image.
pub(super) struct Adding;
/// Removing a base image.
pub(super) struct Removing;
/// Being handed an overlay at a path.
pub(super) struct Acquiring;
/// Being handed an overlay as an open descriptor.
pub(super) struct Opening;

pub(super) type Responses = BTreeMap<String, RefOr<Response>>;

impl IntoResponses for Looking {
    fn responses() -> Responses {
        problems([BUSY])
    }
}

impl IntoResponses for Readiness {
    fn responses() -> Responses {
        problems([Refusal {
            description: "It isn't, and why; or the client has too many connections.",
            error: "not-ready",
            detail: "low space: no overlay is made ahead; make room in the pool's directory",
            ..BUSY
        }])
    }
}

impl IntoResponses for Changing {
    fn responses() -> Responses {
        problems([NOT_YOURS, BUSY, TIMED_OUT])
    }
}

impl IntoResponses for Adding {
    fn responses() -> Responses {
        let forbidden = Refusal {
            description: "The client is neither root nor the server's own user, or the server \
                          doesn't allow this path.",
            ..FORBIDDEN
        };
        problems([
            BAD_REQUEST,
            forbidden,
            NO_BASE,
            TOO_LARGE,
            NOT_JSON,
            UNUSABLE,
            FAILED,
            BUSY,
            TIMED_OUT,
        ])
    }
}

impl IntoResponses for Removing {
    fn responses() -> Responses {
        problems([BAD_REQUEST, NOT_YOURS, UNKNOWN_BASE, BUSY, TIMED_OUT])
    }
}

impl IntoResponses for Acquiring {
    fn responses() -> Responses {
        let mut responses = Opening::responses();
        responses.extend(problems([MAY_NOT_ACQUIRE, EXISTS]));
        responses
    }
}

impl IntoResponses for Opening {
    fn responses() -> Responses {
        problems([
            BAD_REQUEST,
            FORBIDDEN,
            NO_BASE,
            TOO_LARGE,
            NOT_JSON,
            UNUSABLE,
            FAILED,
            BUSY,
            TIMED_OUT,
            NO_SPACE,
        ])
    }
}

pub(super) fn problems(refusals: impl IntoIterator<Item = Refusal>) -> Responses {
    let response = |Refusal { status, description, error, detail }: Refusal| {
        let content = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name("Problem")))
            .example(Some(json!(Problem::new(status, error, detail))))
            .build();
        let response = ResponseBuilder::new()
            .description(description)
            .content("application/problem+json", content)
            .build();
        (status.as_str().to_owned(), response.into())
    };
    refusals.into_iter().map(response).collect()
}
