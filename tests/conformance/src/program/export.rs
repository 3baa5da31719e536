//! `export`: takes everything along that a port is judged by.

use std::path::PathBuf;

use super::exit::{Exit, Stop};
use super::tell;

/// Write the contract, the porting guide, the shim protocol and the cases into a directory.
#[derive(Debug, clap::Args)]
pub(super) struct Export {
    /// Made where it is missing; files of the same name are replaced.
    directory: PathBuf,
}

impl Export {
    pub(super) fn run(&self) -> Result<Exit, Stop> {
        let failed = |error| Stop::not_judged(format!("{error}; choose another directory"));
        let cases = crate::export::export(&self.directory).map_err(failed)?;
        let folder = self.directory.display();
        tell::line(format_args!(
            "wrote the contract, the shim's protocol, the porting guide and {cases} cases to {folder}; \
             begin with {}",
            self.directory.join("PORTING.md").display()
        ));
        Ok(Exit::Passed)
    }
}
