//! The seeds of the fuzz target `header`, shown to QEMU too; `OVERLAY_POOL_CORPUS` names another
//! folder of such files, like the one that fuzzing fills.

use std::fs::File;
use std::path::{Path, PathBuf};

use overlay_pool::image::{BaseImage, OverlayOptions, References};

use crate::harness::prelude::*;
use crate::harness::qemu;

/// The file whose start a seed is; its other bytes are zero. As the fuzz target has it.
const FILE_LEN: u64 = 64 << 20;

fn files() -> Vec<PathBuf> {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds/header");
    let folder = std::env::var_os("OVERLAY_POOL_CORPUS").map_or(seeds, PathBuf::from);
    let entries = folder.read_dir().unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

/// Whatever header we accept, `qemu-img info` accepts too, with the same size and backing name.
#[apply(test)]
#[needs(QemuImg)]
fn what_we_accept_qemu_accepts(scratch: Scratch) {
    let path = scratch.join("image.qcow2");
    let (mut accepted, mut differ) = (0, Vec::new());
    let files = files();
    for file in &files {
        std::fs::copy(file, &path).expect("a copy");
        File::options().write(true).open(&path).expect("the copy").set_len(FILE_LEN).expect("long");
        let Ok(base) = BaseImage::open(&(&path).into(), References::Allow) else { continue };
        // Whether it is too large for an overlay or not.
        let _ = base.overlay(OverlayOptions::default());
        match qemu::agrees(&path) {
            Ok(()) => accepted += 1,
            Err(difference) => differ.push(format!("{}: {difference}", file.display())),
        }
    }
    println!("{accepted} of {} are good to us and to QEMU", files.len());
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.join("\n"));
    assert!(accepted > 10, "only {accepted} of {} were good", files.len());
}
