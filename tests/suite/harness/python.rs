//! Programs in Python that `fixtures/provision.sh` installs.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where cargo builds, and `fixtures/provision.sh` installs.
pub(crate) fn build_directory() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the build directory")
}

/// A program of the environment in the build directory, or else that on `PATH`.
pub(crate) fn program(name: &str) -> PathBuf {
    let installed = build_directory().join("python/bin").join(name);
    if installed.exists() { installed } else { name.into() }
}

/// What a program of Python's says with these arguments, or why it can't.
pub(crate) fn probe(name: &str, args: &[&str]) -> Result<String, String> {
    const ADVICE: &str = "install it with fixtures/provision.sh";
    let output = Command::new(program(name))
        .args(args)
        .output()
        .map_err(|error| format!("{name}: {error}; {ADVICE}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let said = text(&output.stderr);
    Err(format!("{}; {ADVICE}", said.lines().last().unwrap_or("it failed")))
}
