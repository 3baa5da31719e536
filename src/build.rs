//! Cargo's build script: which commit a released program is of, for its `--version`.

use std::path::Path;
use std::process::Command;

const VARIABLE: &str = "OVERLAY_POOL_COMMIT";

fn main() {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    // A commit builds nothing anew that is only tested, and what asks for none doesn't run git.
    let of_use = is("CARGO_FEATURE_CLI", "1") && is("PROFILE", "release");
    for file in ["src", "Cargo.lock", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={file}");
    }
    if of_use
        && std::env::var_os(VARIABLE).is_none()
        && let Some(commit) = of_package().or_else(of_checkout)
    {
        println!("cargo::rustc-env={VARIABLE}={commit}");
    }
}

fn is(variable: &str, value: &str) -> bool {
    std::env::var(variable).is_ok_and(|its| its == value)
}

/// What `cargo package` notes.
fn of_package() -> Option<String> {
    let text = std::fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let (_, text) = text.split_once("\"sha1\"")?;
    let commit = text.split('"').nth(1)?;
    let dirty = if text.contains("\"dirty\": true") { "-dirty" } else { "" };
    Some(format!("{commit}{dirty}"))
}

/// What git says of a checkout, which isn't just a folder in another repository.
fn of_checkout() -> Option<String> {
    if !Path::new(".git").exists() {
        return None;
    }
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    println!("cargo::rerun-if-changed={log}");
    git(&["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
