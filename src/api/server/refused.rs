//! Acquires that are refused, or fail before they come to the pool.

use std::path::Path;

use super::access::{AccessError, TARGET};
use super::caller::Caller;
use super::state::All;
use crate::api::wire::Problem;
use crate::error::Error;
use crate::image::BaseError;

/// Nothing is handed over to a client that hung up, perhaps before its request was read.
pub(super) fn expect_listening(caller: &Caller) -> Result<(), Problem> {
    if caller.channel.is_hung_up() {
        return Err(Problem::bad_request("the client has hung up"));
    }
    Ok(())
}

/// That a base image is where it was after an overlay of it has got its name: who removes images
/// looks for overlays that need them, and may have looked before.
pub(super) fn expect_there(base: &Path) -> Result<(), BaseError> {
    let failed = |source| BaseError::Io { path: base.to_owned(), source };
    base.symlink_metadata().map(drop).map_err(failed)
}

/// A path that can't be resolved fails as in the pool, and counts; to refuse one that isn't allowed
/// is up to the server alone.
pub(super) fn refused(shared: &All, base: &Path, error: AccessError) -> Problem {
    let error = match error {
        AccessError::Io { what: TARGET, path, source } => {
            Error::Target { base: base.to_owned(), target: path, source }
        }
        AccessError::Io { path, source, .. } => BaseError::Io { path, source }.into(),
        AccessError::Base(error) => error.into(),
        denied => return denied.into(),
    };
    failed(shared, error)
}

/// An acquire that didn't come as far as the pool.
pub(super) fn failed(shared: &All, error: Error) -> Problem {
    match error {
        error if shared.pool.is_started() => {
            shared.traffic.acquire_failures.inc();
            error.into()
        }
        in_the_way @ Error::AlreadyExists { .. } => in_the_way.into(),
        // Which comes before all that is wrong with a path (rule L1).
        _ => Error::NotStarted.into(),
    }
}
