//! The contract, its cases and their schema agree.

use std::collections::BTreeSet;

use super::broken;
use super::case::Case;
use super::ports::{Port, repository};
use super::{Named, cases, cases_folder};
use crate::harness::prelude::*;

const NEEDS: &[Need] = &[];

/// The ids of all rules: paragraphs that begin with one in bold.
fn rules() -> BTreeSet<String> {
    let text = std::fs::read_to_string(repository().join("tests/conformance/CONTRACT.md"));
    let text = text.expect("CONTRACT.md can be read");
    let id = |line: &str| Some(line.strip_prefix("**")?.split_once("** ")?.0.to_owned());
    text.lines().filter_map(id).collect()
}

#[rstest]
#[test_attr(apply(case))]
fn every_rule_has_a_case_and_every_case_a_rule() {
    let rules = rules();
    assert!(rules.len() >= 38, "CONTRACT.md is read wrongly: {rules:?}");
    let mut proved = BTreeSet::new();
    for named in cases().expect("there are cases") {
        let named = named.expect("all cases can be read");
        assert!(!named.case.rules.is_empty(), "{} names no rule", named.name);
        for rule in named.case.rules {
            assert!(rules.contains(&rule), "{}: {rule} is no rule", named.name);
            proved.insert(rule);
        }
    }
    let unproved: Vec<_> = rules.difference(&proved).collect();
    assert!(unproved.is_empty(), "no case proves {unproved:?}");
}

#[rstest]
#[test_attr(apply(case))]
fn every_rule_is_broken_by_a_broken_port() {
    let broken: BTreeSet<_> = broken::table().into_values().map(|broken| broken.rule).collect();
    assert_eq!(rules(), broken);
}

/// A case that nothing is caught by may be one that can't fail.
#[rstest]
#[test_attr(apply(case))]
fn every_case_catches_a_broken_port() {
    let broken = broken::table();
    let sound = Port::python(None).expect("shim.toml is sound");
    for named in cases().expect("there are cases") {
        let Named { name, case } = named.expect("all cases can be read");
        let mut caught =
            broken.iter().filter(|(_, port)| port.caught_by.contains(&name)).peekable();
        let is_judged = !sound.config.disabled.contains_key(&name);
        let catches = caught.peek().is_some();
        assert_eq!(catches, is_judged, "{name}: whether it catches a port, whether it is judged");
        for (port, broken) in caught {
            assert!(case.rules.contains(&broken.rule), "{name} isn't of the rule of {port}");
        }
    }
}

#[rstest]
#[test_attr(apply(case))]
fn every_rule_has_a_reason() {
    let text = std::fs::read_to_string(repository().join("tests/conformance/CONTRACT.md"));
    let text = text.expect("CONTRACT.md can be read");
    for rule in text.split("\n\n").filter(|paragraph| paragraph.starts_with("**")) {
        assert!(rule.contains("\n*Reason:* "), "no reason is given: {rule}");
    }
}

/// The schema is what the reader's types say. `INSTA_UPDATE=always` writes it anew.
#[rstest]
#[test_attr(apply(case))]
fn the_schema_is_the_readers() {
    let schema = serde_json::to_string_pretty(&schemars::schema_for!(Case)).expect("JSON") + "\n";
    let path = cases_folder().join("case.schema.json");
    if std::env::var_os("INSTA_UPDATE").is_some_and(|update| update == "always") {
        std::fs::write(&path, &schema).expect("the schema is written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == schema, "{} is old: run this test with INSTA_UPDATE=always", path.display());
}

#[rstest]
#[test_attr(apply(case))]
fn every_case_is_valid_by_the_schema() {
    let schema = std::fs::read_to_string(cases_folder().join("case.schema.json"));
    let schema = serde_json::from_str(&schema.expect("the schema can be read")).expect("JSON");
    let schema = jsonschema::validator_for(&schema).expect("a JSON schema");
    for named in cases().expect("there are cases") {
        let name = named.expect("all cases can be read").name;
        let text = std::fs::read_to_string(cases_folder().join(format!("{name}.toml")));
        let case: serde_json::Value =
            toml::from_str(&text.expect("it was just read")).expect("TOML");
        let errors: Vec<_> = schema.iter_errors(&case).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
    }
    let unknown_step = serde_json::json!({
        "about": "", "rules": ["A1"], "steps": [{ "do": "nothing" }]
    });
    assert!(!schema.is_valid(&unknown_step), "the schema lets everything through");
}

/// One command takes everything along that a port is judged by.
#[rstest]
#[test_attr(apply(case))]
fn the_cases_and_the_guide_are_exported(scratch: Scratch) {
    let program = super::ports::program();
    let directory = scratch.join("a/b");
    let args = ["conformance".as_ref(), directory.as_os_str()];
    crate::harness::qemu::run(&program, args);
    // What was exported is what OVERLAY_POOL_CASES judges by.
    let cases = directory.join("cases");
    let mut list = std::process::Command::new(std::env::current_exe().expect("the test binary"));
    list.env("OVERLAY_POOL_CASES", &cases).env("OVERLAY_POOL_SHIM", "a-shim");
    std::fs::rename(cases.join("a2-pooled.toml"), cases.join("my-own.toml")).expect("renamed");
    let list = list.args(["--list", "--format", "terse"]).output().expect("it runs").stdout;
    let list = String::from_utf8(list).expect("names");
    assert!(list.contains("conformance::port::my-own: ") && !list.contains("a2-pooled"), "{list}");
    std::fs::rename(cases.join("my-own.toml"), cases.join("a2-pooled.toml")).expect("renamed");

    for (exported, ours) in [("", "tests/conformance"), ("cases", "fixtures/conformance")] {
        for file in std::fs::read_dir(repository().join(ours)).expect("a directory") {
            let ours = file.expect("an entry of it").path();
            let exported = directory.join(exported).join(ours.file_name().expect("a file"));
            let read = |path| std::fs::read(path).expect("a file that can be read");
            assert!(read(exported) == read(ours.clone()), "{} is another", ours.display());
        }
    }
}
