//! Programs in JavaScript that `fixtures/provision.sh` installs where npm is.

use std::path::PathBuf;
use std::process::Command;

use super::python;

/// Where the packages are.
pub(crate) fn modules() -> PathBuf {
    python::build_directory().join("node/node_modules")
}

/// A program of theirs.
pub(crate) fn program(name: &str) -> PathBuf {
    modules().join(".bin").join(name)
}

/// The version that a program tells, or why it can't.
pub(crate) fn probe(name: &str) -> Result<String, String> {
    let program = program(name);
    let output = Command::new(&program).arg("--version").output().map_err(|error| {
        let path = program.display();
        format!("{path}: {error}; install npm, then run fixtures/provision.sh")
    })?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() {
        Ok(format!("{name} {version}"))
    } else {
        Err(format!("{name} --version: {}", output.status))
    }
}
