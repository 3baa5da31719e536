//! Why the server can't keep or find records of disks.

use std::io;
use std::path::{Path, PathBuf};

use axum::http::StatusCode;

use crate::api::server::problem::of_system;
use crate::api::wire::Problem;

/// Why there are no records of disks.
#[derive(Debug, thiserror::Error)]
pub(super) enum LeaseError {
    /// Another server has them.
    #[error(
        "leases in {}: another server keeps its own there; name another directory with --leases",
        .0.display()
    )]
    Held(PathBuf),
    /// The system says why not.
    #[error("leases in {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// There is no thread to read them.
    #[error("no thread for the request: {0}; try again later")]
    NoThread(io::Error),
    /// It panicked.
    #[error("the request was given up; see the server's log")]
    GivenUp,
}

impl LeaseError {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::WouldBlock => Self::Held(path.to_owned()),
            _ => Self::Io { path: path.to_owned(), source },
        }
    }
}

impl From<LeaseError> for Problem {
    fn from(error: LeaseError) -> Self {
        let detail = error.to_string();
        let (name, status) = match error {
            LeaseError::Held(_) => ("no-leases", StatusCode::SERVICE_UNAVAILABLE),
            // It is up to the server, not to what its client named.
            LeaseError::Io { source, .. } => match of_system(&source) {
                full @ (StatusCode::INSUFFICIENT_STORAGE | StatusCode::SERVICE_UNAVAILABLE) => {
                    ("no-leases", full)
                }
                _ => ("no-leases", StatusCode::INTERNAL_SERVER_ERROR),
            },
            LeaseError::NoThread(_) => ("no-threads", StatusCode::SERVICE_UNAVAILABLE),
            LeaseError::GivenUp => ("failed", StatusCode::INTERNAL_SERVER_ERROR),
        };
        Self::new(status, name, detail)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use rustix::io::Errno;

    use super::*;

    /// What passes is told from what doesn't, and nothing of it is the client's to mend.
    #[rstest]
    #[case(Errno::AGAIN, 503)]
    #[case(Errno::MFILE, 503)]
    #[case(Errno::NOSPC, 507)]
    #[case(Errno::NOENT, 500)]
    #[case(Errno::ACCESS, 500)]
    #[case(Errno::IO, 500)]
    fn no_leases_are_the_server_s_affair(#[case] errno: Errno, #[case] status: u16) {
        let problem = Problem::from(LeaseError::io("/leases".as_ref(), errno.into()));
        assert_eq!((problem.status, &*problem.error), (status, "no-leases"));
        assert!(problem.detail.contains("/leases"), "{problem:?}");
    }
}
