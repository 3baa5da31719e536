//! What was judged, as data; the other modules write it.

mod badge;
mod html;
mod junit;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

pub(crate) use badge::badge;
pub(crate) use html::html;
pub(crate) use junit::junit;

use crate::capability::Capability;
use crate::contract::{self, Promise};
use crate::finding::Place;
use crate::host::Need;
use crate::id::Id;
use crate::isolation;
use crate::level::Level;
use crate::port::Port;
use crate::shim::{Failure, Hello};
use crate::verdict::{self, Outcome, Verdict};

/// The version of the report's own form; it grows when a field changes its meaning or goes.
const SCHEMA: u32 = 1;

/// Everything that a run has to tell.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    schema: u32,
    /// The version of the contract.
    pub(crate) contract: &'static str,
    /// The version of the cases and the program.
    suite: &'static str,
    pub(crate) port: PortReport,
    host: Host,
    selection: Selection,
    /// Cases by their verdict.
    pub(crate) counts: BTreeMap<Word, usize>,
    pub(crate) promises: Vec<PromiseReport>,
    pub(crate) cases: Vec<CaseReport>,
}

/// What a verdict is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Word {
    Pass,
    Skip,
    Disabled,
    Fail,
}

impl Word {
    pub(crate) const ALL: [Self; 4] = [Self::Fail, Self::Disabled, Self::Skip, Self::Pass];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Skip => "skip",
            Self::Disabled => "disabled",
            Self::Fail => "fail",
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct PortReport {
    pub(crate) name: String,
    pub(crate) version: Option<String>,
    command: Vec<String>,
    lacks: BTreeMap<Capability, String>,
}

/// The machine, as far as verdicts depend on it.
#[derive(Debug, Serialize)]
struct Host {
    system: String,
    architecture: &'static str,
    uid: u32,
    processors: usize,
    /// Whether each case had processes of its own, or why not.
    isolation: Found,
    needs: BTreeMap<&'static str, Found>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Found {
    Found(String),
    Missing(String),
}

impl Host {
    fn look() -> Self {
        let uname = rustix::system::uname();
        let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        let needs = Need::ALL.map(|need| {
            let found = match need.probe() {
                Ok(found) => Found::Found(found.clone()),
                Err(why) => Found::Missing(format!("{why}; {}", need.advice())),
            };
            (need.name(), found)
        });
        Self {
            system: format!("{} {}", text(uname.sysname()), text(uname.release())),
            architecture: std::env::consts::ARCH,
            uid: rustix::process::geteuid().as_raw(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            isolation: match isolation::probe() {
                Ok(command) => Found::Found(command.join(" ")),
                Err(why) => Found::Missing(why.to_owned()),
            },
            needs: needs.into(),
        }
    }
}

/// By what the port was judged; empty lists stand for all.
#[derive(Debug, Serialize)]
pub(crate) struct Selection {
    pub(crate) level: Level,
    pub(crate) rules: Vec<Id>,
    pub(crate) cases: Vec<String>,
    /// Where the cases came from, if they weren't the program's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) folder: Option<PathBuf>,
    /// A failure ended it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_cut_short: bool,
}

impl Selection {
    fn has(&self, id: Id) -> bool {
        let rules = &self.rules;
        Level::of(id) <= self.level
            && (rules.is_empty() || rules.iter().any(|rule| id.meets(*rule)))
    }
}

/// A promise, with the worst verdict of the cases that prove it.
#[derive(Debug, Serialize)]
pub(crate) struct PromiseReport {
    pub(crate) id: Id,
    pub(crate) section: &'static str,
    pub(crate) text: String,
    pub(crate) verdict: Word,
    /// Why, if it isn't passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// The cases that were judged by.
    pub(crate) cases: Vec<String>,
    /// How many cases of the level there are.
    pub(crate) of: usize,
}

#[derive(Debug, Serialize)]
pub(crate) struct CaseReport {
    pub(crate) name: String,
    pub(crate) about: String,
    pub(crate) promises: Vec<Id>,
    pub(crate) verdict: Word,
    /// Why it is skipped or disabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// What was seen, if it failed, disabled or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<FailureReport>,
    /// Its folder, if that is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) folder: Option<PathBuf>,
    pub(crate) seconds: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct FailureReport {
    /// `broken`, `not implemented`, `can't be judged`, or `needlessly disabled`.
    pub(crate) kind: &'static str,
    /// The rule or promise that was seen broken, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) promise: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) step: Option<Place>,
    pub(crate) expected: String,
    pub(crate) seen: String,
}

impl CaseReport {
    pub(crate) fn of(verdict: &Verdict) -> Self {
        let case = &verdict.named.case;
        let (word, reason, failure) = match &verdict.outcome {
            Outcome::Pass => (Word::Pass, None, None),
            Outcome::Skip(reason) => (Word::Skip, Some(reason.clone()), None),
            Outcome::Disabled { reason, finding } => (
                Word::Disabled,
                Some(reason.clone()),
                Some(FailureReport::of(finding, &case.about)),
            ),
            Outcome::Fail(finding) => {
                (Word::Fail, None, Some(FailureReport::of(finding, &case.about)))
            }
            Outcome::NeedlesslyDisabled(reason) => {
                let failure = FailureReport {
                    kind: "needlessly disabled",
                    promise: None,
                    step: None,
                    expected: format!("it fails, as shim.toml says: {reason}"),
                    seen: "it passes; take it out of [disabled]".to_owned(),
                };
                (Word::Fail, None, Some(failure))
            }
        };
        Self {
            name: verdict.named.name.clone(),
            about: case.about.clone(),
            promises: case.promises.clone(),
            verdict: word,
            reason,
            failure,
            folder: verdict.folder.clone(),
            seconds: verdict.took.as_secs_f64(),
        }
    }
}

/// A step in which the middle of each name of more than 80 characters is left out.
fn shortened(text: &str) -> String {
    let mut short = String::new();
    for word in text.split_inclusive(['"', '/']) {
        let letters: Vec<char> = word.chars().collect();
        match &letters[..] {
            [first @ .., _] if first.len() > 80 => {
                short.extend(&letters[..30]);
                short.push('…');
                short.extend(&letters[letters.len() - 20..]);
            }
            _ => short += word,
        }
    }
    short
}

impl FailureReport {
    fn of(finding: &crate::finding::Finding, about: &str) -> Self {
        let (promise, seen) = match finding.failure {
            Failure::Broken(_) => finding.promise(),
            _ => (None, finding.failure.what()),
        };
        Self {
            kind: finding.failure.kind(),
            promise,
            step: finding.step.clone(),
            expected: about.to_owned(),
            seen: seen.to_owned(),
        }
    }
}

impl Report {
    /// `proves` gives the number of cases that there are of a promise.
    pub(crate) fn new(
        port: &Port,
        hello: &Hello,
        selection: Selection,
        verdicts: &[Verdict],
        proves: impl Fn(Id) -> usize,
    ) -> Self {
        let cases: Vec<CaseReport> = verdicts.iter().map(CaseReport::of).collect();
        let mut counts: BTreeMap<Word, usize> = Word::ALL.map(|word| (word, 0)).into();
        for case in &cases {
            *counts.entry(case.verdict).or_default() += 1;
        }
        let is_told = |id: Id| {
            let is_broken = cases.iter().any(|case| case.broken() == Some(id));
            selection.has(id) || is_broken
        };
        let selected = contract::promises().into_iter().filter(|promise| is_told(promise.id));
        let promise = |promise: Promise| {
            let its = PromiseReport::of(promise, &cases, &proves)?;
            let left_out = verdict::left_out(hello, |capability| capability.is_wanted_for(its.id));
            match left_out.filter(|_| its.verdict == Word::Pass) {
                None => Some(its),
                reason => Some(PromiseReport { verdict: Word::Skip, reason, ..its }),
            }
        };
        Self {
            schema: SCHEMA,
            contract: contract::version(),
            suite: env!("CARGO_PKG_VERSION"),
            port: PortReport {
                name: hello.name.clone(),
                version: hello.version.clone(),
                command: port.argv.clone(),
                lacks: hello.lacks.clone(),
            },
            host: Host::look(),
            counts,
            promises: selected.filter_map(promise).collect(),
            selection,
            cases,
        }
    }

    /// Whether all cases of a level were selected, of those in the program: only then a passed
    /// promise is kept.
    pub(crate) fn is_whole(&self) -> bool {
        let Selection { rules, cases, folder, is_cut_short, .. } = &self.selection;
        rules.is_empty() && cases.is_empty() && folder.is_none() && !is_cut_short
    }

    /// The contract, with its version and the level.
    pub(crate) fn contract_name(&self) -> String {
        match self.selection.level {
            Level::Full => format!("contract {}", self.contract),
            level => format!("contract {}, level {level}", self.contract),
        }
    }

    /// How many of the promises are kept.
    pub(crate) fn kept(&self) -> usize {
        self.promises.iter().filter(|promise| promise.verdict == Word::Pass).count()
    }

    pub(crate) fn count(&self, word: Word) -> usize {
        self.counts.get(&word).copied().unwrap_or(0)
    }

    /// The port's name, with its version.
    pub(crate) fn port_name(&self) -> String {
        let name = if self.port.name.is_empty() { "a port" } else { &self.port.name };
        self.port.version.iter().fold(name.to_owned(), |name, version| format!("{name} {version}"))
    }
}

impl PromiseReport {
    /// Nothing where no case was judged by: that is no verdict.
    fn of(promise: Promise, cases: &[CaseReport], proves: impl Fn(Id) -> usize) -> Option<Self> {
        let Promise { id, section, text } = promise;
        let its: Vec<&CaseReport> = cases.iter().filter(|case| case.speaks_of(id)).collect();
        let verdicts = its.iter().map(|case| case.verdict_on(id));
        let (verdict, reason) = verdicts.max_by_key(|(word, _)| *word)?;
        Some(Self {
            id,
            section,
            text,
            verdict,
            reason,
            cases: its.iter().map(|case| case.name.clone()).collect(),
            of: proves(id),
        })
    }
}

impl CaseReport {
    /// The rule or promise that it was seen to break.
    fn broken(&self) -> Option<Id> {
        self.failure.as_ref().filter(|_| self.verdict == Word::Fail)?.promise
    }

    /// Whether it proves this promise, or has seen it broken.
    fn speaks_of(&self, id: Id) -> bool {
        self.promises.iter().any(|its| its.meets(id)) || self.broken() == Some(id)
    }

    /// What it says of a promise: if another one was broken, nothing.
    fn verdict_on(&self, id: Id) -> (Word, Option<String>) {
        let Self { name, reason, .. } = self;
        match (self.verdict, self.broken()) {
            (Word::Pass, _) => (Word::Pass, None),
            (Word::Fail, Some(broken)) if !broken.meets(id) => {
                (Word::Skip, Some(format!("{name} didn't come to this, it fails for {broken}")))
            }
            (Word::Fail, _) => (Word::Fail, Some(format!("{name} fails"))),
            (word, _) => (word, Some(format!("{name}: {}", reason.as_deref().unwrap_or_default()))),
        }
    }
}

impl FailureReport {
    /// All of it, in lines.
    pub(crate) fn told(&self, case: &CaseReport) -> String {
        let mut lines = Vec::new();
        let mut tell = |name: &str, value: &str| {
            lines.push(format!("{name:9}{}", value.replace('\n', "\n         ")));
        };
        tell("expected", &self.expected);
        if let Some(Place { number, written }) = &self.step {
            tell("step", &format!("{number}, {}", shortened(written)));
        }
        match self.promise {
            Some(id) => tell("seen", &format!("{}: {id}: {}", self.kind, self.seen)),
            None => tell("seen", &format!("{}: {}", self.kind, self.seen)),
        }
        if let Some(folder) = &case.folder {
            tell("folder", &folder.to_string_lossy());
        }
        lines.join("\n")
    }
}
