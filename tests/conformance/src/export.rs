//! Takes the contract and its cases into another repository.

use std::io;
use std::path::Path;

use crate::cases::{EMBEDDED, is_case};
use crate::contract;

/// The documents, by the names of their files.
const DOCUMENTS: [(&str, &str); 3] = [
    ("CONTRACT.md", contract::TEXT),
    ("PORTING.md", include_str!("../PORTING.md")),
    ("SHIM.md", include_str!("../SHIM.md")),
];

/// Writes them all, and says how many cases there are. Files of the same name are replaced.
///
/// # Errors
///
/// The directory can't be made or written to; the message names it.
pub(crate) fn export(directory: &Path) -> io::Result<usize> {
    let cases = directory.join("cases");
    let failed = |path: &Path, error: io::Error| {
        io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    };
    std::fs::create_dir_all(&cases).map_err(|error| failed(&cases, error))?;
    for (name, text) in DOCUMENTS {
        let path = directory.join(name);
        std::fs::write(&path, text).map_err(|error| failed(&path, error))?;
    }
    EMBEDDED.extract(&cases).map_err(|error| failed(&cases, error))?;
    Ok(EMBEDDED.files().filter(|file| is_case(file.path())).count())
}
