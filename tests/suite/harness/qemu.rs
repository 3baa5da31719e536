//! QEMU's tools as oracles.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Runs a tool to its end; panics with what it said where it failed.
#[track_caller]
pub(crate) fn run(program: &str, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> String {
    let mut command = Command::new(program);
    command.args(args);
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    stdout.into_owned()
}

/// `qemu-img info`, without its look at the backing file.
#[track_caller]
pub(crate) fn info(image: &Path) -> Value {
    let text = run("qemu-img", ["info".as_ref(), "--output=json".as_ref(), image.as_os_str()]);
    serde_json::from_str(&text).expect("qemu-img info prints JSON")
}

/// `qemu-img check` finds nothing.
#[track_caller]
pub(crate) fn check(image: &Path) {
    run("qemu-img", ["check".as_ref(), "-q".as_ref(), image.as_os_str()]);
}

/// The guest's view of two disks is the same.
#[track_caller]
pub(crate) fn compare(one: &Path, other: &Path) {
    run("qemu-img", ["compare".as_ref(), "-q".as_ref(), one.as_os_str(), other.as_os_str()]);
}

/// Runs `qemu-io` commands on an image.
#[track_caller]
pub(crate) fn io(image: &Path, commands: &[&str]) -> String {
    let mut args: Vec<&OsStr> = Vec::new();
    for command in commands {
        args.extend([OsStr::new("-c"), OsStr::new(command)]);
    }
    args.push(image.as_os_str());
    run("qemu-io", args)
}

/// Makes a qcow2 base image of `size` (as `qemu-img` takes it) with a pattern at its start.
#[track_caller]
pub(crate) fn base_image(path: &Path, size: &str) {
    run("qemu-img", ["create", "-q", "-f", "qcow2", &path.to_string_lossy(), size]);
    io(path, &["write -q -P 0x5a 0 64k"]);
}
