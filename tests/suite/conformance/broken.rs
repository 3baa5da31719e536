//! The suite can fail: each broken port is caught by cases of the promises that it breaks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use overlay_pool_conformance::cases::Named;
use overlay_pool_conformance::finding::Finding;
use overlay_pool_conformance::id::Id;
use overlay_pool_conformance::port::PATIENCE;
use overlay_pool_conformance::shim::Failure;
use serde::Deserialize;

use super::ports::{Port, repository};
use super::{fail, judge, needs};
use crate::harness::case::Trial;
use crate::harness::scratch::scratch;

/// What is broken on purpose is waited for in vain.
const SOON: Duration = Duration::from_secs(3);

/// The plain port with one thing done wrong; `fixtures/ports/python/broken.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Broken {
    /// The promises that it breaks.
    pub(super) breaks: BTreeSet<Id>,
    /// What it does wrong.
    about: String,
    /// The cases that must fail for it.
    pub(super) caught_by: BTreeSet<String>,
    /// That it doesn't answer in time is what it is caught by; a machine that is busy looks so too.
    #[serde(default)]
    hangs: bool,
}

pub(super) fn table() -> BTreeMap<String, Broken> {
    let path = repository().join("fixtures/ports/python/broken.toml");
    let text = std::fs::read_to_string(path).expect("broken.toml can be read");
    toml::from_str(&text).expect("broken.toml is sound")
}

fn name_of_trial(port: &str) -> String {
    format!("conformance::broken::{port}")
}

/// Those that tests are made of: all, or those of the test that is asked for.
pub(super) fn wanted(only: Option<&str>) -> BTreeMap<String, Broken> {
    let is_theirs = |name: &str| name.starts_with(&name_of_trial(""));
    if only.is_some_and(|name| !is_theirs(name)) {
        return BTreeMap::new();
    }
    let mut wanted = table();
    wanted.retain(|port, _| only.is_none_or(|name| name == name_of_trial(port)));
    wanted
}

/// # Errors
///
/// A broken port is to be caught by nothing, or by what is no case.
pub(super) fn trials(
    trials: &mut Vec<Trial>,
    ports: BTreeMap<String, Broken>,
    cases: &[Arc<Named>],
) -> Result<(), String> {
    let sound = Port::python(None)?;
    for (name, broken) in ports {
        let caught_by = &broken.caught_by;
        if caught_by.is_empty() {
            return Err(format!("broken.toml: {name} names no case that it is caught by"));
        }
        let case = |wanted: &String| {
            let found = cases.iter().find(|case| case.name == *wanted).cloned();
            found.ok_or_else(|| format!("broken.toml: {name}: {wanted} is no case"))
        };
        let cases = caught_by.iter().map(case).collect::<Result<Vec<_>, _>>()?;
        let all: BTreeSet<_> = cases.iter().flat_map(|case| needs(case, &sound)).collect();
        let all = all.into_iter().collect();
        trials.push(Trial::new(name_of_trial(&name), all, false, move || {
            for case in &cases {
                must_fail(case, &name, &broken);
            }
        }));
    }
    Ok(())
}

/// The case must fail for what the port breaks, and neither because it can't be run nor by chance:
/// what a busy machine can't do soon is waited for as long as with any port.
fn must_fail(case: &Named, name: &str, broken: &Broken) {
    let about = &broken.about;
    let judge_within = |patience| {
        let port = Port::python(Some(name)).expect("shim.toml is sound").with_patience(patience);
        let passes = || fail(format!("{} passes for a port that {about}", case.name));
        judge(case, &port, &scratch()).err().unwrap_or_else(passes)
    };
    let mut finding = judge_within(SOON);
    if !is_meant(&finding, broken) {
        finding = judge_within(PATIENCE);
    }
    if !matches!(finding.failure, Failure::Broken(_)) {
        fail(format!("{}: {finding}", case.name));
    }
    if !is_meant(&finding, broken) {
        fail(format!("{} fails by chance for a port that {about}: {finding}", case.name));
    }
    println!("caught by {}: {finding}", case.name);
}

/// That the case fails for a promise that the port breaks, and not since it was slow.
fn is_meant(finding: &Finding, Broken { breaks, hangs, .. }: &Broken) -> bool {
    let Failure::Broken(seen) = &finding.failure else { return false };
    // Where none is named the case knows, which proves one of them.
    finding.promise().0.is_none_or(|id| breaks.iter().any(|its| its.meets(id)))
        && (*hangs || !seen.contains("no answer within"))
}
