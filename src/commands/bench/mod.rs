//! `bench`: what the pool does on this machine, beside what it can't beat.

mod figures;
mod ground;
mod measure;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use overlay_pool::creator::CreatorKind;
use overlay_pool::image::{BaseImage, OverlayOptions, References};
use tokio::{runtime::Runtime, task::JoinSet};

use self::figures::{Columns, Figures, Row, judge, table};
use super::failure::{Failure, system};
use super::{Answer, arguments, exec, exit::Exit, filesystem, text, version};

const EXAMPLES: &str = "\
All overlays are checked. If one is bad, or a target is missed, the exit code is 1. Everything that
was made is removed. `cargo bench` has more: a large pool, the server, VMs.

Examples:
  overlay-pool bench --dir /var/lib/vms --creator native --json";

const LEGEND: &str = "Indented rows were measured alternately with the row above.";
const ROWS: [Row; 16] = [
    ("overlays", "overlays", None),
    ("pooled_p50_us", "pooled acquire p50, µs", None),
    ("pooled_bare_p50_us", "  bare renameat2, µs", None),
    ("pooled_by_bare", "  acquire ÷ renameat2", Some(("native", '≤', 1.5))),
    ("pooled_qemu_img_p50_us", "  qemu-img create, µs", None),
    ("qemu_img_by_pooled", "  qemu-img create ÷ acquire", Some(("native", '≥', 100.0))),
    ("pooled_p99_us", "pooled acquire p99, µs", None),
    ("acquires_per_s_64_tasks", "pooled acquires/s, 64 tasks", None),
    ("on_demand_p50_us", "on-demand acquire p50, µs", None),
    ("on_demand_bare_p50_us", "  bare create + pwrite, µs", None),
    ("on_demand_by_bare", "  acquire ÷ create + pwrite", Some(("native", '≤', 1.5))),
    ("on_demand_qemu_img_p50_us", "  qemu-img create, µs", None),
    ("on_demand_p99_us", "on-demand acquire p99, µs", None),
    ("stock_us", "stocking an overlay, mean, µs", None),
    ("stock_by_qemu_img", "stocking ÷ qemu-img create", Some(("native", '≤', 0.02))),
    ("disk_kib", "disk of an overlay, KiB", None),
];

/// Measure the pool on this machine, beside qemu-img and bare system calls.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Bench {
    /// Where to measure: in a new folder there, on that filesystem.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Which creator to measure; can be given again. All that this machine has by default.
    #[arg(long = "creator", value_name = "CREATOR", value_parser = arguments::creator())]
    creators: Vec<CreatorKind>,
    /// How many overlays to make on demand and ahead; those that run QEMU make fewer.
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// Print the figures as one JSON object.
    #[arg(long)]
    json: bool,
}

impl Bench {
    pub(super) fn run(self) -> Result<Answer, Failure> {
        let folder = self.dir.canonicalize().and_then(|dir| ground::folder(&dir));
        let folder = folder.map_err(at(&self.dir))?;
        let path = folder.path().to_owned();
        // The runtime ends before the folder is removed, and with it whatever writes there.
        let answer = Runtime::new().map_err(failed)?.block_on(async {
            let mut task = JoinSet::from_iter([self.measure(path)]);
            tokio::select! {
                Some(answer) = task.join_next() => answer.map_err(failed)?,
                signal = exec::interrupted() => {
                    Err(Failure::new(signal.exit(), "interrupted; all it made is removed", ""))
                }
            }
        });
        folder.close().map_err(failed)?;
        answer
    }

    async fn measure(self, folder: PathBuf) -> Result<Answer, Failure> {
        let version = version::version("qemu-img").await.ok();
        let (qemu, filesystem) = (version.is_some(), filesystem::name(&folder).map_err(failed)?);
        let machine = ground::machine(&filesystem, version.as_deref()).map_err(failed)?;
        let base = &ground::make_base(&folder).map_err(at(&folder))?;
        let overlay =
            &BaseImage::open(base, References::Deny)?.overlay(OverlayOptions::default())?;
        let (mut columns, mut missing, mut sound) = (Columns::new(), BTreeMap::new(), 0);
        let bar = ProgressBar::new_spinner();
        let wanted = |kind: &CreatorKind| self.creators.is_empty() || self.creators.contains(kind);
        for kind in CreatorKind::ALL.into_iter().filter(wanted) {
            // Those that run QEMU take milliseconds for each.
            let count = (self.count / [1, 5, 10][kind as usize]).max(16).min(self.count);
            let dir = ground::folder(&folder).map_err(at(&folder))?;
            let (dir, made, figures) = (dir.path(), Vec::new(), Figures::default());
            let mut bench = measure::Bench { base, overlay, qemu, kind, count, dir, made, figures };
            let (name, lacking) = (kind.as_str(), Exit::CreatorUnavailable);
            match bench.measure(|what| bar.set_message(format!("{name}: {what}"))).await {
                Err(why) if why.exit() == lacking && self.creators.is_empty() => {
                    missing.insert(name, why.to_string());
                    continue;
                }
                measured => measured?,
            }
            let checked = ground::check(&bench.made, overlay, kind == CreatorKind::Native, qemu);
            checked.map_err(|error| failed(format!("creator {name}: {error}")))?;
            sound += bench.made.len();
            columns.insert(name, bench.figures);
        }
        bar.finish_and_clear();
        // On tmpfs the `statx` of the base image alone is a third of a rename.
        let unless = Some(&*filesystem).filter(|name| *name == filesystem::TMPFS);
        let targets = judge(&ROWS, &columns, unless);
        let missed = targets.iter().filter(|target| target.verdict == "missed").count();
        let missed = (missed > 0).then(|| failed(format!("{missed} targets were missed")));
        let failures = missed.into_iter().collect();
        if self.json {
            let facts = serde_json::json!({ "machine": machine, "creators": columns,
                "missing": missing, "targets": targets, "sound": sound });
            return Ok(Answer::json(facts, failures));
        }
        let missing: String =
            missing.values().map(|why| ["missing: ", why, "\n"].concat()).collect();
        let (machine, table) = (text::escaped(&machine), table(&ROWS, &columns, &targets));
        let text =
            format!("{machine}\n{missing}\n{table}\n\n{LEGEND} All {sound} overlays are sound.\n");
        Ok(Answer { text, failures, ..Answer::default() })
    }
}

/// What can't be made there.
fn at(folder: &Path) -> impl Fn(io::Error) -> Failure {
    move |error| {
        let advice = system(&error);
        Failure::new(Exit::Failed, format!("{}: {error}", folder.display()), advice)
    }
}

fn failed(cause: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, cause, "")
}
