//! QEMU's tools as oracles.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use overlay_pool::image::{BaseImage, Header, References, read_start};
use serde_json::Value;

use super::scratch::ON_DISK;

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

/// Whether `qemu-img info` accepts an image that we accept, with the same size and the same
/// backing file name; what differs where not.
pub(crate) fn agrees(image: &Path) -> Result<(), String> {
    let base = BaseImage::open(&image.into(), References::Allow).expect("an image good to us");
    let (start, _) = read_start(image).expect("it was opened before");
    let header = Header::parse(&start).expect("it was parsed before");
    // QEMU opens those too, which are no part of the header.
    if header.has_data_file() || header.extensions.bitmaps.is_some() {
        return Ok(());
    }
    let info = |format| Command::new("qemu-img").args(["info", format]).arg(image).output();
    let output = info("--output=json").expect("qemu-img runs");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let json: Value = serde_json::from_slice(&output.stdout).expect("qemu-img info prints JSON");
    if json["virtual-size"] != base.virtual_size() {
        return Err(format!("size {}, not {}", json["virtual-size"], base.virtual_size()));
    }
    let name = header.backing_file.unwrap_or_default();
    if json["backing-filename"].as_str().unwrap_or_default() == name.as_os_str() {
        return Ok(());
    }
    // JSON carries no name that is not text; the other output has its bytes as they are.
    let text = info("--output=human").expect("qemu-img runs").stdout;
    let line = [b"\nbacking file: ", name.as_os_str().as_bytes()].concat();
    let same = std::str::from_utf8(name.as_os_str().as_bytes()).is_err()
        && text.windows(line.len()).any(|window| window == line);
    if same { Ok(()) } else { Err(format!("{}, not {}", json["backing-filename"], name.display())) }
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
    copy_of(&format!("base-{size}.qcow2"), path, |path| {
        run("qemu-img", ["create", "-q", "-f", "qcow2", &path.to_string_lossy(), size]);
        io(path, &["write -q -P 0x5a 0 64k"]);
    });
}

/// Copies an image that is made once for all tests: hundreds of them want the same one.
#[track_caller]
pub(crate) fn copy_of(name: &str, path: &Path, make: impl FnOnce(&Path)) {
    let folder = Path::new(ON_DISK).join("images");
    let kept = folder.join(name);
    if !kept.exists() {
        std::fs::create_dir_all(&folder).expect("the folder of kept images");
        let draft = tempfile::Builder::new().tempfile_in(&folder).expect("a draft");
        make(draft.path());
        // Many may make it at once, and each the same.
        draft.persist(&kept).expect("the image is kept");
    }
    std::fs::write(path, std::fs::read(&kept).expect("it was made")).expect("it is copied");
}
