//! Each case in a process of its own, which sees no process but those of the case.
//!
//! A case's orphan could otherwise be reaped, killed or tidied away by another case's shim before
//! its own case looks for it, and the other way round. So the program that judges runs itself again
//! for each case, in a PID namespace with a `/proc` of its own: the first process there does what
//! `init` does, the second runs the case, and the end of the first is the end of all. Where no
//! such namespace can be made, a case still has its own process, `TMPDIR` and `HOME`.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::OnceLock;

use rustix::process::{Pid, WaitOptions, geteuid, wait};
use serde::{Deserialize, Serialize};

use crate::case::Case;
use crate::finding::Finding;
use crate::port::Port;
use crate::run::run;
use crate::unshare;

/// The first process of a namespace.
const INIT: &str = "judge-as-init";
/// The process of a case.
const CASE: &str = "judge-a-case";

/// A case as its process is told of it.
#[derive(Serialize, Deserialize)]
struct Job {
    case: String,
    port: Port,
    folder: PathBuf,
    kept: PathBuf,
}

/// Judges a port by a case in processes of its own. `folder` becomes the case's; in `kept` lie base
/// images that other cases want too.
///
/// The running program must call [`main_if_case`] first of all.
///
/// # Errors
///
/// The port doesn't pass the case, or can't be judged by it.
pub fn judge(case: &Case, port: &Port, folder: &Path, kept: &Path) -> Result<(), Finding> {
    let job = Job {
        case: case.text().to_owned(),
        port: port.clone(),
        folder: folder.to_owned(),
        kept: kept.to_owned(),
    };
    let job = serde_json::to_vec(&job).map_err(Finding::unfit)?;
    let program = std::env::current_exe().map_err(Finding::unfit)?;
    let mut command = if let Ok(prefix) = probe() {
        let mut command = Command::new(prefix[0]);
        command.args(&prefix[1..]).arg(program).arg(INIT);
        command
    } else {
        let mut command = Command::new(program);
        command.arg(CASE);
        command
    };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Finding::unfit)?;
    if let Some(mut stdin) = child.stdin.take() {
        // What ended before it read everything is told by its output.
        let _ = stdin.write_all(&job);
    }
    let output = child.wait_with_output().map_err(Finding::unfit)?;
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Finding::unfit(format!("the runner ended ({}): {}", output.status, said.trim())))
    })
}

/// Whether cases get a PID namespace, and by which command; or why not.
///
/// # Errors
///
/// This machine lacks the programs or the right.
pub fn probe() -> Result<&'static [&'static str], &'static str> {
    static FOUND: OnceLock<Result<&[&str], String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        // Root stays root of the machine, and can give files away; others stay who they are.
        let prefix: &[&str] = if geteuid().is_root() { &AS_ROOT } else { &AS_USER };
        let output = Command::new(prefix[0]).args(&prefix[1..]).arg("true").output();
        let output = output.map_err(|error| format!("{}: {error}", prefix[0]))?;
        if output.status.success() {
            return Ok(prefix);
        }
        Err(unshare::why(&output, String::new()))
    });
    found.as_ref().copied().map_err(String::as_str)
}

const AS_ROOT: [&str; 9] = [
    "setpriv",
    "--pdeathsig",
    "KILL",
    "unshare",
    "--pid",
    "--mount",
    "--mount-proc",
    "--fork",
    "--kill-child",
];
const AS_USER: [&str; 11] = [
    "setpriv",
    "--pdeathsig",
    "KILL",
    "unshare",
    "--user",
    "--map-current-user",
    "--pid",
    "--mount",
    "--mount-proc",
    "--fork",
    "--kill-child",
];

/// Where this process was started for a case, does its part.
#[must_use]
pub fn main_if_case() -> Option<ExitCode> {
    match std::env::args().nth(1)?.as_str() {
        INIT => Some(init()),
        CASE => Some(run_case()),
        _ => None,
    }
}

/// Starts the case's process, and takes note of the end of everything until that has ended.
fn init() -> ExitCode {
    let Ok(program) = std::env::current_exe() else { return ExitCode::FAILURE };
    let child = match Command::new(&program).arg(CASE).spawn() {
        Ok(child) => child,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{}: {error}", program.display());
            return ExitCode::FAILURE;
        }
    };
    let child = Pid::from_child(&child);
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == child => {
                let code = status.exit_status().and_then(|code| u8::try_from(code).ok());
                return code.map_or(ExitCode::FAILURE, ExitCode::from);
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return ExitCode::FAILURE,
        }
    }
}

/// Reads the case from the standard input, and prints what was found.
fn run_case() -> ExitCode {
    let mut text = String::new();
    let job = std::io::stdin().read_to_string(&mut text).map_err(|error| error.to_string());
    let job = job.and_then(|_| serde_json::from_str(&text).map_err(|error| error.to_string()));
    let verdict = job.map_err(Finding::unfit).and_then(|Job { case, port, folder, kept }| {
        let case = Case::read(case).map_err(Finding::unfit)?;
        run(&case, &port, &folder, &kept)
    });
    let printed = serde_json::to_writer(std::io::stdout(), &verdict);
    if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
