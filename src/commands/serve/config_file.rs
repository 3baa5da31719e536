//! The options in a file.

use std::path::Path;

use clap::{Arg, Args, Command};
use serde_path_to_error::Segment;

use super::options::Options;
use crate::commands::exit::Exit;
use crate::commands::failure::{self, Failure};

/// From which likeness on another key may be meant, of 0 to 1.
const ALIKE: f64 = 0.8;

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
        let cause = match error.path().iter().next() {
            Some(Segment::Map { key }) => unknown(key),
            _ => None,
        };
        let cause = cause.as_deref().unwrap_or(error.inner().message());
        bad(line_of(error.inner()), &key, cause)
    })
}

/// What is said of a key that no option has: which one may be meant.
fn unknown(key: &str) -> Option<String> {
    let command = Options::augment_args(Command::new("serve"));
    let keys: Vec<_> = command.get_arguments().filter_map(Arg::get_long).collect();
    if keys.contains(&key) {
        return None;
    }
    let likeness = |known: &&&str| strsim::jaro_winkler(known, key);
    let nearest = keys.iter().max_by(|one, other| likeness(one).total_cmp(&likeness(other)));
    let meant = nearest.filter(|known| likeness(known) > ALIKE);
    let meant = meant.map(|known| format!(", perhaps `{known}`")).unwrap_or_default();
    Some(format!("unknown key{meant}"))
}
