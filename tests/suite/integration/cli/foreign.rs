//! Files that are something else than the caller thinks: said by name, with what to do.

use std::fs;
use std::path::Path;

use crate::harness::cli::{answer, assert_answer};
use crate::harness::prelude::*;
use crate::harness::qcow2::Image;

/// A file of 64 KiB that has these bytes at this place.
fn file_with(path: &Path, at: usize, bytes: &[u8]) {
    let mut content = vec![0; 64 << 10];
    content[at..at + bytes.len()].copy_from_slice(bytes);
    fs::write(path, content).expect("a file");
}

const LFS: &[u8] = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";

#[apply(test)]
#[case::vmdk("vmdk", 0, b"KDMV\x01\0\0\0")]
#[case::vmdk_descriptor("vmdk", 0, b"# Disk DescriptorFile\nversion=1\n")]
#[case::vdi("vdi", 0x40, b"\x7f\x10\xda\xbe")]
#[case::vhdx("vhdx", 0, b"vhdxfile")]
#[case::vhd("vhd", 0, b"conectix")]
#[case::iso("iso", 0x8001, b"CD001")]
#[case::gzip("gzip", 0, b"\x1f\x8b\x08")]
#[case::xz("xz", 0, b"\xfd7zXZ\0")]
#[case::zstd("zstd", 0, b"\x28\xb5\x2f\xfd")]
#[case::bzip2("bzip2", 0, b"BZh9")]
#[case::zip("zip", 0, b"PK\x03\x04")]
#[case::tar("tar", 257, b"ustar")]
#[case::html("html", 0, b"\n<!DOCTYPE HTML><html>")]
#[case::html_without_type("html", 0, b"\xef\xbb\xbf<html lang=en>")]
#[case::lfs("lfs", 0, LFS)]
fn what_is_not_qcow2_is_named(
    scratch: Scratch,
    #[case] name: &str,
    #[case] at: usize,
    #[case] bytes: &[u8],
) {
    file_with(&scratch.join("base"), at, bytes);
    let refused = answer(&scratch, ["create", "base", "vm"]);
    assert_eq!(refused.code, Some(3), "{refused}");
    assert!(!refused.stderr.contains("raw image"), "nobody shall declare it raw: {refused}");
    assert_answer!(scratch, format!("foreign_{name}"), refused);

    let shown = answer(&scratch, ["inspect", "base"]);
    let reason = refused.stderr.split_once(": not qcow2").expect("a reason").1.trim_end();
    assert!(shown.stdout.contains(reason), "{shown}");
}

/// What is declared as raw is taken, but whoever does that by mistake is told.
#[apply(test)]
#[case::gzip(b"\x1f\x8b\x08", "a gzip file")]
#[case::qcow2(b"QFI\xfb", "a qcow2 image")]
fn declared_as_raw_it_is_taken_with_a_warning(
    scratch: Scratch,
    #[case] bytes: &[u8],
    #[case] what: &str,
) {
    file_with(&scratch.join("base"), 0, bytes);
    let made = answer(&scratch, ["create", "--raw", "base", "vm"]);
    assert_eq!(made.code, Some(0), "{made}");
    assert!(scratch.join("vm").exists());
    assert!(made.stderr.contains("warning: ") && made.stderr.contains(what), "{made}");
    let shown = answer(&scratch, ["inspect", "--raw", "base"]);
    assert!(shown.stdout.contains("\nwarning ") && shown.stdout.contains(what), "{shown}");

    file_with(&scratch.join("base"), 0, b"a boot sector");
    let made = answer(&scratch, ["create", "--raw", "base", "another"]);
    assert_eq!((made.code, made.stderr.as_str()), (Some(0), ""));
    assert!(!answer(&scratch, ["inspect", "--raw", "base"]).stdout.contains("warning"));
}

/// Half a download has its header, but not what the header leads to.
#[apply(test)]
fn a_truncated_image_is_told(scratch: Scratch) {
    let mut image = Image::with_data(1 << 20);
    image.0.truncate(5 << 16);
    image.write(&scratch.join("base"));
    let refused = answer(&scratch, ["create", "base", "vm"]);
    assert_eq!(refused.code, Some(3), "{refused}");
    assert_answer!(scratch, "foreign_truncated", refused);
}

/// Of a path that leads nowhere, the first part that does.
#[apply(test)]
fn the_part_of_a_path_that_is_missing_is_named(stage: Stage) {
    fs::create_dir(stage.join("there")).expect("a folder");
    fs::write(stage.join("file"), "").expect("a file");
    std::os::unix::fs::symlink("gone/away", stage.join("link")).expect("a link");
    let say = |base: &str, target: &str| answer(&stage, ["create", base, target]).stderr;
    let said = [
        say("there/not/here/base.qcow2", "vm"),
        say("there/base.qcow2", "vm"),
        say("file/base.qcow2", "vm"),
        say("link/base.qcow2", "vm"),
        say("link", "vm"),
        say("base.qcow2", "there/not/here/vm"),
        say("base.qcow2", "file/vm"),
        say("base.qcow2", "link/vm"),
    ];
    assert_answer!(stage, "foreign_missing_parts", said.concat());
}
