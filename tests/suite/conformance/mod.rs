//! The contract's cases, judged on each port; each case on each port is one test.

mod broken;
mod contract;
mod mistakes;
mod porting;
mod ports;
mod program;
mod protocol;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use overlay_pool_conformance::cases::{self, Named, Unreadable};
use overlay_pool_conformance::finding::Finding;
use overlay_pool_conformance::shim::Failure;
use overlay_pool_conformance::{host, isolation, verdict};

use ports::{Port, repository};

use crate::harness::case::Trial;
use crate::harness::requirements::Need;
use crate::harness::scratch::{ON_DISK, scratch};

const CASES: &str = "OVERLAY_POOL_CASES";

/// What a case needs of the machine, and the port.
fn needs(named: &Named, port: &Port) -> Vec<Need> {
    let its = host::Need::of(&named.case).into_iter().map(Need::from);
    its.chain(port.needs.iter().copied()).collect()
}

/// Judges a port by a case in a folder.
fn judge(named: &Named, port: &Port, folder: &Path) -> Result<(), Finding> {
    isolation::judge(&named.case, port, folder, &Path::new(ON_DISK).join("images"))
}

/// Where the cases lie: those of this repository, or the exported ones that a port is pinned to.
fn cases_folder() -> PathBuf {
    let ours = || repository().join("tests/conformance/cases");
    std::env::var_os(CASES).map_or_else(ours, PathBuf::from)
}

/// All cases, sorted by name.
///
/// # Errors
///
/// There are no cases.
fn cases() -> Result<Vec<Result<Named, Unreadable>>, String> {
    cases::of(&cases_folder()).map_err(|error| format!("{error} ({CASES})"))
}

/// Fails a test, and says so once: where in the runner it was seen helps nobody.
fn fail(message: String) -> ! {
    std::panic::resume_unwind(Box::new(message))
}

fn failing(name: String, message: String) -> Trial {
    Trial::new(name, Vec::new(), false, move || fail(message))
}

/// Whether there is a case of this name, read or not.
fn is_case(name: &str) -> bool {
    cases_folder().join(format!("{name}.toml")).is_file()
}

/// The tests of the port that the environment names, where it names one: then nothing else is
/// to be judged.
///
/// # Errors
///
/// What stands in the environment or in `shim.toml` is a mistake. It is told instead of any test,
/// since a test that says so would be missed by whoever asks for another.
pub(crate) fn of_named_port() -> Result<Option<Vec<Trial>>, String> {
    let Some(port) = Port::named()? else { return Ok(None) };
    let (mut trials, cases) = read(|_| true)?;
    judge_port(&mut trials, port, &cases)?;
    Ok(Some(trials))
}

/// The tests of this part that are made from files; if one is asked for, by its name, no case is read
/// that it doesn't want.
///
/// # Errors
///
/// As those of a named port.
pub(crate) fn trials(only: Option<&str>) -> Result<Vec<Trial>, String> {
    let broken = broken::wanted(only);
    let (mut trials, cases) = read(|case| {
        only.is_none_or(|name| name.ends_with(&format!("::{case}")))
            || broken.values().any(|port| port.caught_by.contains(case))
    })?;
    for port in Port::of_repository()? {
        judge_port(&mut trials, port, &cases)?;
    }
    broken::trials(&mut trials, broken, &cases)?;
    Ok(trials)
}

/// All cases that are wanted; a test that fails for each that can't be read.
fn read(is_wanted: impl Fn(&str) -> bool) -> Result<(Vec<Trial>, Vec<Arc<Named>>), String> {
    let mut trials = Vec::new();
    let mut sound = Vec::new();
    let cases = cases::some_of(&cases_folder(), is_wanted);
    for case in cases.map_err(|error| format!("{error} ({CASES})"))? {
        match case {
            Ok(case) => sound.push(Arc::new(case)),
            Err(Unreadable { name, why }) => {
                trials.push(failing(format!("conformance::port::{name}"), why));
            }
        }
    }
    Ok((trials, sound))
}

fn judge_port(trials: &mut Vec<Trial>, port: Port, cases: &[Arc<Named>]) -> Result<(), String> {
    if let Some(name) = port.config.disabled.keys().find(|name| !is_case(name)) {
        return Err(format!("{}: shim.toml disables {name}, which is no case", port.name));
    }
    let port = Arc::new(port);
    for case in cases {
        let name = format!("conformance::{}::{}", port.name, case.name);
        let disabled = port.config.disabled.get(&case.name);
        // What is left out shows as ignored, as by `overlay-pool-conformance`.
        let is_left_out =
            verdict::left_out(&port.hello, |its| its.is_wanted_by(&case.case)).is_some();
        let is_ignored = disabled.is_some() || is_left_out;
        let (its_case, its_port) = (Arc::clone(case), Arc::clone(&port));
        trials.push(Trial::new(name, needs(case, &port), is_ignored, move || {
            let folder = scratch(); // kept by the panic
            if let Err(finding) = judge(&its_case, &its_port, &folder) {
                let its = &its_case.case;
                let ids: Vec<String> = its.promises.iter().map(ToString::to_string).collect();
                fail(format!("{}\n{}\n{finding}", ids.join(", "), its.about));
            }
        }));
        if let Some(reason) = disabled.cloned().filter(|_| !is_left_out) {
            let name = format!("conformance::{}::disabled::{}", port.name, case.name);
            let (case, port) = (Arc::clone(case), Arc::clone(&port));
            trials.push(Trial::new(name, needs(&case, &port), false, move || {
                still_fails(&case, &port, &reason);
            }));
        }
    }
    Ok(())
}

/// A disabled case that passes is an error: it need not be disabled any more.
fn still_fails(case: &Named, port: &Port, reason: &str) {
    let folder = scratch(); // kept by a failure
    match judge(case, port, &folder) {
        Ok(()) => fail(format!("{} passes, but shim.toml disables it: {reason}", case.name)),
        Err(Finding { failure: Failure::Unfit(what), .. }) => {
            fail(format!("{} can't be judged: {what}", case.name))
        }
        Err(finding) => println!("{finding}\ndisabled: {reason}"),
    }
}
