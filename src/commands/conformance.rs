//! `overlay-pool conformance`: takes the contract and its cases into another repository.

use std::io;
use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};

static DOCUMENTS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/tests/conformance");
static CASES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/fixtures/conformance");

/// Writes the contract, the porting guide, the shim protocol and the cases into a directory.
#[derive(Debug, clap::Args)]
pub(crate) struct ConformanceArgs {
    /// Where to write them; made where it is missing, and files of the same name are replaced
    directory: PathBuf,
}

/// Writes the files.
///
/// # Errors
///
/// Those of writing, with the path.
pub(crate) fn run(args: &ConformanceArgs) -> io::Result<()> {
    let cases = args.directory.join("cases");
    extract(&DOCUMENTS, &args.directory)?;
    extract(&CASES, &cases)
}

fn extract(files: &Dir<'_>, directory: &Path) -> io::Result<()> {
    let failed = |error: io::Error| {
        io::Error::new(error.kind(), format!("{}: {error}", directory.display()))
    };
    std::fs::create_dir_all(directory).map_err(failed)?;
    files.extract(directory).map_err(failed)
}
