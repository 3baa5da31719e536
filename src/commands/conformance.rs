//! `overlay-pool conformance`: takes the contract and its cases into another repository.

use std::io;
use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};

use super::Answer;
use super::exit::Exit;
use super::failure::Failure;

static DOCUMENTS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/tests/conformance");
static CASES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/fixtures/conformance");

const EXAMPLES: &str = "\
Examples:
  overlay-pool conformance tests/conformance
      Writes the contract, the porting guide, the shim protocol and the cases";

/// Take the contract, the porting guide and the conformance cases into another repository.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Conformance {
    /// Where to write them. The directory is made if it is missing; files of the same name are
    /// replaced.
    directory: PathBuf,
}

impl Conformance {
    pub(super) fn run(&self) -> Result<Answer, Failure> {
        let written = extract(&DOCUMENTS, &self.directory)
            .and_then(|()| extract(&CASES, &self.directory.join("cases")));
        let failed = |error| Failure::new(Exit::Failed, error, "choose another directory");
        written.map(|()| Answer::default()).map_err(failed)
    }
}

fn extract(files: &Dir<'_>, directory: &Path) -> io::Result<()> {
    let failed = |error: io::Error| {
        io::Error::new(error.kind(), format!("{}: {error}", directory.display()))
    };
    std::fs::create_dir_all(directory).map_err(failed)?;
    files.extract(directory).map_err(failed)
}
