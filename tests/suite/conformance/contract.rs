//! The contract, its cases and their schema agree.

use std::collections::BTreeSet;

use overlay_pool_conformance::case::Case;
use overlay_pool_conformance::cases::Named;
use overlay_pool_conformance::contract;
use overlay_pool_conformance::id::Id;

use super::broken;
use super::ports::Port;
use super::{cases, cases_folder};
use crate::harness::prelude::*;

const NEEDS: &[Need] = &[];

/// The ids of all rules and promises.
fn promises() -> BTreeSet<Id> {
    contract::promises().into_iter().map(|promise| promise.id).collect()
}

#[rstest]
#[test_attr(apply(case))]
fn every_rule_has_a_case_and_every_case_a_rule() {
    let rules = promises();
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
    assert_eq!(promises(), broken);
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
    for rule in contract::TEXT.split("\n\n").filter(|paragraph| paragraph.starts_with("**")) {
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
