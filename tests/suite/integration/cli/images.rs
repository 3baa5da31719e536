//! `images`: whether the guest images are what was built.

use serde_json::{Value, json};

use crate::harness::cli::answer;
use crate::harness::prelude::*;

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
