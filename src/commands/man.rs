//! `man`: the manual, for packages.

use std::path::PathBuf;

use super::exit::Exit;
use super::failure::{self, Failure};
use super::{Answer, help, text};

const EXAMPLES: &str = "\
Examples:
  overlay-pool man ~/.local/share/man/man1";

/// Write the manual pages, one for each subcommand, into a directory.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Man {
    /// Where to; it is made if it isn't there.
    directory: PathBuf,
}

impl Man {
    pub(super) fn run(self) -> Result<Answer, Failure> {
        let directory = text::escaped_path(&self.directory);
        let written = std::fs::create_dir_all(&self.directory)
            .and_then(|()| clap_mangen::generate_to(help::command(), &self.directory));
        written.map_err(|error| {
            let advice = failure::system(&error);
            Failure::new(Exit::Failed, format!("{directory}: can't write: {error}"), advice)
        })?;
        Ok(Answer::from(format!(
            "{directory}: read with man --local-file {directory}/overlay-pool.1\n"
        )))
    }
}
