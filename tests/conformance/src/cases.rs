//! The cases, and where they come from.

use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};

use crate::case::Case;

pub(crate) static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/cases");

/// A case and its name, which is that of its file without the ending.
#[derive(Clone, Debug)]
pub struct Named {
    /// The name.
    pub name: String,
    /// The case.
    pub case: Case,
}

/// A file that can't be read as a case.
#[derive(Debug, thiserror::Error)]
#[error("{name}.toml: {why}")]
pub struct Unreadable {
    /// The name that its case would have.
    pub name: String,
    /// Why it isn't one.
    pub why: String,
}

/// A folder that holds no cases.
#[derive(Debug, thiserror::Error)]
#[error("no cases in {}: {why}", folder.display())]
pub struct NoCases {
    folder: PathBuf,
    why: String,
}

/// The cases that this crate comes with, sorted by name.
///
/// # Panics
///
/// One of them can't be read; a test of this crate reads all.
#[must_use]
pub fn embedded() -> Vec<Named> {
    let files = EMBEDDED.files().filter(|file| is_case(file.path()));
    let read = |file: &include_dir::File<'_>| {
        let text = file.contents_utf8().expect("cases are text").to_owned();
        read(file.path(), Ok(text)).unwrap_or_else(|error| panic!("{error}"))
    };
    let mut cases: Vec<Named> = files.map(read).collect();
    cases.sort_by(|one, other| one.name.cmp(&other.name));
    cases
}

/// The cases of a folder, sorted by name.
///
/// # Errors
///
/// The folder can't be read, or holds no case.
pub fn of(folder: &Path) -> Result<Vec<Result<Named, Unreadable>>, NoCases> {
    some_of(folder, |_| true)
}

/// Those of them whose names are wanted; the others aren't read.
///
/// # Errors
///
/// The folder can't be read, or holds no case.
pub fn some_of(
    folder: &Path,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Result<Named, Unreadable>>, NoCases> {
    let none = |why: String| NoCases { folder: folder.to_owned(), why };
    let entries = std::fs::read_dir(folder).map_err(|error| none(error.to_string()))?;
    let mut files = Vec::new();
    for entry in entries {
        files.push(entry.map_err(|error| none(error.to_string()))?.path());
    }
    files.retain(|path| is_case(path));
    if files.is_empty() {
        return Err(none("no file's name ends in .toml".to_owned()));
    }
    files.retain(|path| is_wanted(&name_of(path)));
    files.sort();
    Ok(files.iter().map(|path| read(path, std::fs::read_to_string(path))).collect())
}

pub(crate) fn is_case(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "toml")
}

fn name_of(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn read(path: &Path, text: std::io::Result<String>) -> Result<Named, Unreadable> {
    let name = name_of(path);
    let case = text.map_err(|error| error.to_string());
    match case.and_then(|text| Case::read(text).map_err(|error| error.to_string())) {
        Ok(case) => Ok(Named { name, case }),
        Err(why) => Err(Unreadable { name, why }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::contract;

    #[test]
    fn all_cases_are_in_the_program_and_of_the_contract() {
        let known: BTreeSet<_> =
            contract::promises().into_iter().map(|promise| promise.id).collect();
        let cases = embedded();
        assert!(cases.len() > 90, "{} cases", cases.len());
        for Named { name, case } in cases {
            assert!(
                case.promises.iter().all(|id| known.contains(id)),
                "{name}: {:?}",
                case.promises
            );
        }
    }
}
