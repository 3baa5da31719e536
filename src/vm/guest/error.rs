//! What can be wrong with a guest.

use super::frame::FrameError;

/// Why a guest could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuestError {
    /// The guest doesn't answer in time.
    #[error("the guest doesn't answer: {0}")]
    Silent(&'static str),
    /// QEMU has closed the connection, since it ended.
    #[error("the connection to the guest ended")]
    Closed,
    /// The guest said what no supervisor of ours says.
    #[error("the guest isn't to be trusted: {0}")]
    Lie(#[from] FrameError),
    /// The guest said something at the wrong time, or more of it than it may.
    #[error("the guest isn't to be trusted: {0}")]
    Unasked(&'static str),
    /// The guest can't do it.
    #[error("the guest refused: {0}")]
    Refused(String),
    /// What it should be asked doesn't fit.
    #[error("more than {limit} bytes of {what} can't be passed on")]
    TooLong {
        /// What it is.
        what: &'static str,
        /// How many bytes it may have.
        limit: usize,
    },
}
