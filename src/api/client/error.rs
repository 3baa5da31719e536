//! What can go wrong between a client and its server.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::StatusCode;

use crate::api::wire::Problem;

/// Why a request to a server failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody answers at the socket.
    #[error("no server at {}: {source}; {}", socket.display(), advice(source))]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The connection was lost before the answer: what was asked for may have been done.
    #[error("server at {}: the connection was lost: {source}", socket.display())]
    Connection {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: hyper::Error,
    },
    /// The server says why it doesn't do what it was asked for.
    #[error("{}", .0.detail)]
    Refused(Problem),
    /// No answer came in time; the request was cancelled by closing its connection.
    #[error("server at {}: no answer within {after:?}", socket.display())]
    Timeout {
        /// The socket.
        socket: PathBuf,
        /// How long it was waited for.
        after: Duration,
    },
    /// What came isn't what `overlay-pool serve` of this version answers.
    #[error(
        "server at {}: {what}; is it an overlay-pool serve of another version?",
        socket.display()
    )]
    Protocol {
        /// The socket.
        socket: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A path can't be sent: JSON has no way to write it.
    #[error("path {}: not UTF-8, which a server can't be asked for", path.display())]
    NotUtf8 {
        /// The path.
        path: PathBuf,
    },
    /// A relative path, and the working directory can't be told.
    #[error("path {}: can't be made absolute: {source}", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl ClientError {
    /// What came from a server isn't what it should be.
    pub(super) fn protocol(socket: &Path, what: String) -> Self {
        Self::Protocol { socket: socket.to_owned(), what }
    }

    /// What an answer that is no success says.
    pub(super) fn refused(socket: &Path, status: StatusCode, body: &[u8]) -> Self {
        match serde_json::from_slice(body) {
            Ok(problem) => Self::Refused(problem),
            Err(_) => Self::protocol(socket, format!("status {status} and no problem details")),
        }
    }

    /// The name that the server gives the error: the contract's, or one of its own. None where
    /// the server didn't answer.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Refused(problem) => Some(&problem.error),
            _ => None,
        }
    }
}

/// What to do if nobody answers.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "its socket isn't for this user; see --socket-group of overlay-pool serve"
        }
        io::ErrorKind::InvalidInput => "name the socket of overlay-pool serve",
        _ => "is overlay-pool serve running?",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_is_told_another_thing_than_who_finds_nobody() {
        let advice = |kind: io::ErrorKind| advice(&kind.into());
        assert!(advice(io::ErrorKind::PermissionDenied).contains("--socket-group"));
        for nobody in [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused] {
            assert!(advice(nobody).contains("is overlay-pool serve running?"));
        }
        assert!(!advice(io::ErrorKind::InvalidInput).contains("running"));
    }
}
