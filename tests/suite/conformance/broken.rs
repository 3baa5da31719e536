//! The suite can fail: each broken port is caught by the rule that it breaks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;

use super::ports::{Port, repository};
use super::{Named, run};
use crate::harness::case::Trial;
use crate::harness::requirements::{self, Need};
use crate::harness::scratch::scratch;
use crate::harness::shim::Failure;

/// The plain port with one thing done wrong; `fixtures/ports/python/broken.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Broken {
    /// The rule that it breaks.
    rule: String,
    /// What it does wrong.
    about: String,
    /// What the machine must have besides for a case to catch it, as in `OVERLAY_POOL_REQUIRE`.
    #[serde(default)]
    needs: Vec<String>,
}

fn table() -> BTreeMap<String, Broken> {
    let path = repository().join("fixtures/ports/python/broken.toml");
    let text = std::fs::read_to_string(path).expect("broken.toml can be read");
    toml::from_str(&text).expect("broken.toml is sound")
}

/// The rules that are broken by one port at least.
pub(super) fn rules() -> BTreeSet<String> {
    table().into_values().map(|broken| broken.rule).collect()
}

pub(super) fn trials(trials: &mut Vec<Trial>, cases: &[Arc<Named>]) {
    for (name, Broken { rule, about, needs: others }) in table() {
        let proving = |case: &&Arc<Named>| case.case.rules.contains(&rule);
        let mut cases: Vec<_> = cases.iter().filter(proving).cloned().collect();
        // The rule's own cases first: they find it soonest.
        let own = format!("{}-", rule.to_lowercase());
        cases.sort_by_key(|case| !case.name.starts_with(&own));
        let mut needs = vec![Need::QemuImg, Need::QemuIo, Need::Python, Need::MountNamespace];
        let named = |name: &String| requirements::need_named(name).expect("broken.toml is sound");
        needs.extend(others.iter().map(named));
        trials.push(Trial::new(format!("conformance::broken::{name}"), needs, false, move || {
            let port = Port::python(Some(&name)).expect("shim.toml is sound");
            let caught = cases.iter().any(|case| is_caught(case, &port));
            assert!(caught, "no case of {rule} fails for a port that {about}");
        }));
    }
}

/// Whether the case fails, and not because it can't be run.
fn is_caught(case: &Named, port: &Port) -> bool {
    let unmet = requirements::unmet(&case.needs(port)).next().is_some();
    if unmet || port.config.disabled.contains_key(&case.name) {
        return false;
    }
    match run::run(&case.case, port, &scratch()) {
        Ok(()) => false,
        Err(Failure::Broken(what)) => {
            println!("caught by {}: {what}", case.name);
            true
        }
        Err(failure) => panic!("{}: {failure}", case.name),
    }
}
