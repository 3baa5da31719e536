//! The contract's cases, judged on each port; each case on each port is one test.

mod acquires;
mod answers;
mod broken;
mod case;
mod contract;
mod faults;
mod look;
mod mistakes;
mod ports;
mod protocol;
mod run;
mod step;
mod under_way;
mod world;

use std::path::PathBuf;
use std::sync::Arc;

use case::Case;
use ports::{Port, repository};
use step::Step;

use crate::harness::case::Trial;
use crate::harness::requirements::Need;
use crate::harness::scratch::scratch;
use crate::harness::shim::Failure;

const CASES: &str = "OVERLAY_POOL_CASES";

/// A case and its name, which is that of its file.
struct Named {
    name: String,
    case: Case,
}

impl Named {
    fn needs(&self, port: &Port) -> Vec<Need> {
        let mut needs = vec![Need::QemuImg];
        needs.extend(port.needs);
        if self.case.mounts_anything() {
            needs.push(Need::MountNamespace);
        }
        if !self.case.passed_on.is_empty() {
            needs.push(Need::Fuse);
        }
        if self.case.has(|step| matches!(step, Step::GuestWrite { .. })) {
            needs.push(Need::QemuIo);
        }
        if self.case.has(|step| matches!(step, Step::Chown { .. })) {
            needs.push(Need::Root);
        }
        needs
    }
}

/// Where the cases lie: those of this repository, or the exported ones that a port is pinned to.
fn cases_folder() -> PathBuf {
    std::env::var_os(CASES).map_or_else(|| repository().join("fixtures/conformance"), PathBuf::from)
}

/// The name of a file that can't be read as a case, and why.
type Unreadable = (String, String);

/// All cases, sorted by name.
///
/// # Errors
///
/// There are no cases.
fn cases() -> Result<Vec<Result<Named, Unreadable>>, String> {
    let folder = cases_folder();
    let told = |what: String| format!("no cases in {}: {what} ({CASES})", folder.display());
    let entries = std::fs::read_dir(&folder).map_err(|error| told(error.to_string()))?;
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry of it").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    if files.is_empty() {
        return Err(told("no file's name ends in .toml".to_owned()));
    }
    files.sort();
    let read = |path: PathBuf| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text =
            std::fs::read_to_string(&path).map_err(|error| (name.clone(), error.to_string()))?;
        let case = Case::read(text).map_err(|error| (name.clone(), error.to_string()))?;
        Ok(Named { name, case })
    };
    Ok(files.into_iter().map(read).collect())
}

/// Fails a test, and says so once: where in the runner it was seen helps nobody.
fn fail(message: String) -> ! {
    std::panic::resume_unwind(Box::new(message))
}

fn failing(name: String, message: String) -> Trial {
    Trial::new(name, Vec::new(), false, move || fail(message))
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
    let (mut trials, cases) = read()?;
    judge_port(&mut trials, port, &cases)?;
    Ok(Some(trials))
}

/// The tests of this part that are made from files.
///
/// # Errors
///
/// As those of a named port.
pub(crate) fn trials() -> Result<Vec<Trial>, String> {
    let (mut trials, cases) = read()?;
    for port in Port::of_repository()? {
        judge_port(&mut trials, port, &cases)?;
    }
    broken::trials(&mut trials, &cases)?;
    Ok(trials)
}

/// All cases; a test that fails for each that can't be read.
fn read() -> Result<(Vec<Trial>, Vec<Arc<Named>>), String> {
    let mut trials = Vec::new();
    let mut sound = Vec::new();
    for case in cases()? {
        match case {
            Ok(case) => sound.push(Arc::new(case)),
            Err((name, message)) => {
                trials.push(failing(format!("conformance::port::{name}"), message));
            }
        }
    }
    Ok((trials, sound))
}

fn judge_port(trials: &mut Vec<Trial>, port: Port, cases: &[Arc<Named>]) -> Result<(), String> {
    let is_case = |name: &&String| cases.iter().any(|case| case.name == **name);
    if let Some(name) = port.config.disabled.keys().find(|name| !is_case(name)) {
        return Err(format!("{}: shim.toml disables {name}, which is no case", port.name));
    }
    let port = Arc::new(port);
    for case in cases {
        let name = format!("conformance::{}::{}", port.name, case.name);
        let disabled = port.config.disabled.get(&case.name);
        let (its_case, its_port) = (Arc::clone(case), Arc::clone(&port));
        trials.push(Trial::new(name, case.needs(&port), disabled.is_some(), move || {
            let folder = scratch(); // kept by the panic
            if let Err(failure) = run::run(&its_case.case, &its_port, &folder) {
                let Case { about, rules, .. } = &its_case.case;
                fail(format!("{}\n{about}\n{failure}", rules.join(", ")));
            }
        }));
        if let Some(reason) = disabled.cloned() {
            let name = format!("conformance::{}::disabled::{}", port.name, case.name);
            let (case, port) = (Arc::clone(case), Arc::clone(&port));
            trials.push(Trial::new(name, case.needs(&port), false, move || {
                still_fails(&case, &port, &reason);
            }));
        }
    }
    Ok(())
}

/// A disabled case that passes is an error: it need not be disabled any more.
fn still_fails(case: &Named, port: &Port, reason: &str) {
    let folder = scratch(); // kept by a failure
    match run::run(&case.case, port, &folder) {
        Ok(()) => fail(format!("{} passes, but shim.toml disables it: {reason}", case.name)),
        Err(Failure::Unfit(what)) => fail(format!("{} can't be judged: {what}", case.name)),
        Err(failure) => println!("{failure}\ndisabled: {reason}"),
    }
}
