//! The units, and what they let a service ask of the kernel.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::faults::strace;

/// Where the units are.
pub(crate) fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/systemd")
}

/// The settings of a unit's files, the one after the other.
#[track_caller]
fn settings_of(files: &[&str]) -> Vec<(String, String)> {
    let read = |name| std::fs::read_to_string(units().join(name)).expect("a unit");
    let text = files.iter().map(read).collect::<String>();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let settings = lines.filter_map(|line| line.split_once('='));
    settings.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The system calls that a unit of these files allows.
#[track_caller]
fn allowed_by(files: &[&str]) -> BTreeSet<String> {
    let mut allowed = BTreeSet::new();
    for (name, value) in settings_of(files) {
        match (name.as_str(), value.strip_prefix('~')) {
            ("SystemCallFilter", Some(words)) => allowed = &allowed - &calls_of(words),
            ("SystemCallFilter", None) => allowed.extend(calls_of(&value)),
            // As `man systemd.exec` has it.
            ("RestrictSUIDSGID", _) if value == "yes" => _ = allowed.remove("openat2"),
            _ => {}
        }
    }
    allowed
}

/// A server's command, to be given more arguments, of whose system calls there is a summary in the end.
pub(crate) fn traced_server(scratch: &Path, summary: &Path) -> Command {
    let mut command = strace::around(summary);
    command.arg("--summary-only").arg(env!("CARGO_BIN_EXE_overlay-pool")).arg("serve");
    command.env("OVERLAY_POOL_DIR", scratch.join("pool"));
    command
}

/// Those of the calls that a unit of these files forbids.
#[track_caller]
pub(crate) fn forbidden_by(files: &[&str], calls: &BTreeSet<String>) -> Vec<String> {
    let allowed = allowed_by(files);
    assert!(allowed.contains("read") && !allowed.contains("mount"), "{allowed:?}");
    calls.difference(&allowed).cloned().collect()
}

/// The system calls of a filter's words, groups within groups too.
fn calls_of(words: &str) -> BTreeSet<String> {
    let mut calls = BTreeSet::new();
    for word in words.split_whitespace() {
        if !word.starts_with('@') {
            calls.insert(word.to_owned());
            continue;
        }
        let mut command = Command::new("systemd-analyze");
        let said = command.args(["syscall-filter", word]).output().expect("systemd-analyze runs");
        let said = String::from_utf8(said.stdout).expect("text");
        let words = said.lines().skip(1).map(str::trim).filter(|word| !word.starts_with('#'));
        words.for_each(|word| calls.extend(calls_of(word)));
    }
    calls
}
