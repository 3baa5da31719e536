//! `bench`: what the pool does on this machine, beside what it can't beat.

mod bare_daemon;
mod base;
mod check;
mod error;
mod floor;
mod machine;
mod measure;
mod qemu_img;
mod report;
mod samples;
mod scale;
mod serve;
mod table;
mod target;
mod vm;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use overlay_pool::creator::{CreatorKind, Tools};
use overlay_pool::image::{BaseImage, BaseRef, OverlayOptions, References};
use overlay_pool::vm::Accelerator;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use serde::Serialize;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use self::error::BenchError;
use self::machine::Machine;
use self::measure::Subject;
use self::qemu_img::QemuImg;
use self::report::{Base, Report};
use super::exit::Exit;
use super::failure::Failure;
use super::{Answer, arguments, text};

/// Where is measured by default, and where a server.
const DIR: &str = ".";
const TMPFS: &str = "/dev/shm";
/// How many overlays each creator makes by default.
const COUNT: u32 = 1000;
/// How many overlays a creator that runs QEMU makes at least.
const QEMU_LEAST: usize = 16;
/// How long a creator may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// What each creator goes through, and the large pool.
const STEPS: u64 = 3;
const SCALE_STEPS: u64 = 4;

const EXAMPLES: &str = "\
Figures stand beside what can't be beaten, measured in turns with them: a bare renameat2, a bare
create with the same writes, the same QMP commands sent bare; and beside qemu-img create. Every
overlay that was handed over is checked (those that --serve keeps, of the many that its clients
remove), and a single bad one fails the bench. All that was made is removed, also after a signal.

Examples:
  overlay-pool bench
  overlay-pool bench --base debian.qcow2 --dir /var/lib/vms
  overlay-pool bench --creator native --ready --json
  overlay-pool bench --serve --count 1000000
  overlay-pool bench --vm 5 --accel tcg";

/// Measure the pool on this machine, beside qemu-img and bare system calls.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Bench {
    /// The base image to measure on: qcow2, unless --raw. One is made by default.
    #[arg(long, value_name = "IMG")]
    base: Option<PathBuf>,
    /// The base image is raw.
    #[arg(long, requires = "base")]
    raw: bool,
    /// Where to measure: in a new folder there, on that filesystem. The working directory by
    /// default; /dev/shm with --serve.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Which creator to measure; can be given again. All that this machine has by default.
    #[arg(long = "creator", value_name = "CREATOR", value_parser = arguments::creator())]
    creators: Vec<CreatorKind>,
    /// How many overlays to make ahead and on demand, 1,000 by default; those that run QEMU make
    /// fewer. With --serve, how many to acquire of the server, 200,000 by default.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: Option<u32>,
    /// Measure also a native pool with N ready overlays (100,000 by default, on 1.2 GB of disk)
    /// beside one with 100.
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "100000",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    ready: Option<u32>,
    /// Measure a server under load instead: `overlay-pool serve` with 64 clients, in turns with the
    /// same load on a pool in this process.
    #[arg(long, conflicts_with_all = ["creators", "ready"])]
    serve: bool,
    /// Measure VMs instead: N booted and N resumed ones (3 by default) in turns, from the overlay
    /// to python's hello.
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "3",
          value_parser = clap::value_parser!(u32).range(1..=1000),
          conflicts_with_all = ["base", "creators", "count", "ready", "serve"])]
    vm: Option<u32>,
    /// What runs the VMs' instructions; `OVERLAY_POOL_ACCEL`, or else auto: KVM where it is
    /// usable, never TCG.
    #[arg(long, requires = "vm", value_parser = arguments::accelerator())]
    accel: Option<Accelerator>,
    /// Print the figures as one JSON object.
    #[arg(long)]
    json: bool,
}

impl Bench {
    /// Measures, and removes everything it made.
    pub(super) fn run(self) -> Result<Answer, Failure> {
        let json = self.json;
        if let Some(rounds) = self.vm {
            let dir = self.dir.unwrap_or_else(|| DIR.into());
            return vm::run(rounds, self.accel, &dir, json);
        }
        if self.serve {
            let dir = self.dir.clone().unwrap_or_else(|| TMPFS.into());
            return answer(&in_folder(&dir, |folder| self.measure_server(folder))?, json);
        }
        let dir = self.dir.clone().unwrap_or_else(|| DIR.into());
        answer(&in_folder(&dir, |folder| self.measure(folder))?, json)
    }

    async fn measure(self, folder: PathBuf) -> Result<Report, BenchError> {
        let (machine, base, subject) = self.prepare(&folder).await?;
        let (creators, missing) = choose_creators(&self.creators, &subject.tools).await?;
        let scale_steps = if self.ready.is_some() { SCALE_STEPS } else { 0 };
        let bar = progress_bar(creators.len() as u64 * STEPS + scale_steps);
        let step = |name: &str, what: &str| {
            bar.set_message(format!("{name}: {what}"));
            bar.inc(1);
        };
        let mut measured = BTreeMap::new();
        for kind in creators {
            let dir = new_folder(&folder)?;
            let count = count_for(kind, self.count.unwrap_or(COUNT) as usize);
            let progress = |what| step(kind.as_str(), what);
            let figures = measure::measure(&subject, kind, count, dir.path(), progress).await?;
            measured.insert(kind, figures);
            remove(dir)?;
        }
        let scale = match self.ready {
            Some(ready) => {
                let dir = new_folder(&folder)?;
                let progress = |what| step("large pool", what);
                Some(scale::measure(&subject, ready as usize, dir.path(), progress).await?)
            }
            None => None,
        };
        bar.finish_and_clear();
        Ok(Report::new(machine, base, &measured, missing, scale.as_ref()))
    }

    async fn measure_server(self, folder: PathBuf) -> Result<serve::Report, BenchError> {
        let (machine, base, subject) = self.prepare(&folder).await?;
        let bar = progress_bar(serve::STEPS);
        let progress = |what: &'static str| {
            bar.set_message(what);
            bar.inc(1);
        };
        let count = self.count.unwrap_or(serve::COUNT) as usize;
        let measured = serve::measure(&subject, count, &folder, progress).await?;
        bar.finish_and_clear();
        Ok(serve::Report::new(machine, base, &measured))
    }

    /// What is measured on.
    async fn prepare(&self, folder: &Path) -> Result<(Machine, Base, Subject), BenchError> {
        let tools = Tools::default();
        let machine = Machine::probe(folder, &tools.qemu_img).await;
        let qemu_img = machine.qemu.as_ref().map(|_| QemuImg(tools.qemu_img.clone()));
        let base = match &self.base {
            Some(path) if self.raw => BaseRef::raw(path),
            Some(path) => BaseRef::qcow2(path),
            None => base::make(folder, qemu_img.as_ref())?,
        };
        let image = BaseImage::open(&base, References::Deny)?;
        let overlay = Arc::new(image.overlay(OverlayOptions::default())?);
        let facts = Base::new(&base, image.virtual_size(), self.base.is_none());
        Ok((machine, facts, Subject { base, overlay, tools, qemu_img }))
    }
}

/// Measures in a new folder in `dir`, which is removed whatever comes of it.
fn in_folder<T, F>(dir: &Path, measure: impl FnOnce(PathBuf) -> F) -> Result<T, BenchError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, BenchError>> + Send + 'static,
{
    let parent = dir.canonicalize().map_err(BenchError::at(dir))?;
    let folder = new_folder(&parent)?;
    spread_folders(folder.path());
    let report = {
        // It ends before the folder is removed, and with it whatever still writes there.
        let runtime = Runtime::new().map_err(BenchError::at(folder.path()))?;
        runtime.block_on(unless_interrupted(measure(folder.path().to_owned())))
    };
    remove(folder)?;
    report
}

/// The figures, as a table or as one JSON object.
fn answer(report: &(impl Serialize + Display), json: bool) -> Result<Answer, Failure> {
    let mut text = if json {
        let json = serde_json::to_string_pretty(report)
            .map_err(|error| Failure::new(Exit::Failed, error, "leave --json out"))?;
        text::escaped_json(&json)
    } else {
        report.to_string()
    };
    text.push('\n');
    Ok(text.into())
}

fn new_folder(parent: &Path) -> Result<TempDir, BenchError> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("overlay-pool-bench-").tempdir_in(parent).map_err(BenchError::at(parent))
}

fn remove(folder: TempDir) -> Result<(), BenchError> {
    let path = folder.path().to_owned();
    folder.close().map_err(BenchError::at(path))
}

/// Has ext4 put each folder in `folder` into a block group chosen by the folder's name.
///
/// For minutes ext4 makes no file of an inode that was freed, and each create in the same group
/// looks at all of those again: what an earlier bench removed would cost this one up to 1 ms a
/// file.
fn spread_folders(folder: &Path) {
    if let Ok(dir) = File::open(folder)
        && let Ok(flags) = ioctl_getflags(&dir)
    {
        let _ = ioctl_setflags(&dir, flags | IFlags::TOPDIR);
    }
}

/// Runs it as a task, from where a program that serves VMs acquires too.
async fn unless_interrupted<T: Send + 'static>(
    measure: impl Future<Output = Result<T, BenchError>> + Send + 'static,
) -> Result<T, BenchError> {
    let signal = |kind| signal(kind).map_err(BenchError::at("signals"));
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // Dropped, it ends the task.
    let mut task = JoinSet::new();
    task.spawn(measure);
    tokio::select! {
        Some(report) = task.join_next() => {
            report.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
        }
        _ = interrupt.recv() => Err(BenchError::Interrupted),
        _ = terminate.recv() => Err(BenchError::Interrupted),
    }
}

/// The creators to measure, and those that this machine lacks and why. One that was asked for
/// must be there.
async fn choose_creators(
    wanted: &[CreatorKind],
    tools: &Tools,
) -> Result<(Vec<CreatorKind>, BTreeMap<CreatorKind, String>), BenchError> {
    let (mut there, mut missing) = (Vec::new(), BTreeMap::new());
    for kind in CreatorKind::ALL {
        if !wanted.is_empty() && !wanted.contains(&kind) {
            continue;
        }
        let creator = kind.creator(tools, START_TIMEOUT);
        match creator.start().await {
            Ok(()) => there.push(kind),
            Err(source) if wanted.contains(&kind) => {
                return Err(BenchError::CreatorUnavailable { creator: kind.as_str(), source });
            }
            Err(error) => drop(missing.insert(kind, error.to_string())),
        }
        creator.stop().await;
    }
    Ok((there, missing))
}

fn count_for(kind: CreatorKind, count: usize) -> usize {
    // They take milliseconds for each, and the run shall end within half a minute.
    let share = match kind {
        CreatorKind::Native => 1,
        CreatorKind::StorageDaemon => 5,
        CreatorKind::QemuImg => 10,
    };
    (count / share).max(QEMU_LEAST).min(count)
}

/// Drawn on a terminal alone, and only between measurements.
fn progress_bar(steps: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} step {pos} of {len}, {msg:32}");
    let bar = ProgressBar::new(steps);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
