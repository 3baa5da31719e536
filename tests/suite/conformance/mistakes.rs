//! What is wrong in the environment or in `shim.toml` is told instead of any test, also to whoever
//! asks for one case.

use std::path::Path;
use std::process::Command;

use crate::harness::prelude::*;

const NEEDS: &[Need] = &[];

/// What the test binary says where it can't list its tests.
fn told(change: impl FnOnce(&mut Command)) -> String {
    let mut list = Command::new(std::env::current_exe().expect("the test binary"));
    list.args(["--list", "--format", "terse"]);
    for variable in ["OVERLAY_POOL_SHIM", "OVERLAY_POOL_SHIM_CONFIG", "OVERLAY_POOL_CASES"] {
        list.env_remove(variable);
    }
    change(&mut list);
    let output = list.output().expect("it runs");
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).expect("text")
}

/// A port that has this `shim.toml`.
fn told_of_config(folder: &Path, text: &str) -> String {
    let config = folder.join("shim.toml");
    std::fs::write(&config, text).expect("it is written");
    told(|list| {
        list.env("OVERLAY_POOL_SHIM", "a-shim").env("OVERLAY_POOL_SHIM_CONFIG", &config);
    })
}

#[rstest]
#[case::syntax("[errors", "shim.toml: TOML parse error")]
#[case::section("[error]", "unknown field `error`")]
#[case::misspelt(
    "[errors]\nalready-exist = 'a'",
    "already-exist is none of the contract's: not-st"
)]
#[case::twice(
    "[errors]\nbad-base = 'Bad'\nbad-target = 'Bad'",
    "Bad can't be both bad-base and bad-target"
)]
#[case::no_case(
    "[disabled]\na0-nothing = 'why'",
    "shim.toml disables a0-nothing, which is no case"
)]
#[test_attr(apply(case))]
fn of_shim_toml(scratch: Scratch, #[case] text: &str, #[case] wanted: &str) {
    let said = told_of_config(&scratch, text);
    assert!(said.contains(wanted), "{said}");
}

#[rstest]
#[case::unset(None)]
#[case::empty(Some(" "))]
#[test_attr(apply(case))]
fn of_a_shim_that_is_not_named(#[case] shim: Option<&str>) {
    let said = told(|list| {
        list.env("NEXTEST_PROFILE", "port").envs(shim.map(|shim| ("OVERLAY_POOL_SHIM", shim)));
    });
    assert!(said.contains("no port to judge: set OVERLAY_POOL_SHIM"), "{said}");
}

#[rstest]
#[case::missing("nowhere", "No such file")]
#[case::empty(".", "no file's name ends in .toml")]
#[test_attr(apply(case))]
fn of_the_folder_of_cases(scratch: Scratch, #[case] folder: &str, #[case] wanted: &str) {
    let folder = scratch.join(folder);
    let said = told(|list| {
        list.env("OVERLAY_POOL_CASES", &folder);
    });
    assert!(said.contains(wanted) && said.contains("OVERLAY_POOL_CASES"), "{said}");
    assert!(said.contains(&folder.display().to_string()), "{said}");
}
