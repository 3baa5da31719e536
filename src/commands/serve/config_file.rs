//! The options in a file.

use std::path::Path;

use super::options::Options;
use crate::commands::exit::Exit;
use crate::commands::failure::{self, Failure};

/// Reads a file of options. An error names the file, the line and the key.
pub(super) fn read(path: &Path) -> Result<Options, Failure> {
    let bad = |line: Option<usize>, key: &str, cause: &str| {
        let line = line.map(|line| format!(" line {line}:")).unwrap_or_default();
        let cause = format!("{}:{line}{key} {cause}", path.display());
        Failure::new(Exit::Usage, cause, "see overlay-pool serve --help")
    };
    let text = std::fs::read_to_string(path).map_err(|error| {
        let cause = format!("{}: {error}", path.display());
        Failure::new(Exit::Failed, cause, failure::system(&error))
    })?;
    let line_of = |error: &toml::de::Error| {
        let start = error.span()?.start;
        Some(1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count())
    };
    let parsed = toml::Deserializer::parse(&text).map_err(|error| {
        let there = error.span().and_then(|span| text.get(span)?.lines().next());
        let there = there.map(|there| format!(" {there}:")).unwrap_or_default();
        bad(line_of(&error), &there, error.message())
    })?;
    serde_path_to_error::deserialize(parsed).map_err(|error| {
        let key = match error.path().to_string() {
            path if path == "." => String::new(),
            path => format!(" {path}:"),
        };
        bad(line_of(error.inner()), &key, error.inner().message())
    })
}
