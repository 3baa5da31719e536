//! Why a call isn't done, as a code of gRPC.
//!
//! To the kubelet some codes are final: after them it takes a volume for not published, and never
//! has it unpublished. The others leave that open. So what fails with a final code leaves nothing
//! behind, and what can't be cleaned up, or was there before, fails with one that isn't final.

use std::io;
use std::path::PathBuf;

use tonic::{Code, Status};

use super::place::PlaceError;
use super::request::RequestError;
use super::volume::VolumeError;
use crate::api::{ClientError, Label};

/// The statuses of HTTP that a server refuses with.
const FORBIDDEN: u16 = 403;
const NOT_FOUND: u16 = 404;
const CONFLICT: u16 = 409;
const INTERNAL: u16 = 500;
const UNAVAILABLE: u16 = 503;
const TIMED_OUT: u16 = 504;
const FULL: u16 = 507;

/// Why a call isn't done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error(transparent)]
    Server(#[from] ClientError),
    #[error("volume {id}: not published at {path}")]
    NotPublished { id: String, path: String },
    #[error("volume {id}: its disk is at {}, and nowhere else", disk.display())]
    Elsewhere { id: Label, disk: PathBuf },
    #[error("this node has {0} volumes, and may have no more (--max-volumes)")]
    TooMany(u64),
    /// A failure, and why what it left can't be removed now.
    #[error("{failure}; what is left can't be removed yet: {left}")]
    Left { failure: Box<Refusal>, left: Box<Refusal> },
    /// A failure, while the volume is there as it was.
    #[error(transparent)]
    There(Box<Refusal>),
    #[error("the driver is ending")]
    Ending,
}

impl Refusal {
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Request(_) | Self::Elsewhere { .. } | Self::Place(PlaceError::Outside { .. }) => {
                Code::InvalidArgument
            }
            Self::Place(PlaceError::Io { source, .. })
            | Self::Volume(VolumeError { source, .. }) => of_system(source),
            Self::Server(error) => of_server(error),
            Self::NotPublished { .. } => Code::NotFound,
            Self::TooMany(_) => Code::ResourceExhausted,
            Self::Left { .. } | Self::There(_) => Code::Aborted,
            Self::Ending => Code::Unavailable,
        }
    }

    /// This, with what can't be removed of what it left.
    pub(super) fn and(self, left: Self) -> Self {
        Self::Left { failure: self.into(), left: left.into() }
    }

    /// Whether the kubelet takes it for certain that nothing was done.
    pub(super) fn is_final(&self) -> bool {
        let open = [
            Code::Cancelled,
            Code::DeadlineExceeded,
            Code::Unavailable,
            Code::ResourceExhausted,
            Code::Aborted,
        ];
        !open.contains(&self.code())
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code(), refusal.to_string())
    }
}

fn of_system(error: &io::Error) -> Code {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Code::FailedPrecondition,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Code::PermissionDenied
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::ResourceExhausted,
        io::ErrorKind::ResourceBusy => Code::Unavailable,
        _ => Code::Internal,
    }
}

fn of_server(error: &ClientError) -> Code {
    match error {
        ClientError::Refused(problem) => match problem.status {
            // It may be there soon: images are pulled while Pods wait.
            NOT_FOUND => Code::NotFound,
            CONFLICT => Code::AlreadyExists,
            FORBIDDEN => Code::PermissionDenied,
            // Too many connections, or a server that is starting or stopping.
            UNAVAILABLE => Code::Unavailable,
            TIMED_OUT => Code::DeadlineExceeded,
            FULL => Code::ResourceExhausted,
            INTERNAL.. => Code::Internal,
            _ => Code::InvalidArgument,
        },
        ClientError::Connect { .. } | ClientError::Connection { .. } => Code::Unavailable,
        ClientError::Timeout { .. } => Code::DeadlineExceeded,
        _ => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn refused(status: u16) -> Refusal {
        let problem = json!({
            "type": "urn:overlay-pool:x", "title": "X", "status": status, "detail": "why",
            "error": "x",
        });
        let problem = serde_json::from_value(problem).expect("a problem");
        Refusal::Server(ClientError::Refused(problem))
    }

    /// After a final code the kubelet never has the volume unpublished.
    #[rstest]
    #[case(400, Code::InvalidArgument, true)]
    #[case(403, Code::PermissionDenied, true)]
    #[case(404, Code::NotFound, true)]
    #[case(409, Code::AlreadyExists, true)]
    #[case(422, Code::InvalidArgument, true)]
    #[case(500, Code::Internal, true)]
    #[case(503, Code::Unavailable, false)]
    #[case(504, Code::DeadlineExceeded, false)]
    #[case(507, Code::ResourceExhausted, false)]
    fn what_a_server_says_has_a_code(#[case] status: u16, #[case] code: Code, #[case] last: bool) {
        let refusal = refused(status);
        assert_eq!((refusal.code(), refusal.is_final()), (code, last));
        assert_eq!(refusal.to_string(), "why");
    }

    #[test]
    fn what_is_left_is_never_final() {
        let boxed = |status| Box::new(refused(status));
        let there = Refusal::There(boxed(409));
        assert_eq!((there.code(), there.to_string()), (Code::Aborted, "why".to_owned()));
        let left = Refusal::Left { failure: boxed(422), left: boxed(500) };
        assert!(!left.is_final());
        assert_eq!(left.to_string(), "why; what is left can't be removed yet: why");
    }

    #[test]
    fn a_server_that_is_not_there_is_asked_again() {
        let source = io::ErrorKind::ConnectionRefused.into();
        let error = ClientError::Connect { socket: "pool.sock".into(), source };
        assert!(!Refusal::Server(error).is_final());
    }
}
