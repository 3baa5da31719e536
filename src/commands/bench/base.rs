//! The base image that is measured on.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use overlay_pool::image::{BaseRef, Format};

use super::error::BenchError;
use super::qemu_img::QemuImg;

/// The guest's disk in bytes, of which so many hold data.
const VIRTUAL_SIZE: u64 = 4 << 30;
const DATA: u64 = 32 << 20;

/// Makes a base image with data in it: qcow2 with `qemu-img`, and raw without.
pub(super) fn make(dir: &Path, qemu_img: Option<&QemuImg>) -> Result<BaseRef, BenchError> {
    let raw = dir.join("base.img");
    write_raw(&raw)?;
    let Some(qemu_img) = qemu_img else { return Ok(BaseRef::raw(raw)) };
    let qcow2 = dir.join("base.qcow2");
    qemu_img.run(["convert", "-f", Format::Raw.as_str(), "-O", "qcow2"], &[&raw, &qcow2])?;
    std::fs::remove_file(&raw).map_err(BenchError::at(&raw))?;
    Ok(BaseRef::qcow2(qcow2))
}

fn write_raw(path: &Path) -> Result<(), BenchError> {
    let write = || {
        let mut file = File::create_new(path)?;
        // Not zeros, which a conversion leaves out.
        io::copy(&mut File::open("/dev/urandom")?.take(DATA), &mut file)?;
        file.set_len(VIRTUAL_SIZE)
    };
    write().map_err(BenchError::at(path))
}
