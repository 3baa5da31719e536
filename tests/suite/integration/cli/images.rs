//! `images`: whether the guest images are what was built.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::cli::{answer, overlay_pool, run};
use crate::harness::prelude::*;
use crate::harness::requirements::SOMEBODY;

/// Of an empty file.
const SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[apply(test)]
fn images_are_compared_with_their_manifest(scratch: Scratch) {
    let file = json!({ "size": 0, "sha256": SHA256, "packages": {} });
    let files = json!({ "good": file, "different": file, "missing": file });
    let manifest = json!({ "recipe": "r", "arch": "a", "files": files });
    std::fs::write(scratch.join("manifest.json"), manifest.to_string()).expect("a manifest");
    std::fs::write(scratch.join("good"), "").expect("a file");
    std::fs::write(scratch.join("different"), "x").expect("a file");
    let answered = answer(&scratch, ["images", "--dir", ".", "--json"]);
    assert_eq!(answered.code, Some(3), "{answered}");
    let facts: Value = serde_json::from_str(&answered.stdout).expect("JSON");
    let files = facts["files"].as_array().expect("files");
    assert_eq!(files.len(), 3);
    for file in files {
        assert_eq!(file["state"], file["name"], "{answered}");
    }
    for name in ["different", "missing"] {
        assert!(answered.stderr.contains(&format!("{name} is {name}")), "{answered}");
    }

    std::fs::write(scratch.join("different"), "").expect("a file");
    std::fs::write(scratch.join("missing"), "").expect("a file");
    let answered = answer(&scratch, ["images", "--dir", "."]);
    assert_eq!((answered.code, &*answered.stderr), (Some(0), ""), "{answered}");
    assert_eq!(answered.stdout.matches("good").count(), 4, "{answered}");
}

#[apply(test)]
#[case::missing(None, "No such file")]
#[case::not_json(Some("{"), "EOF")]
#[case::elsewhere(
    Some(r#"{"recipe":"r","arch":"a","files":{"../x":{"size":0,"sha256":""}}}"#),
    "is a path"
)]
fn a_manifest_that_is_none_is_refused(
    scratch: Scratch,
    #[case] manifest: Option<&str>,
    #[case] cause: &str,
) {
    if let Some(text) = manifest {
        std::fs::write(scratch.join("manifest.json"), text).expect("a manifest");
    }
    let answered = answer(&scratch, ["images", "--dir", "."]);
    assert_eq!(answered.code, Some(3), "{answered}");
    assert!(answered.stderr.contains("manifest.json"), "{answered}");
    assert!(answered.stderr.contains(cause), "{answered}");
}

/// What the program carries builds nothing that the recipe in fixtures/images has built, and `images`
/// and `exec` look there.
#[apply(test)]
fn images_that_are_there_are_not_built_again(scratch: Scratch) {
    let key = "cd fixtures/images && \
        sha256sum build.sh common.sh guest-init initramfs-init supervisor/*.[ch] | sha256sum";
    let key = Command::new("sh").args(["-c", key]).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let key = String::from_utf8(key.expect("a key").stdout).expect("text");
    let directory = scratch.join("pool").join(format!("guest-images-{}", &key[..16]));
    std::fs::create_dir_all(&directory).expect("a directory");
    let file = json!({ "size": 0, "sha256": SHA256, "packages": {} });
    let name = "python-3-base-x86_64.qcow2";
    let manifest = json!({ "recipe": "r", "arch": "a", "files": { name: file } });
    std::fs::write(directory.join("manifest.json"), manifest.to_string()).expect("a manifest");
    std::fs::write(directory.join(name), "").expect("a file");
    let link = scratch.join("pool/guest-images");
    std::os::unix::fs::symlink(directory.file_name().expect("a name"), &link).expect("a link");

    let built = run(without_apt(&scratch).args(["images", "build"]));
    let listed = answer(&scratch, ["images"]);
    let expected = format!("{}\ngood               0  {name}\n", link.display());
    assert_eq!((&*listed.stdout, listed.code), (&*expected, Some(0)), "{listed}");
    let next = "try overlay-pool exec python -c \"print('hello from pool')\"\n";
    assert_eq!((built.stdout, built.code), (expected + next, Some(0)), "{}", built.stderr);

    let elsewhere =
        run(without_apt(&scratch).args(["images", "build", "--dir", "pool/guest-images"]));
    assert!(elsewhere.stdout.ends_with(next), "{elsewhere}");
}

#[apply(test)]
fn what_a_build_lacks_is_said_and_nothing_is_left(scratch: Scratch) {
    let failed = run(without_apt(&scratch).args(["images", "build"]));
    assert_eq!(failed.code, Some(1), "{failed}");
    assert!(failed.stderr.contains("no apt-get here"), "{failed}");
    assert_eq!(scratch.join("pool").read_dir().expect("the directory").count(), 0, "{failed}");
}

#[apply(test)]
fn a_directory_is_not_replaced_by_images(scratch: Scratch) {
    std::fs::create_dir(scratch.join("mine")).expect("a directory");
    let refused = run(without_apt(&scratch).args(["images", "build", "--dir", "mine"]));
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(refused.stderr.contains("mine is there already"), "{refused}");
    assert!(scratch.join("mine").is_dir());
}

/// What root runs there follows links, and what it makes there is run as root in each guest.
#[apply(test)]
#[needs(Root)]
fn images_are_not_built_where_another_user_may_change_them(scratch: Scratch) {
    let (theirs, precious) = (scratch.join("theirs"), scratch.join("precious"));
    std::fs::create_dir(&theirs).expect("a directory");
    std::fs::write(&precious, "precious").expect("a file");
    std::os::unix::fs::symlink(&precious, theirs.join(".images.lock")).expect("a link");
    std::os::unix::fs::lchown(&theirs, Some(SOMEBODY), Some(SOMEBODY)).expect("its owner");
    let refused = run(overlay_pool(&scratch).args(["images", "build", "--dir", "theirs/images"]));
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(refused.stderr.contains("theirs: this directory belongs to another user"), "{refused}");
    assert_eq!(std::fs::read(precious).expect("the file"), b"precious");
}

/// On a machine that has what every machine has.
fn without_apt(scratch: &Path) -> Command {
    let bin = scratch.join("bin");
    let programs = "mkdir -p bin && for each in bash basename dirname mkdir readlink realpath sha256sum; do \
        ln -sf \"$(command -v $each)\" bin; done";
    let made = Command::new("sh").args(["-c", programs]).current_dir(scratch).status();
    assert!(made.is_ok_and(|made| made.success()));
    let mut command = overlay_pool(scratch);
    command.env("PATH", bin);
    command
}
