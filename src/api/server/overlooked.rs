//! What an administrator may have meant otherwise: directories of images without base images.

use std::path::{Path, PathBuf};

use crate::image::overlooked;
use crate::paths;

/// How many names are told.
const TOLD: usize = 3;

/// Of `count` base images to keep ready, and the directories that they were looked for in: what is
/// to be known, a sentence each.
pub(super) fn notes(count: usize, images: impl Iterator<Item = PathBuf>) -> Vec<String> {
    let mut notes = Vec::new();
    let mut images = images.peekable();
    // A server that runs code alone is told of none.
    if count == 0 && images.peek().is_some() {
        notes.push("there is no base image to keep overlays ready of".to_owned());
    }
    for directory in images {
        let names = overlooked(&directory);
        if names.is_empty() {
            continue;
        }
        let more = names.len().saturating_sub(TOLD);
        let told: Vec<_> = names.iter().take(TOLD).map(|name| shown(name.as_ref())).collect();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        notes.push(format!(
            "not kept ready, since their names don't fit *-base-*.qcow2: {}{more} in {}; rename \
             them, or name them with --base",
            told.join(", "),
            shown(&directory),
        ));
    }
    notes
}

/// On one line, whatever is in a name.
fn shown(path: &Path) -> String {
    paths::text(path, |valid| valid.escape_debug().to_string())
}

#[cfg(test)]
mod tests {
    use super::notes;

    /// One that runs VMs alone has no directory of images.
    #[test]
    fn a_server_that_was_told_of_no_images_misses_none() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(notes(0, std::iter::empty()), [""; 0]);
        let told = notes(0, std::iter::once(folder.path().to_owned()));
        assert_eq!(told, ["there is no base image to keep overlays ready of"]);
    }

    /// Three are told by name, and of more how many they are.
    #[test]
    fn few_are_named_and_more_are_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        let told = |name: &str| {
            std::fs::write(folder.path().join(name), "").expect("a file");
            let notes = notes(1, std::iter::once(folder.path().to_owned()));
            let [note] = <[String; 1]>::try_from(notes).expect("one sentence");
            let names = note.split_once("qcow2: ").and_then(|(_, rest)| rest.split_once(" in /"));
            names.expect("the names, and where they are").0.to_owned()
        };
        assert_eq!(["a", "b", "c"].map(told), ["a", "a, b", "a, b, c"]);
        assert_eq!(["d", "e"].map(told), ["a, b, c and 1 more", "a, b, c and 2 more"]);
    }
}
