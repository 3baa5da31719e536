//! What this machine has, and what becomes of tests whose needs it doesn't meet.

use std::path::Path;
use std::process::{Command, Output};

use crate::harness::case::{BY_NEXTEST, CASES};
use crate::harness::prelude::*;
use crate::harness::requirements;

/// Prints what is there and what is missing and why; nextest shows it in every run.
#[apply(test)]
fn table() {
    let required = requirements::required().expect("known names");
    for need in Need::ALL {
        let demanded = if required.contains(&need) { " (required)" } else { "" };
        match need.probe() {
            Ok(found) => println!("{:20} there: {found}{demanded}", need.name()),
            Err(reason) => println!("{:20} MISSING: {reason}{demanded}", need.name()),
        }
    }
}

/// This test binary on a machine that has no programs at all.
fn bare(scratch: &Path, required: &str, args: &[&str]) -> Output {
    let mut command = Command::new(std::env::current_exe().expect("the test binary"));
    command.env("PATH", scratch).env("OVERLAY_POOL_REQUIRE", required).env_remove(BY_NEXTEST);
    command.args(args).output().expect("the test binary runs")
}

/// A test that needs `qemu-img`.
fn one_that_is_needy() -> &'static str {
    let needs = |case: &&crate::harness::case::Case| case.needs().contains(&Need::QemuImg);
    CASES.iter().find(needs).expect("some test needs qemu-img").name()
}

fn listed(scratch: &Path, required: &str, args: &[&str]) -> Vec<String> {
    let output = bare(scratch, required, &[&["--list", "--format", "terse"], args].concat());
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("names");
    text.lines().filter_map(|line| line.strip_suffix(": test").map(str::to_owned)).collect()
}

#[apply(test)]
fn unmet_needs_are_listed_as_ignored(scratch: Scratch) {
    let ignored = listed(&scratch, "", &["--ignored"]);
    let contains = |name: &str| ignored.iter().any(|ignored| ignored == name);
    let (mut needy, mut frugal) = (0, 0);
    for case in CASES {
        if case.needs().contains(&Need::QemuImg) {
            needy += 1;
            assert!(contains(case.name()), "{} isn't ignored", case.name());
        } else if case.needs().is_empty() {
            frugal += 1;
            assert!(!contains(case.name()), "{} is ignored", case.name());
        }
    }
    assert!(needy > 10 && frugal > 10, "{needy} need qemu-img, {frugal} nothing");
    assert!(contains("conformance::qemu-img::a2-pooled"), "those from files too");
    let output = bare(&scratch, "", &["--exact", one_that_is_needy()]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("0 passed; 0 failed; 1 ignored"), "{said}");
}

#[apply(test)]
fn required_needs_make_it_fail(scratch: Scratch) {
    let ignored = listed(&scratch, "qemu-img", &["--ignored"]);
    assert!(
        !ignored.iter().any(|name| name == one_that_is_needy()),
        "{} is ignored",
        one_that_is_needy()
    );
    expect_failure(&bare(&scratch, "python3, qemu-img", &["--exact", one_that_is_needy()]));
}

/// As `cargo nextest run --run-ignored all` runs it.
#[apply(test)]
#[case::all("--include-ignored")]
#[case::only("--ignored")]
fn forced_without_its_need_it_fails_with_the_reason(scratch: Scratch, #[case] force: &str) {
    expect_failure(&bare(&scratch, "", &["--exact", one_that_is_needy(), force]));
}

#[track_caller]
fn expect_failure(output: &Output) {
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("needs qemu-img: qemu-img: No such file"), "no reason: {said}");
    assert!(said.contains("install qemu-utils"), "no advice: {said}");
}

#[apply(test)]
#[case::list(&["--list", "--format", "terse"])]
#[case::run(&["--exact", "integration::requirements::table"])]
fn an_unknown_name_is_an_error(scratch: Scratch, #[case] args: &[&str]) {
    let output = bare(&scratch, "qemu-img,kmv", args);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(r#""kmv" is not a need; known are qemu-img, "#), "{said}");
    assert!(output.stdout.is_empty(), "nothing is listed or run");
}
