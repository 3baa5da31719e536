//! The rules of this house that a compiler can't hold.

use std::collections::BTreeSet;
use std::path::Path;

use crate::harness::case::CASES;
use crate::harness::prelude::*;

/// In this binary a bare `#[test]` is compiled out, so a test that isn't declared as one of the
/// suite would silently never run.
#[apply(test)]
fn every_test_is_registered() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut declared = BTreeSet::new();
    visit(&root.join("tests/suite"), &mut |path, text| {
        let path = path.strip_prefix(root).expect("a file of the suite").display();
        for (line, text) in (1..).zip(text.lines().map(str::trim)) {
            let bare = matches!(text, "#[test]" | "#[tokio::test]");
            assert!(!bare, "{path}:{line}: this test would never run");
            if matches!(text, "#[rstest]" | "#[apply(test)]" | "#[apply(each_creator)]") {
                declared.insert(format!("{path}:{line}"));
            }
        }
    });
    let registered: BTreeSet<_> = CASES.iter().map(|case| case.place.to_owned()).collect();
    assert_eq!(registered, declared);
}

/// One noun a file; a file that is much longer has more than one.
#[apply(test)]
fn files_are_short() {
    for folder in ["src", "tests"] {
        visit(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut |path, text| {
            let lines = text.lines().count();
            assert!(lines <= 450, "{} has {lines} lines", path.display());
        });
    }
}

fn visit(folder: &Path, look: &mut dyn FnMut(&Path, &str)) {
    for entry in folder.read_dir().expect("a folder of the sources") {
        let path = entry.expect("an entry").path();
        // Where the fuzz targets are built.
        if path.is_dir() && !path.ends_with("fuzz/target") {
            visit(&path, look);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            look(&path, &std::fs::read_to_string(&path).expect("a source file"));
        }
    }
}
