//! The rules of this house that a compiler can't hold.

use std::path::Path;

use crate::harness::case::CASES;
use crate::harness::prelude::*;

const NEEDS: &[Need] = &[];

/// In this binary a bare `#[test]` is compiled out, so a test without `apply(case)` would
/// silently never run.
#[rstest]
#[test_attr(apply(case))]
fn every_test_is_registered() {
    let mut functions = 0;
    visit(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite"), &mut |path, text| {
        let rstests = text.lines().filter(|line| line.trim() == "#[rstest]").count();
        let cases = text.lines().filter(|line| line.trim() == "#[test_attr(apply(case))]").count();
        let bare = text.lines().any(|line| matches!(line.trim(), "#[test]" | "#[tokio::test]"));
        assert!(!bare && rstests == cases, "{}: a test is not registered", path.display());
        functions += cases;
    });
    assert!(CASES.len() >= functions, "{} of {functions} are registered", CASES.len());
}

/// One noun a file; a file that is much longer has more than one.
#[rstest]
#[test_attr(apply(case))]
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
