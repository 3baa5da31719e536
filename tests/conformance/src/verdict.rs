//! Judges a port by many cases side by side.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use crate::capability::Capability;
use crate::cases::Named;
use crate::finding::Finding;
use crate::host::Need;
use crate::isolation;
use crate::port::Port;
use crate::shim::{Failure, Hello, Shim};
use crate::step::Step;

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The port passes it.
    Pass,
    /// The port doesn't, or can't be judged by it.
    Fail(Finding),
    /// It wasn't run: this machine or the port lacks something.
    Skip(String),
    /// It fails, and `shim.toml` says why.
    Disabled {
        /// The reason that `shim.toml` gives.
        reason: String,
        /// What was seen.
        finding: Finding,
    },
    /// It passes, though `shim.toml` disables it for this reason.
    NeedlesslyDisabled(String),
}

impl Outcome {
    /// Whether the port, or its `shim.toml`, has to be mended.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Fail(_) | Self::NeedlesslyDisabled(_))
    }
}

/// A case that is done.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The case.
    pub named: Named,
    /// What became of it.
    pub outcome: Outcome,
    /// The case's folder, if it is kept.
    pub folder: Option<PathBuf>,
    /// How long it took.
    pub took: Duration,
}

/// What a port says of itself, asked in a folder of its own.
///
/// # Errors
///
/// Its shim can't be started, or doesn't answer by the protocol.
pub fn hello(port: &Port, folder: &Path) -> Result<Hello, Failure> {
    let shim = Shim::start(&port.argv, folder, "hello", port.patience)?;
    Ok(shim.hello().clone())
}

/// Why a case isn't run: what this machine lacks for it, or what the port leaves out.
#[must_use]
pub fn reason_to_skip(named: &Named, hello: &Hello) -> Option<String> {
    let unmet = Need::of(&named.case).into_iter().find_map(|need| {
        let why = need.probe().as_ref().err()?;
        Some(format!("this machine lacks {}: {why}; {}", need.name(), need.advice()))
    });
    unmet.or_else(|| left_out(hello, |capability| capability.is_wanted_by(&named.case)))
}

/// What the port leaves out of that which is wanted, and why.
pub fn left_out(hello: &Hello, is_wanted: impl Fn(Capability) -> bool) -> Option<String> {
    let (capability, why) = hello.lacks.iter().find(|(capability, _)| is_wanted(**capability))?;
    Some(format!("the port leaves out {capability}: {why}"))
}

/// A port that is to be judged, and where.
pub(crate) struct Judge<'a> {
    pub(crate) port: &'a Port,
    pub(crate) hello: &'a Hello,
    /// Each case gets a folder of its name there.
    pub(crate) folder: &'a Path,
    /// The folders of cases that pass are kept too.
    pub(crate) keeps_all: bool,
    /// No case is begun once one has failed.
    pub(crate) fails_fast: bool,
}

impl Judge<'_> {
    /// Judges by all cases, `jobs` of them at a time; tells of each that is begun and done. The
    /// verdicts are sorted by the cases' names.
    pub(crate) fn judge(
        &self,
        cases: &[Named],
        jobs: usize,
        mut done: impl FnMut(&Verdict),
    ) -> Vec<Verdict> {
        let mut queue: Vec<&Named> = cases.iter().collect();
        queue.sort_by_key(|named| waits(named));
        if !self.fails_fast {
            // What takes longest begins first, so that nothing is waited for alone.
            queue.reverse();
        }
        let queue = Mutex::new(VecDeque::from(queue));
        let (sender, verdicts) = mpsc::channel();
        let mut all = Vec::with_capacity(cases.len());
        std::thread::scope(|scope| {
            for _ in 0..jobs.clamp(1, cases.len().max(1)) {
                let (sender, queue) = (sender.clone(), &queue);
                scope.spawn(move || {
                    let next = || queue.lock().ok()?.pop_front();
                    while let Some(named) = next() {
                        let verdict = self.judge_one(named);
                        if self.fails_fast
                            && verdict.outcome.is_failure()
                            && let Ok(mut queue) = queue.lock()
                        {
                            queue.clear();
                        }
                        if sender.send(verdict).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            for verdict in verdicts {
                done(&verdict);
                all.push(verdict);
            }
        });
        all.sort_by(|one, other| one.named.name.cmp(&other.named.name));
        all
    }

    fn judge_one(&self, named: &Named) -> Verdict {
        let begun = Instant::now();
        let folder = self.folder.join(&named.name);
        let reason = self.barred(named).or_else(|| reason_to_skip(named, self.hello));
        let outcome = match reason {
            Some(reason) => Outcome::Skip(reason),
            None => self.outcome(named, &folder),
        };
        let is_kept = self.keeps_all || outcome.is_failure();
        if is_kept {
            crate::folder::describe(&folder);
        } else {
            // Another user's file may be left in it; the operating system's cleaner gets that.
            let _ = std::fs::remove_dir_all(&folder);
        }
        let folder = Some(folder).filter(|folder| is_kept && folder.exists());
        Verdict { named: named.clone(), outcome, folder, took: begun.elapsed() }
    }

    /// Why root, once it has no powers, doesn't come to a case.
    fn barred(&self, named: &Named) -> Option<String> {
        let closed = self.port.barrier(&named.case, self.folder)?;
        let closed = closed.display();
        Some(format!("root can't pass {closed} without its powers; chmod o+x {closed}"))
    }

    fn outcome(&self, named: &Named, folder: &Path) -> Outcome {
        let told = |error: std::io::Error| format!("{}: {error}", folder.display());
        let judged = match std::fs::create_dir(folder).map_err(told) {
            Ok(()) => isolation::judge(&named.case, self.port, folder, &self.folder.join("images")),
            Err(error) => Err(Finding::unfit(error)),
        };
        match (judged, self.port.config.disabled.get(&named.name).cloned()) {
            (Ok(()), None) => Outcome::Pass,
            (Ok(()), Some(reason)) => Outcome::NeedlesslyDisabled(reason),
            // Whatever can't be judged isn't what the reason speaks of.
            (Err(finding), Some(reason)) if !matches!(finding.failure, Failure::Unfit(_)) => {
                Outcome::Disabled { reason, finding }
            }
            (Err(finding), _) => Outcome::Fail(finding),
        }
    }
}

/// For how long a case lets time pass, in milliseconds.
fn waits(named: &Named) -> u64 {
    let wait = |step: &Step| match step {
        Step::Wait { ms, .. } | Step::Hang { ms, .. } => *ms,
        _ => 0,
    };
    named.case.steps.iter().map(|step| wait(step.get_ref())).sum()
}
