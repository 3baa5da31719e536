//! `export`: takes everything along that a port is judged by.

use std::path::PathBuf;

use super::exit::{Exit, Stop};

/// Write the contract, the porting guide, the shim protocol and the cases into a directory.
#[derive(Debug, clap::Args)]
pub(super) struct Export {
    /// Made where it is missing; files of the same name are replaced.
    directory: PathBuf,
}

impl Export {
    pub(super) fn run(&self) -> Result<Exit, Stop> {
        let failed = |error| Stop::not_judged(format!("{error}; choose another directory"));
        crate::export::export(&self.directory).map(|()| Exit::Passed).map_err(failed)
    }
}
