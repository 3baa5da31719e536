//! What can go wrong in a pool.

use std::io;
use std::path::PathBuf;

use crate::creator::CreatorError;
use crate::image::BaseError;

/// Why a call on a pool failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `acquire` before `start` (rule L1).
    #[error("the pool must be started before overlays can be acquired; call start first")]
    NotStarted,
    /// `start` on a running pool (rule L4).
    #[error("the pool is already started; stop it first")]
    AlreadyStarted,
    /// Something is at the target, if only a dangling symbolic link (rule A1).
    #[error("target {} already exists; choose another, or remove it", target.display())]
    AlreadyExists {
        /// The target.
        target: PathBuf,
    },
    /// The base image is missing or can't be used.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// The creator can't be used on this machine (rule L7).
    #[error("creator {creator}: {source}")]
    CreatorUnavailable {
        /// The creator's name.
        creator: &'static str,
        /// Why not.
        source: CreatorError,
    },
    /// The target can't be made: its directory is missing, read-only or full.
    #[error("target {}: can't make an overlay of {}: {source}", target.display(), base.display())]
    Target {
        /// The base image.
        base: PathBuf,
        /// The target.
        target: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The creator failed (rule A7).
    #[error("target {}: can't make an overlay of {}: {source}", target.display(), base.display())]
    Create {
        /// The base image.
        base: PathBuf,
        /// The target.
        target: PathBuf,
        /// What the creator said.
        source: CreatorError,
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

impl From<(PathBuf, io::Error)> for Error {
    fn from((path, source): (PathBuf, io::Error)) -> Self {
        Self::Path { path, source }
    }
}

impl Error {
    /// The contract's name of the error, the same for every port.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::NotStarted => "not-started",
            Self::AlreadyStarted => "already-started",
            Self::AlreadyExists { .. } => "already-exists",
            Self::Base(_) => "bad-base",
            Self::CreatorUnavailable { .. } => "creator-unavailable",
            Self::Target { .. } => "bad-target",
            Self::Create { .. } => "create-failed",
            Self::Path { .. } => "bad-path",
        }
    }
}
