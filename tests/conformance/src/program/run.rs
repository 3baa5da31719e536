//! `run`: judges a port.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::exit::{Exit, Stop};
use super::select::Select;
use super::{list, tell};
use crate::cases::Named;
use crate::folder::Folder;
use crate::port::{PATIENCE, Port};
use crate::report::{self, Report, Selection};
use crate::shim::Hello;
use crate::verdict::{self, Judge, Outcome, Verdict};

const EXAMPLES: &str = "\
Examples:
  overlay-pool-conformance run --shim 'python3 shim.py'
  overlay-pool-conformance run --shim ./shim --level core
  overlay-pool-conformance run --shim ./shim --rule A5 --keep looked-at
  overlay-pool-conformance run --shim ./shim --json verdict.json --html verdict.html
  overlay-pool-conformance run --list --level core";

/// Judge a port by its shim (the protocol stands in SHIM.md, which `export` writes).
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{}", super::exit::CODES))]
pub(super) struct Run {
    /// The command of the port's shim, split as a shell splits it. It runs in each case's folder;
    /// words that name a file here are made absolute.
    #[arg(long, value_name = "COMMAND", required_unless_present = "list")]
    shim: Option<String>,

    /// The port's shim.toml, if it doesn't lie beside the shim.
    #[arg(long, value_name = "FILE")]
    shim_config: Option<PathBuf>,

    #[command(flatten)]
    select: Select,

    /// List the selected cases, and run none.
    #[arg(long)]
    list: bool,

    /// How many cases run side by side [default: twice the processors].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,

    /// How long the port may take to answer, and to come to a state that a case waits for. A port
    /// that fails is judged sooner with less.
    #[arg(long, value_name = "SECONDS", default_value_t = PATIENCE.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    patience: u64,

    /// Begin no case once one has failed.
    #[arg(long, conflicts_with = "badge")]
    fail_fast: bool,

    /// Keep the folders of all cases in this directory, which must be empty or missing. Without it
    /// those of failed cases are kept in the directory for temporary files.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,

    /// Fail if this machine lacks something that a selected case needs.
    #[arg(long)]
    strict: bool,

    /// Write the report as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write the report as `JUnit` has it, in XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,

    /// Write a badge for a README, as SVG. It speaks of a whole level.
    #[arg(long, value_name = "FILE")]
    badge: Option<PathBuf>,

    /// Write the report as one page of HTML.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl Run {
    pub(super) fn run(&self) -> Result<Exit, Stop> {
        let all = self.select.all()?;
        let cases = self.select.of(&all)?;
        if self.list {
            return match list::print(&cases) {
                // Whoever closed the pipe has what they wanted.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    Err(Stop::not_judged(error.to_string()))
                }
                _ => Ok(Exit::Passed),
            };
        }
        let port = self.port(&all)?;
        let folder = Folder::make(self.keep.as_deref()).map_err(|error| {
            let named = self.keep.as_deref().unwrap_or(Path::new("a folder for temporary files"));
            Stop::usage(format!("{}: {error}", named.display()))
        })?;
        let hello = match hello(&port, folder.path()) {
            Ok(hello) => hello,
            Err(stop) => {
                folder.keep();
                return Err(stop);
            }
        };
        let lacks_something = tell::lacks(&cases, &port, folder.path());
        let verdicts = self.judge(&cases, &port, &hello, &folder);
        let selection =
            Selection { is_cut_short: verdicts.len() < cases.len(), ..self.select.told() };
        let report = Report::new(&port, &hello, selection, &verdicts, |id| {
            let proves = |named: &&Named| named.case.promises.iter().any(|its| its.meets(id));
            self.select.of_level(&all).filter(proves).count()
        });
        tell::failures(&report);
        if self.keep.is_some() || verdicts.iter().any(|verdict| verdict.folder.is_some()) {
            folder.keep();
        }
        self.write(&report)?;
        tell::summary(&report);
        Ok(self.exit(&verdicts, lacks_something))
    }

    fn port(&self, all: &[Named]) -> Result<Port, Stop> {
        let command = self.shim.as_deref().unwrap_or_default();
        let port = Port::of_command(command, self.shim_config.as_deref());
        let mut port = port.map_err(|error| Stop::usage(error.to_string()))?;
        port.patience = Duration::from_secs(self.patience);
        let is_unknown = |name: &&String| all.iter().all(|named| named.name != **name);
        match port.config.disabled.keys().find(is_unknown) {
            Some(name) => Err(Stop::usage(format!("shim.toml disables {name}, which is no case"))),
            None => Ok(port),
        }
    }

    fn judge(&self, cases: &[Named], port: &Port, hello: &Hello, folder: &Folder) -> Vec<Verdict> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = self.jobs.map_or(2 * processors, usize::from);
        let judge = Judge {
            port,
            hello,
            folder: folder.path(),
            keeps_all: self.keep.is_some(),
            fails_fast: self.fail_fast,
        };
        let progress = tell::progress(cases.len());
        let mut failed = 0;
        let verdicts = judge.judge(cases, jobs, |verdict| {
            if verdict.outcome.is_failure() {
                failed += 1;
                progress.println(format!("failed: {}", verdict.named.name));
                progress.set_message(format!("{failed} failed"));
            }
            progress.inc(1);
        });
        progress.finish_and_clear();
        verdicts
    }

    fn write(&self, report: &Report) -> Result<(), Stop> {
        let failed = |path: &Path, error: &dyn std::fmt::Display| {
            Stop::not_judged(format!("{}: {error}", path.display()))
        };
        let to = |path: &Option<PathBuf>, text: &str| match path {
            Some(path) => std::fs::write(path, text).map_err(|error| failed(path, &error)),
            None => Ok(()),
        };
        let json = serde_json::to_string_pretty(report)
            .map_err(|error| Stop::not_judged(error.to_string()))?;
        to(&self.json, &(json + "\n"))?;
        to(
            &self.junit,
            &report::junit(report).map_err(|error| Stop::not_judged(error.to_string()))?,
        )?;
        to(&self.badge, &report::badge(report))?;
        to(&self.html, &report::html(report))
    }

    fn exit(&self, verdicts: &[Verdict], lacks_something: bool) -> Exit {
        let is_skipped = |verdict: &Verdict| matches!(verdict.outcome, Outcome::Skip(_));
        if verdicts.iter().any(|verdict| verdict.outcome.is_failure()) {
            Exit::Failed
        } else if verdicts.iter().all(is_skipped) {
            Exit::NotJudged
        } else if self.strict && lacks_something {
            Exit::Failed
        } else {
            Exit::Passed
        }
    }
}

/// What the port says of itself, in a folder that is gone unless that fails.
fn hello(port: &Port, folder: &Path) -> Result<Hello, Stop> {
    let folder = folder.join("hello");
    std::fs::create_dir(&folder)
        .map_err(|error| Stop::not_judged(format!("{}: {error}", folder.display())))?;
    let hello = verdict::hello(port, &folder).map_err(|failure| {
        Stop::not_judged(format!("{failure}\nits folder is {}", folder.display()))
    })?;
    let _ = std::fs::remove_dir_all(&folder);
    Ok(hello)
}
