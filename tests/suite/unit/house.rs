//! The rules of this house that a compiler can't hold.

mod circles;
mod imports;

use std::collections::BTreeSet;
use std::path::Path;

use crate::harness::case::CASES;
use crate::harness::prelude::*;
use crate::harness::requirements::crates;

/// What the pool may have of code, without blank lines, comments and tests.
const POOL_LINES: usize = 950;
const POOL_FILES: usize = 10;
/// What any file may have of lines.
const FILE_LINES: usize = 450;
/// What the library without features may be built of, itself among them.
const CRATES: usize = 50;

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
            assert!(lines <= FILE_LINES, "{} has {lines} lines", path.display());
        });
    }
}

/// Whoever picks this code up reads the pool in an hour.
#[apply(test)]
fn the_pool_is_small() {
    let (mut files, mut lines) = (0, 0);
    visit(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pool"), &mut |_, text| {
        files += 1;
        lines += code(text);
    });
    assert!(files > 0 && files <= POOL_FILES, "{files} files");
    assert!(lines > 0 && lines <= POOL_LINES, "{lines} lines of code");
}

/// Those that stand beside what they test are tests too.
#[apply(test)]
fn tests_are_larger_than_what_they_test() {
    let (mut tests, mut tested) = (0, 0);
    for folder in ["src", "tests"] {
        visit(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut |path, text| {
            let (all, of_code) = (text.lines().count(), without_tests(text).lines().count());
            let is_benchmark = path.components().any(|part| part.as_os_str() == "bench");
            match folder {
                "tests" if !is_benchmark => tests += all,
                "src" if path.ends_with("tests.rs") => tests += all,
                "src" => (tests, tested) = (tests + all - of_code, tested + of_code),
                _ => {}
            }
        });
    }
    assert!(tests > tested, "{tests} lines of tests, {tested} that they test");
}

/// What a program that only wants the pool has to compile.
#[apply(test)]
#[needs(Crates)]
fn the_library_is_lean() {
    let crates = crates().expect("cargo knows them");
    let has = |name: &str| crates.iter().any(|line| line.starts_with(&format!("{name} v")));
    assert!(has("overlay-pool") && has("tokio"), "{crates:#?}");
    assert!(crates.len() <= CRATES, "{} crates: {crates:#?}", crates.len());
    for server in ["hyper", "axum", "utoipa", "clap", "prometheus-client"] {
        assert!(!has(server), "{server} is for others");
    }
}

/// How many lines of a file are code: neither blank nor a comment, and none of the tests at its
/// end.
fn code(text: &str) -> usize {
    let is_code = |line: &&str| !line.is_empty() && !line.starts_with("//");
    without_tests(text).lines().map(str::trim).filter(is_code).count()
}

fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default()
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
