//! What a saved state must fit.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::error::VmError;
use super::hashes::{Hashes, Mark};
use super::machine::{Beginning, Machine, Wiring};
use crate::hex::hex;
use crate::image::OverlayOptions;

/// To be raised when what is done to a machine before it is saved changes.
const VERSION: u32 = 2;

impl Machine {
    /// All that a state of this machine depends on: a state saved for another key is of no use.
    /// Blocks while it reads files that it doesn't know.
    pub(super) fn key(
        &self,
        version: &str,
        overlay: OverlayOptions,
        hashes: &Hashes,
    ) -> Result<Value, VmError> {
        let content = |what, path: &Path| {
            hashes.of(path).map_err(|source| VmError::File { what, path: path.to_owned(), source })
        };
        Ok(json!({
            "version": VERSION,
            "program": env!("CARGO_PKG_VERSION"),
            "qemu": { "version": version, "file": content("QEMU", &which(&self.qemu))? },
            "arguments": self.arguments(Wiring::default(), Beginning::Boot),
            "kernel": content("kernel", &self.kernel)?,
            "initramfs": content("initramfs", &self.initramfs)?,
            "base": content("base image", self.base.path())?,
            "overlay": overlay,
            "disk_size": self.base.virtual_size(),
            "host": host(),
        }))
    }

    /// What tells whether any of the machine's files has changed since.
    pub(super) fn marks(&self) -> Result<Vec<Mark>, VmError> {
        let qemu = which(&self.qemu);
        let files = [
            ("QEMU", &*qemu),
            ("kernel", &self.kernel),
            ("initramfs", &self.initramfs),
            ("base image", self.base.path()),
        ];
        let mark = |(what, path): (_, &Path)| {
            Mark::of(path).map_err(|source| VmError::File { what, path: path.to_owned(), source })
        };
        files.into_iter().map(mark).collect()
    }
}

/// The file of a program that is named by path or by name on `PATH`.
fn which(program: &Path) -> PathBuf {
    if program.components().count() > 1 {
        return program.to_owned();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|at| at.is_file());
    found.unwrap_or_else(|| program.to_owned())
}

/// The processor and the kernel, which decide what a guest's processor can do.
fn host() -> Value {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let uname = rustix::system::uname();
    json!({ "cpu": processor(&cpus), "kernel": uname.release().to_string_lossy() })
}

/// The first processor in `/proc/cpuinfo`, but for its speed of the moment.
fn processor(cpus: &str) -> String {
    let stays = |line: &&str| !line.starts_with("cpu MHz") && !line.starts_with("bogomips");
    let first = cpus.lines().take_while(|line| !line.is_empty()).filter(stays);
    hex(&Sha256::digest(first.collect::<Vec<_>>().join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each line of it decides what a guest's processor can do, but for those that change all the time.
    #[test]
    fn a_processor_is_another_by_what_it_can() {
        let text = |mhz: &str, bogomips: &str, flags: &str, second: &str| {
            format!(
                "processor\t: 0\ncpu MHz\t\t: {mhz}\nflags\t\t: {flags}\nbogomips\t: {bogomips}\n\n\
                 processor\t: 1\nflags\t\t: {second}\n"
            )
        };
        let one = processor(&text("2000", "4000", "avx", "avx"));
        assert_eq!(one, processor(&text("3000", "4000", "avx", "avx")));
        assert_eq!(one, processor(&text("2000", "5000", "avx", "avx")));
        assert_eq!(one, processor(&text("2000", "4000", "avx", "sse")));
        assert_ne!(one, processor(&text("2000", "4000", "sse", "avx")));
        assert_eq!(host(), host());
        assert!(!host()["kernel"].as_str().expect("a text").is_empty());
    }

    #[test]
    fn a_program_is_looked_for_by_its_name_alone() {
        let found = which(Path::new("sh"));
        assert!(found.is_absolute() && found.ends_with("sh") && found.is_file(), "{found:?}");
        // Below a directory of PATH each of these is a file.
        for path in ["/bin/sh", "../bin/sh", "there/is/none"] {
            assert_eq!(which(Path::new(path)), Path::new(path));
        }
        assert_eq!(which(Path::new("no-such-program")), Path::new("no-such-program"));
    }
}
