//! The contract, its cases and their schema agree.

use std::collections::{BTreeMap, BTreeSet};

use overlay_pool_conformance::case::Case;
use overlay_pool_conformance::cases::Named;
use overlay_pool_conformance::contract;
use overlay_pool_conformance::id::Id;

use super::broken::{self, Broken};
use super::ports::Port;
use super::{cases, cases_folder};
use crate::harness::prelude::*;

const NEEDS: &[Need] = &[];

/// The ids of all promises that a case can judge.
fn promises() -> BTreeSet<Id> {
    let without = contract::without_a_case();
    let all = contract::promises().into_iter().map(|promise| promise.id);
    all.filter(|id| !without.contains_key(id)).collect()
}

#[rstest]
#[test_attr(apply(case))]
fn every_promise_has_a_case_and_every_case_a_promise() {
    let promises = promises();
    assert!(promises.len() > 140, "CONTRACT.md is read wrongly: {promises:?}");
    let mut proved = BTreeSet::new();
    for named in cases().expect("there are cases") {
        let named = named.expect("all cases can be read");
        assert!(!named.case.promises.is_empty(), "{} names no promise", named.name);
        for id in named.case.promises {
            assert!(promises.contains(&id), "{}: {id} is none that can be judged", named.name);
            proved.insert(id);
        }
    }
    let unproved: Vec<_> = promises.difference(&proved).collect();
    assert!(unproved.is_empty(), "no case proves {unproved:?}");
}

/// By cases of this promise: each is run alone, and must fail.
#[rstest]
#[test_attr(apply(case))]
fn every_promise_is_broken_by_a_broken_port() {
    let cases = cases().expect("there are cases").into_iter();
    let cases = cases.map(|named| named.expect("all cases can be read"));
    let of: BTreeMap<_, _> =
        cases.map(|Named { name, case }| (name, BTreeSet::from_iter(case.promises))).collect();
    let mut broken = BTreeSet::new();
    for (port, Broken { breaks, caught_by, .. }) in broken::table() {
        for case in &caught_by {
            assert!(breaks.iter().any(|id| of[case].contains(id)), "{case} isn't about {port}");
        }
        for id in breaks {
            let is_caught = caught_by.iter().any(|case| of[case].contains(&id));
            assert!(is_caught, "{port} is caught by no case of {id}");
            broken.insert(id);
        }
    }
    let (judged, broken): (Vec<_>, Vec<_>) =
        (promises().into_iter().collect(), broken.into_iter().collect());
    let missing: Vec<_> = judged.iter().filter(|id| !broken.contains(id)).collect();
    assert!(missing.is_empty(), "no port breaks {missing:?}");
    assert_eq!(judged, broken, "a port breaks what can't be judged");
}

/// A case that nothing is caught by may be one that can't fail.
#[rstest]
#[test_attr(apply(case))]
fn every_case_catches_a_broken_port() {
    let broken = broken::table();
    let sound = Port::python(None).expect("shim.toml is sound");
    for named in cases().expect("there are cases") {
        let name = named.expect("all cases can be read").name;
        let catches = broken.values().any(|port| port.caught_by.contains(&name));
        let is_judged = !sound.config.disabled.contains_key(&name);
        assert_eq!(catches, is_judged, "{name}: whether it catches a port, whether it is judged");
    }
}

/// A row that no promise has, or without a reason, hides nothing.
#[rstest]
#[test_attr(apply(case))]
fn what_no_case_judges_is_a_promise_with_a_reason() {
    let all: BTreeSet<_> = contract::promises().into_iter().map(|promise| promise.id).collect();
    for (id, why) in contract::without_a_case() {
        assert!(all.contains(&id) && !why.trim().is_empty(), "{id}: {why:?}");
    }
}

#[rstest]
#[test_attr(apply(case))]
fn every_rule_has_a_reason() {
    let rules: Vec<_> = contract::TEXT.split("\n### ").skip(1).collect();
    assert!(rules.len() >= 38, "CONTRACT.md is read wrongly: {rules:?}");
    for rule in rules {
        assert!(rule.contains("\n\n*Reason:* "), "no reason is given: {rule}");
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
        "about": "", "promises": ["A1.1"], "steps": [{ "do": "nothing" }]
    });
    assert!(!schema.is_valid(&unknown_step), "the schema lets everything through");
}
