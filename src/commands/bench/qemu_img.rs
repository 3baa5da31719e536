//! `qemu-img`, as somebody without a pool runs it.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use overlay_pool::image::Overlay;

use super::error::BenchError;

const PROGRAM: &str = "qemu-img";

/// A `qemu-img` that is on this machine.
#[derive(Clone, Debug)]
pub(super) struct QemuImg(pub(super) PathBuf);

impl QemuImg {
    /// Makes an overlay at `target`, the way it is done without a pool.
    pub(super) fn create(&self, overlay: &Overlay, target: &Path) -> Result<(), BenchError> {
        let options = overlay.profile().qemu_img_options();
        let format = overlay.format().as_str();
        self.run(
            ["create", "-q", "-f", "qcow2", "-F", format, "-o", &options, "-b"],
            &[overlay.backing(), target],
        )
    }

    /// Looks for faults in an overlay.
    pub(super) fn check(&self, overlay: &Path) -> Result<(), BenchError> {
        self.run(["check", "-q", "-f", "qcow2"], &[overlay])
    }

    /// Runs it to its end with options and then paths.
    pub(super) fn run<const N: usize>(
        &self,
        options: [&str; N],
        paths: &[&Path],
    ) -> Result<(), BenchError> {
        let paths = paths.iter().map(|path| path.as_os_str());
        let mut command = Command::new(&self.0);
        command.args(options.iter().map(OsStr::new).chain(paths)).stdin(Stdio::null());
        let failed = |source| BenchError::Tool { program: PROGRAM, source };
        let output = command.output().map_err(failed)?;
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        let said = format!("{}: {}", output.status, String::from_utf8_lossy(&said).trim());
        Err(failed(io::Error::other(said)))
    }
}
