//! `export`: takes everything along that a port is judged by.

use std::io::Write as _;
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
        let cases = crate::export::export(&self.directory).map_err(failed)?;
        let folder = self.directory.display();
        // Whoever closed the pipe has what was written all the same.
        let _ = writeln!(
            std::io::stdout(),
            "wrote the contract, the shim's protocol, the porting guide and {cases} cases to {folder}; \
             begin with {}",
            self.directory.join("PORTING.md").display()
        );
        Ok(Exit::Passed)
    }
}
