//! `doctor`: what a pool finds on this machine, and what to do about what is missing.

mod guests;
mod place;
mod programs;
mod server;

use std::fmt::{self, Write};
use std::path::PathBuf;

use overlay_pool::vm::kvm::{self, Kvm};
use serde_json::{Value, json};

use super::arguments::{PoolDir, Socket};
use super::exit::Exit;
use super::failure::Failure;
use super::{Answer, block_on, text};

const EXAMPLES: &str = "\
Each line begins with `ok`, with `note` if a pool works without it, or with `bad` if it doesn't. If
a line is bad, the exit code is 1. With -v some lines have details below.

Examples:
  overlay-pool doctor
  overlay-pool doctor -v
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
    #[command(flatten)]
    socket: Socket,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Doctor {
    /// With `verbose`, each finding has its details.
    pub(super) fn run(self, verbose: bool) -> Result<Answer, Failure> {
        let dir = self.dir.path();
        let mut findings = block_on(programs::look())?;
        findings.push(kvm(kvm::probe()));
        findings.extend(guests::look());
        findings.extend(place::look(&dir));
        findings.extend(self.targets.iter().map(|targets| place::targets(&dir, targets)));
        findings.push(block_on(server::look(self.socket))?);

        let mut failures = Vec::new();
        let bad = findings.iter().filter(|finding| finding.state == State::Bad).count();
        if bad > 0 {
            let cause = format!("{bad} of {} findings are bad", findings.len());
            failures.push(Failure::new(Exit::Failed, cause, "each line says what to do"));
        }
        if self.json {
            let findings: Vec<_> = findings.iter().map(Finding::json).collect();
            return Ok(Answer::json(json!({ "findings": findings }), failures));
        }
        let mut text = String::new();
        for finding in &findings {
            let _ = writeln!(text, "{finding}");
            if verbose && !finding.details.is_empty() {
                let _ = writeln!(text, "      {}", text::escaped(&finding.details));
            }
        }
        Ok(Answer { text, failures, ..Answer::default() })
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

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Bad => "bad",
        }
    }
}

/// One line: what was looked at, what was found, what to do about it.
#[derive(Debug)]
struct Finding {
    state: State,
    what: &'static str,
    found: String,
    advice: &'static str,
    /// Shown where more was asked for.
    details: String,
}

impl Finding {
    fn ok(what: &'static str, found: impl fmt::Display) -> Self {
        Self::new(State::Ok, what, found, "")
    }

    fn note(what: &'static str, found: impl fmt::Display, advice: &'static str) -> Self {
        Self::new(State::Note, what, found, advice)
    }

    fn bad(what: &'static str, found: impl fmt::Display, advice: &'static str) -> Self {
        Self::new(State::Bad, what, found, advice)
    }

    fn new(
        state: State,
        what: &'static str,
        found: impl fmt::Display,
        advice: &'static str,
    ) -> Self {
        Self { state, what, found: found.to_string(), advice, details: String::new() }
    }

    fn json(&self) -> Value {
        let Self { state, what, found, advice, details } = self;
        json!({
            "state": state.as_str(), "what": what, "found": found, "advice": advice,
            "details": details,
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.as_str();
        write!(f, "{state:<6}{:<22}{}", self.what, text::escaped(&self.found))?;
        if self.advice.is_empty() { Ok(()) } else { write!(f, "; {}", self.advice) }
    }
}

fn kvm(kvm: &Kvm) -> Finding {
    const WHAT: &str = "kvm";
    // What it is, and behind a colon the reasons.
    let said = kvm.to_string();
    let (kind, reasons) = said.split_once(": ").unwrap_or((&said, ""));
    let finding = match kvm {
        Kvm::Usable { .. } => Finding::ok(WHAT, kind),
        Kvm::PresentOnly { .. } => Finding::note(
            WHAT,
            format!("{kind}, runs no guests"),
            "boot guests with --accel tcg, or use a host that virtualizes in hardware",
        ),
        Kvm::Forbidden { .. } => Finding::note(
            WHAT,
            format!("{kind} to this user"),
            "let it open /dev/kvm (Debian: sudo usermod --append --groups kvm USER, and log in anew), \
             or boot guests with --accel tcg",
        ),
        Kvm::Absent { .. } => Finding::note(
            WHAT,
            kind,
            "boot guests with --accel tcg, or turn virtualization on in the firmware and load \
             kvm_intel or kvm_amd",
        ),
    };
    Finding { details: reasons.to_owned(), ..finding }
}
