//! What can go wrong in a bench.

use std::io;
use std::path::{Path, PathBuf};

use overlay_pool::Error as PoolError;
use overlay_pool::creator::CreatorError;
use overlay_pool::image::BaseError;

use crate::commands::exit::Exit;
use crate::commands::failure::{self, Failure};

/// Why a bench ended without figures.
#[derive(Debug, thiserror::Error)]
pub(super) enum BenchError {
    /// A file of the bench can't be made, read or removed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The base image can't be used.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// The pool failed.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// A creator that was asked for isn't on this machine.
    #[error("creator {creator}: {source}")]
    CreatorUnavailable {
        /// The creator's name.
        creator: &'static str,
        /// Why not.
        source: CreatorError,
    },
    /// A QEMU program that the pool is compared with failed.
    #[error("{program}: {source}")]
    Tool {
        /// The program.
        program: &'static str,
        /// What it, or the system, said.
        source: io::Error,
    },
    /// The pool did not do what is measured, so that the figures would mean something else.
    #[error("creator {creator}: {message}")]
    Unmeasurable {
        /// The creator's name.
        creator: &'static str,
        /// What it did.
        message: String,
    },
    /// The server that is measured failed, or answered what it shouldn't.
    #[error("overlay-pool serve: {message}")]
    Server {
        /// What it answered, or how it ended.
        message: String,
    },
    /// An overlay is not what it should be.
    #[error("creator {creator} made a bad overlay, {}: {message}", path.display())]
    BadOverlay {
        /// The creator's name.
        creator: &'static str,
        /// Where the overlay was; it is removed by now.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A signal ended the bench.
    #[error("interrupted; everything it made is removed")]
    Interrupted,
}

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Self {
        let error = match error {
            BenchError::Base(error) => return error.into(),
            BenchError::Pool(error) => return error.into(),
            error => error,
        };
        let (exit, advice) = match &error {
            BenchError::Io { source, .. } => (Exit::Failed, failure::system(source)),
            BenchError::CreatorUnavailable { source, .. } => {
                (Exit::CreatorUnavailable, failure::creator(source))
            }
            BenchError::Tool { .. } => (Exit::Failed, "see overlay-pool doctor"),
            BenchError::Unmeasurable { .. } => {
                (Exit::Failed, "leave its folder and the base image alone")
            }
            BenchError::BadOverlay { .. } => (Exit::Failed, "please report it"),
            _ => (Exit::Failed, ""),
        };
        Self::new(exit, error, advice)
    }
}

impl BenchError {
    /// Says which path an I/O error belongs to.
    pub(super) fn at(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.as_ref().to_owned(), source }
    }
}
