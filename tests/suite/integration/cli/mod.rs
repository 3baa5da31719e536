//! The command line, as its users meet it.

mod acquire;
mod conventions;
mod create;
mod create_failures;
mod doctor;
mod foreign;
mod gc;
mod general;
mod images;
mod inspect;
mod serve;
mod stats;

use std::path::Path;

/// The names in a directory, sorted.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into())
        .collect();
    names.sort();
    names
}
