//! The benchmarks that aren't part of the program: `cargo bench --bench NAME -- --help`.
//!
//! Each is a future that measures on a prepared [`Ground`] and gives columns of figures. The suite
//! includes all of this too, and runs each with tiny counts.

mod csi;
mod daemon;
mod images;
mod proc;
mod ready;
pub(crate) mod server;
mod vm;

// What they share with `overlay-pool bench`.
#[path = "../../src/commands/bench/figures.rs"]
pub(crate) mod figures;
#[path = "../../src/commands/filesystem.rs"]
mod filesystem;
#[path = "../../src/commands/bench/ground.rs"]
pub(crate) mod ground;
#[path = "../../src/commands/version.rs"]
mod version;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use indicatif::ProgressBar;
use overlay_pool::image::{BaseImage, BaseRef, Overlay, OverlayOptions, References};
use overlay_pool::{OverlayPool, Source};
use serde::Serialize;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use figures::{Columns, Row, Target, judge, table};

/// Why a benchmark has no figures.
type Error = Box<dyn std::error::Error + Send + Sync>;

/// The options of every benchmark.
#[derive(Debug, clap::Args)]
struct Options {
    /// Where to measure: in a new folder there, on that filesystem.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print the figures as one JSON object.
    #[arg(long)]
    json: bool,
    /// Cargo says so.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A benchmark with its arguments.
trait Bench: Parser + Send + 'static {
    /// Where is measured by default.
    const DIR: &str = env!("CARGO_TARGET_TMPDIR");
    /// Whether the columns stand at the top of the JSON object, and not under `columns`.
    const AT_TOP: bool = false;
    const ROWS: &[Row];

    fn options(&self) -> &Options;

    fn measure(self, ground: Ground) -> impl Future<Output = Result<Measured, Error>> + Send;
}

/// What is measured on.
struct Ground {
    /// Empty, and removed afterwards.
    dir: PathBuf,
    filesystem: String,
    qemu: bool,
    base: BaseRef,
    /// What every overlay shall be.
    overlay: Overlay,
    bar: ProgressBar,
}

/// What a benchmark gives.
#[derive(Default)]
struct Measured {
    /// What was measured, in a sentence.
    what: String,
    columns: Columns,
    /// How many overlays were looked at; all were sound.
    sound: usize,
    /// Why the promises aren't judged, if they aren't.
    unless: Option<String>,
}

#[derive(Serialize)]
struct Report {
    machine: String,
    what: String,
    columns: Columns,
    sound: usize,
    targets: Vec<Target>,
}

/// Runs the benchmark of this name with the arguments of this process.
pub(crate) fn main(name: &str) -> ExitCode {
    let done = match name {
        "ready" => run(ready::Ready::parse()),
        "server" => server::Serve::parse().run(),
        "vm" => run(vm::Vms::parse()),
        "daemon" => run(daemon::Daemon::parse()),
        "csi" => run(csi::Csi::parse()),
        "images" => run(images::Images::parse()),
        _ => Err(format!("there is no benchmark {name}").into()),
    };
    match done {
        Ok(0) => return ExitCode::SUCCESS,
        Ok(missed) => eprintln!("{name}: {missed} targets were missed"),
        Err(error) => eprintln!("{name}: {error}"),
    }
    ExitCode::FAILURE
}

/// Measures, prints the figures, and says how many targets were missed.
fn run<B: Bench>(bench: B) -> Result<usize, Error> {
    let json = bench.options().json;
    let dir = bench.options().dir.clone().unwrap_or_else(|| B::DIR.into());
    std::fs::create_dir_all(B::DIR)?;
    let folder = ground::folder(&dir.canonicalize()?)?;
    let path = folder.path().to_owned();
    // The runtime ends before the folder is removed, and with it whatever writes there.
    let report = Runtime::new()?.block_on(async {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let mut task = JoinSet::from_iter([measure(bench, path)]);
        tokio::select! {
            Some(report) = task.join_next() => report?,
            _ = interrupt.recv() => Err("interrupted; all it made is removed".into()),
            _ = terminate.recv() => Err("interrupted; all it made is removed".into()),
        }
    });
    folder.close()?;
    let report = report?;
    if json {
        let mut value = serde_json::to_value(&report)?;
        if B::AT_TOP
            && let Some(object) = value.as_object_mut()
            && let Some(serde_json::Value::Object(columns)) = object.remove("columns")
        {
            object.extend(columns);
        }
        println!("{value:#}");
    } else {
        let Report { machine, what, columns, sound, targets } = &report;
        println!("{machine}\n{what}\n\n{}", table(B::ROWS, columns, targets));
        println!("\n{sound} overlays were looked at; all are sound.");
    }
    Ok(report.targets.iter().filter(|target| target.verdict == "missed").count())
}

async fn measure<B: Bench>(bench: B, dir: PathBuf) -> Result<Report, Error> {
    let version = version::version("qemu-img").await.ok();
    let filesystem = filesystem::name(&dir)?;
    let machine = ground::machine(&filesystem, version.as_deref())?;
    let base = ground::make_base(&dir)?;
    let overlay = BaseImage::open(&base, References::Deny)?.overlay(OverlayOptions::default())?;
    let (qemu, bar) = (version.is_some(), ProgressBar::new_spinner());
    let measured = bench.measure(Ground { dir, filesystem, qemu, base, overlay, bar }).await?;
    let Measured { what, columns, sound, unless } = measured;
    let targets = judge(B::ROWS, &columns, unless.as_deref());
    Ok(Report { machine, what, columns, sound, targets })
}

impl Ground {
    /// A new folder in the folder.
    fn folder(&self, name: &str) -> Result<PathBuf, Error> {
        let folder = self.dir.join(name);
        std::fs::create_dir(&folder)?;
        Ok(folder)
    }

    /// Says on a terminal what is measured now.
    fn progress(&self, what: impl Into<String>) {
        self.bar.set_message(what.into());
        self.bar.tick();
    }

    /// Why what is promised for a disk isn't judged.
    fn not_a_disk(&self) -> Option<String> {
        (self.filesystem == filesystem::TMPFS).then(|| self.filesystem.clone())
    }
}

/// Acquires, and says how long that took; from elsewhere than wanted, it is an error.
async fn acquire(
    pool: &OverlayPool,
    base: &BaseRef,
    target: &Path,
    wanted: Source,
) -> Result<Duration, Error> {
    let base = base.clone();
    let start = std::time::Instant::now();
    let acquired = pool.acquire(base, target).await?;
    let took = start.elapsed();
    let other = || format!("an acquire was {:?} instead of {wanted:?}", acquired.source).into();
    (acquired.source == wanted).then_some(took).ok_or_else(other)
}

fn float(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
