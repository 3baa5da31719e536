//! `inspect`: what was decoded, and the verdict.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use crate::harness::cli::{Answer, answer, assert_answer};
use crate::harness::prelude::*;
use crate::harness::qcow2::{CLUSTER, Image, field};
use crate::harness::qemu;

const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

fn inspect(scratch: &Path, image: &Image, args: &[&str]) -> Answer {
    image.write(&scratch.join("image"));
    answer(scratch, ["inspect", "image"].iter().chain(args))
}

fn incompatible(bits: u64) -> Image {
    changed(|image| image.u64(field::INCOMPATIBLE_FEATURES, bits))
}

fn changed(change: impl Fn(&mut Image) -> &mut Image) -> Image {
    let mut image = Image::new(1 << 20);
    change(&mut image);
    image
}

#[apply(test)]
#[case::good("good", Image::new(1 << 20))]
#[case::version_2("version_2", changed(|image| image.u32(field::VERSION, 2)))]
#[case::extended_l2("extended_l2", incompatible(EXTENDED_L2))]
#[case::zstd("zstd", {
    let mut image = incompatible(COMPRESSION_TYPE);
    image.bytes(field::COMPRESSION_TYPE, &[1]);
    image
})]
#[case::all_features("all_features", changed(|image| {
    image.u64(field::INCOMPATIBLE_FEATURES + 8, 0b101).u64(field::INCOMPATIBLE_FEATURES + 16, 0b111)
}))]
#[case::snapshots("snapshots", changed(|image| {
    image.u32(field::NB_SNAPSHOTS, 2).u64(field::SNAPSHOTS_OFFSET, CLUSTER as u64)
}))]
#[case::dirty("dirty", incompatible(DIRTY))]
#[case::corrupt("corrupt", incompatible(CORRUPT))]
#[case::unknown_features("unknown_features", incompatible(1 << 63 | 1 << 5))]
#[case::encrypted("encrypted", changed(|image| image.u32(field::CRYPT_METHOD, 2)))]
#[case::version_4("version_4", changed(|image| image.u32(field::VERSION, 4)))]
#[case::header_length("header_length", changed(|image| image.u32(field::HEADER_LENGTH, 64)))]
#[case::l1_outside("l1_outside", changed(|image| {
    image.u64(field::L1_TABLE_OFFSET, 1 << 40)
}))]
#[case::too_large("too_large", changed(|image| image.u64(field::SIZE, u64::MAX)))]
#[case::truncated("truncated", Image(b"QFI\xfb\0\0\0\x03".to_vec()))]
#[case::not_qcow2("not_qcow2", Image(vec![0; 512]))]
#[case::empty("empty", Image(Vec::new()))]
#[case::backing_file("backing_file", changed(|image| image.backing(b"base.qcow2")))]
#[case::data_file("data_file", {
    let mut image = incompatible(DATA_FILE);
    image.u32(field::EXTENSIONS, 0x4441_5441).u32(field::EXTENSIONS + 4, 8);
    image.bytes(field::EXTENSIONS + 8, b"data.raw");
    image
})]
fn image_is_shown_as_far_as_decoded(scratch: Scratch, #[case] name: &str, #[case] image: Image) {
    let shown = inspect(&scratch, &image, &[]);
    assert_eq!((shown.code, shown.stderr.as_str()), (Some(0), ""), "a verdict is no failure");
    assert_answer!(scratch, format!("inspect_{name}"), shown);

    // The two forms say the same.
    let json = inspect(&scratch, &image, &["--json"]);
    let json: Value = serde_json::from_str(&json.stdout).expect("JSON");
    let good = shown.stdout.contains("\nas a base     good\n");
    assert_eq!(json["refused"].is_null(), good, "{json}");
}

#[apply(test)]
fn raw_image_is_what_the_caller_declares(scratch: Scratch) {
    let raw = Image(vec![0; 1000]);
    assert_answer!(scratch, "inspect_raw", inspect(&scratch, &raw, &["--raw"]));
    assert_answer!(scratch, "inspect_raw_json", inspect(&scratch, &raw, &["--raw", "--json"]));
}

#[apply(test)]
fn overlay_is_shown_as_it_was_made(scratch: Scratch) {
    Image::new(1 << 20).write(&scratch.join("base.qcow2"));
    for (profile, target) in [("qemu", "qemu.qcow2"), ("portable", "portable.qcow2")] {
        let create = ["create", "--profile", profile, "--size", "2G", "base.qcow2", target];
        assert_eq!(answer(&scratch, create).code, Some(0));
        let shown = answer(&scratch, ["inspect", target]);
        assert_answer!(scratch, format!("inspect_overlay_{profile}"), shown);
    }
    let json = answer(&scratch, ["inspect", "--json", "qemu.qcow2"]);
    assert_answer!(scratch, "inspect_overlay_json", json);
}

#[apply(test)]
fn hostile_names_reach_no_terminal(scratch: Scratch) {
    let name = "/\u{1b}[31m\u{9b}2J\n\r\u{7f}\u{202e}\\";
    let image = changed(|image| image.backing(name.as_bytes()));
    let text = inspect(&scratch, &image, &[]);
    let json = inspect(&scratch, &image, &["--json"]);
    for shown in [&text, &json] {
        let hostile = |char: char| char != '\n' && (char.is_control() || char == '\u{202e}');
        assert!(!shown.stdout.contains(hostile), "{shown:?}");
    }
    let value: Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(value["backing_file"], name);
    assert_answer!(scratch, "inspect_hostile_name", text);
}

#[apply(test)]
fn name_that_is_not_utf8_is_kept(scratch: Scratch) {
    let image = changed(|image| image.backing(b"/a\xff\xfe"));
    let text = inspect(&scratch, &image, &[]);
    assert!(text.stdout.contains("backing file  /a\\xff\\xfe (format not recorded)"), "{text}");
    let json = inspect(&scratch, &image, &["--json"]);
    let value: Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(value["backing_file"], serde_json::json!([0x2f, 0x61, 0xff, 0xfe]));
}

#[apply(test)]
#[case::missing("missing", "nowhere")]
#[case::directory("directory", ".")]
#[case::device("device", "/dev/null")]
fn what_is_no_file_is_a_failure(scratch: Scratch, #[case] name: &str, #[case] image: &str) {
    let failed = answer(&scratch, ["inspect", image]);
    assert_eq!(failed.code, Some(3));
    assert_answer!(scratch, format!("inspect_{name}"), failed);
}

#[apply(test)]
#[needs(QemuImg)]
#[case("cluster_size=64k")]
#[case("cluster_size=2M,lazy_refcounts=on")]
#[case("compression_type=zstd")]
#[case("extended_l2=on,cluster_size=32k")]
#[case("compat=0.10")]
fn qemu_agrees_on_images_that_it_made(scratch: Scratch, #[case] options: &str) {
    let path = scratch.join("image");
    let create = ["create", "-q", "-f", "qcow2", "-o", options];
    qemu::run("qemu-img", create.into_iter().chain([&*path.to_string_lossy(), "10M"]));
    let theirs = qemu::info(&path);
    let ours = answer(&scratch, ["inspect", "--json", "image"]);
    let ours: Value = serde_json::from_str(&ours.stdout).expect("JSON");
    assert_eq!(ours["refused"], Value::Null);
    assert_eq!(ours["format"], theirs["format"]);
    assert_eq!(ours["virtual_size"], theirs["virtual-size"]);
    assert_eq!(ours["disk_size"], theirs["actual-size"]);
    assert_eq!(ours["cluster_size"], theirs["cluster-size"]);
    let data = &theirs["format-specific"]["data"];
    assert_eq!(ours["compression"], data["compression-type"]);
    let compat = if ours["version"] == 2 { "0.10" } else { "1.1" };
    assert_eq!(compat, data["compat"]);
    for (feature, name) in
        [("extended-l2", "extended L2 entries"), ("lazy-refcounts", "lazy refcounts")]
    {
        let features = ours["features"].as_array().expect("a list");
        let has = features.iter().any(|feature| feature == name);
        assert_eq!(has, data[feature].as_bool().unwrap_or_default(), "{feature}");
    }
}

/// An overlay says nothing of what its base image was when it was made, but both have their times.
#[apply(test)]
fn a10_a_base_that_is_younger_than_its_overlay_is_told(stage: Stage) {
    assert_eq!(answer(&stage, ["create", "base.qcow2", "vm"]).code, Some(0));
    let warning = || {
        let shown = answer(&stage, ["inspect", "vm"]);
        let found = shown.stdout.lines().find_map(|line| line.strip_prefix("warning"));
        found.map(|text| text.trim().to_owned()).unwrap_or_default()
    };
    assert_eq!(warning(), "");
    // The clock of files moves in steps.
    let until = |what: &str, change: &dyn Fn()| {
        let mut said = warning();
        for _ in 0..1000 {
            if said.contains(what) {
                return;
            }
            change();
            said = warning();
        }
        panic!("{said} is not {what}");
    };
    let mode =
        |mode| fs::set_permissions(&stage.base, Permissions::from_mode(mode)).expect("a mode");
    until("may have changed", &|| mode(0o600));
    until("is younger than this overlay", &|| drop(stage.another("base.qcow2", 1)));

    let json = answer(&stage, ["inspect", "--json", "vm"]);
    let json: Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(json["warnings"][0], warning());
}
