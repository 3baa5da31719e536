//! `doctor`: what a pool finds on this machine, and what to do about what is missing.

mod place;
mod programs;

use std::fmt::{self, Write};
use std::path::PathBuf;

use overlay_pool::vm::kvm::{self, Kvm};

use super::arguments::PoolDir;
use super::exit::Exit;
use super::failure::Failure;
use super::{Answer, block_on, text};

const EXAMPLES: &str = "\
Each line begins with `ok`, with `note` if a pool works without it, or with `bad` if it doesn't. If
a line is bad, the exit code is 1.

Examples:
  overlay-pool doctor
  overlay-pool doctor --dir /var/lib/vms/pool --targets /var/lib/vms/run";

/// Show what a pool finds on this machine, and what to do about what is missing.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Doctor {
    #[command(flatten)]
    dir: PoolDir,
    /// A directory for targets: doctor tries whether ready overlays can be moved there. Can be
    /// given again.
    #[arg(long, value_name = "DIR")]
    targets: Vec<PathBuf>,
}

impl Doctor {
    pub(super) fn run(self) -> Result<Answer, Failure> {
        let mut findings = block_on(programs::look())?;
        findings.push(kvm(kvm::probe()));
        let dir = self.dir.path();
        findings.extend(place::look(&dir));
        findings.extend(self.targets.iter().map(|targets| place::targets(&dir, targets)));

        let mut answer = Answer::default();
        for finding in &findings {
            let _ = writeln!(answer.text, "{finding}");
        }
        let bad = findings.iter().filter(|finding| finding.state == State::Bad).count();
        if bad > 0 {
            let cause = format!("{bad} of {} findings are bad", findings.len());
            answer.failures.push(Failure::new(Exit::Failed, cause, "each line says what to do"));
        }
        Ok(answer)
    }
}

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ok,
    /// A pool can do without.
    Note,
    /// A pool can't.
    Bad,
}

/// One line: what was looked at, what was found, what to do about it.
#[derive(Debug)]
struct Finding {
    state: State,
    what: &'static str,
    found: String,
    advice: &'static str,
}

impl Finding {
    fn ok(what: &'static str, found: impl fmt::Display) -> Self {
        Self { state: State::Ok, what, found: found.to_string(), advice: "" }
    }

    fn note(what: &'static str, found: impl fmt::Display, advice: &'static str) -> Self {
        Self { state: State::Note, what, found: found.to_string(), advice }
    }

    fn bad(what: &'static str, found: impl fmt::Display, advice: &'static str) -> Self {
        Self { state: State::Bad, what, found: found.to_string(), advice }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Ok => "ok",
            State::Note => "note",
            State::Bad => "bad",
        };
        write!(f, "{state:<6}{:<22}{}", self.what, text::escaped(&self.found))?;
        if self.advice.is_empty() { Ok(()) } else { write!(f, "; {}", self.advice) }
    }
}

fn kvm(kvm: &Kvm) -> Finding {
    let advice = match kvm {
        Kvm::Usable { .. } => return Finding::ok("kvm", kvm),
        Kvm::PresentOnly { .. } => {
            "boot guests with TCG, or use a host whose /dev/kvm this user may open and that \
             virtualizes in hardware"
        }
        Kvm::Absent { .. } => {
            "boot guests with TCG, or turn virtualization on in the firmware and load kvm_intel \
             or kvm_amd"
        }
    };
    Finding::note("kvm", kvm, advice)
}
