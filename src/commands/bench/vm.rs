//! VMs that boot beside VMs that are resumed: the time of each phase, in turns.

use std::fmt::{self, Display};
use std::path::Path;
use std::time::Duration;

use indicatif::ProgressBar;
use overlay_pool::vm::{
    Accelerator, End, Execution, Language, Phases, Start, Vm, VmManager, VmSettings,
};
use serde::Serialize;

use super::samples::Samples;
use super::{BenchError, answer, new_folder, remove, table};
use crate::commands::exec::interrupted;
use crate::commands::exit::Exit;
use crate::commands::failure::Failure;
use crate::commands::{Answer, block_on};

const HELLO: &str = "print('hello from pool')";
/// The overlay's share of the way to hello, at most.
const MOST_SHARE: f64 = 0.001;
/// How many times faster a resume is, at least: to the agent's answer, and to hello.
const LEAST_READY: f64 = 10.0;
const LEAST_HELLO: f64 = 3.0;

/// Measures `rounds` VMs of each kind, in a new folder that is removed.
pub(super) fn run(
    rounds: u32,
    accelerator: Option<Accelerator>,
    dir: &Path,
    json: bool,
) -> Result<Answer, Failure> {
    let parent = dir.canonicalize().map_err(BenchError::at(dir))?;
    let folder = new_folder(&parent)?;
    let settings =
        VmSettings::from_env().map_err(|error| Failure::new(Exit::Usage, error, "or unset it"))?;
    let settings = VmSettings {
        dir: folder.path().to_owned(),
        states_dir: Some(folder.path().join("states")),
        max_concurrent_vms: 2,
        accelerator: accelerator.unwrap_or(settings.accelerator),
        ..settings
    };
    let report = block_on(async {
        tokio::select! {
            report = measure(rounds, settings) => report,
            signal = interrupted() => Err(signal),
        }
    });
    remove(folder)?;
    answer(&report??, json)
}

async fn measure(rounds: u32, settings: VmSettings) -> Result<Report, Failure> {
    let booting = VmManager::new(VmSettings { resume: false, ..settings.clone() });
    let resuming = VmManager::new(VmSettings { resume: true, ..settings });
    booting.start_for(Language::Python).await?;
    resuming.start_for(Language::Python).await?;
    // It saves the state, which isn't measured.
    hello(&resuming, Start::Resumed).await?;
    let (mut booted, mut resumed) = (Measured::default(), Measured::default());
    let bar = ProgressBar::new(rounds.into());
    for _ in 0..rounds {
        booted.push(&hello(&booting, Start::Booted).await?);
        resumed.push(&hello(&resuming, Start::Resumed).await?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let accelerator = booting.settings().accelerator.resolve()?;
    booting.stop().await;
    resuming.stop().await;
    Ok(Report::new(rounds, accelerator, &booted, &resumed))
}

/// One VM, from nothing to hello.
async fn hello(manager: &VmManager, start: Start) -> Result<Sample, Failure> {
    let vm = manager.create_vm(Language::Python, "bench", "vm").await?;
    let execution = vm.execute(HELLO, None).await?;
    let sample = Sample { phases: vm.phases(), execute: execution.elapsed };
    judge(&vm, start, &execution)?;
    manager.destroy_vm(&vm).await;
    Ok(sample)
}

/// What was measured must be what it is said to be.
fn judge(vm: &Vm, start: Start, execution: &Execution) -> Result<(), Failure> {
    let failed = |cause: String| Failure::new(Exit::Failed, cause, "see it with --verbose");
    if vm.start() != Some(start) {
        return Err(failed(format!("a VM was {:?} instead of {start:?}", vm.start())));
    }
    if execution.end != End::Code(0) || execution.stdout.bytes != b"hello from pool\n" {
        return Err(failed(format!("hello ended with {:?}", execution.end)));
    }
    Ok(())
}

struct Sample {
    phases: Phases,
    execute: Duration,
}

/// The VMs of one kind, phase by phase.
#[derive(Default)]
struct Measured {
    overlay: Samples,
    spawn: Samples,
    boot: Samples,
    ready: Samples,
    renew: Samples,
    execute: Samples,
    hello: Samples,
}

impl Measured {
    fn push(&mut self, sample: &Sample) {
        let Sample { phases: Phases { overlay, spawn, boot, renew }, execute } = *sample;
        self.overlay.push(overlay);
        self.spawn.push(spawn);
        self.boot.push(boot);
        self.ready.push(spawn + boot);
        self.renew.push(renew);
        self.execute.push(execute);
        self.hello.push(overlay + spawn + boot + renew + execute);
    }

    fn medians(&self) -> Medians {
        let median = |samples: &Samples| samples.percentile(50).unwrap_or_default().as_secs_f64();
        Medians {
            overlay: median(&self.overlay),
            spawn: median(&self.spawn),
            boot: median(&self.boot),
            ready: median(&self.ready),
            renew: median(&self.renew),
            execute: median(&self.execute),
            hello: median(&self.hello),
        }
    }
}

/// Seconds, each the median of its phase.
#[derive(Serialize)]
struct Medians {
    overlay: f64,
    /// Until QEMU listens.
    spawn: f64,
    /// From there until the agent answers.
    boot: f64,
    /// The two together.
    ready: f64,
    renew: f64,
    execute: f64,
    /// All of it.
    hello: f64,
}

/// Something promised, and what was measured.
#[derive(Serialize)]
struct Goal {
    what: &'static str,
    wanted: f64,
    measured: f64,
    met: bool,
}

#[derive(Serialize)]
struct Report {
    rounds: u32,
    accelerator: Accelerator,
    boot: Medians,
    resume: Medians,
    goals: Vec<Goal>,
}

impl Report {
    fn new(rounds: u32, accelerator: Accelerator, boot: &Measured, resume: &Measured) -> Self {
        let (boot, resume) = (boot.medians(), resume.medians());
        let at_most =
            |what, wanted, measured| Goal { what, wanted, measured, met: measured < wanted };
        let at_least =
            |what, wanted, measured| Goal { what, wanted, measured, met: measured >= wanted };
        let goals = vec![
            at_most("overlay's share of a boot", MOST_SHARE, boot.overlay / boot.hello),
            at_most("overlay's share of a resume", MOST_SHARE, resume.overlay / resume.hello),
            at_least("resume is faster to ready, times", LEAST_READY, boot.ready / resume.ready),
            at_least("resume is faster to hello, times", LEAST_HELLO, boot.hello / resume.hello),
        ];
        Self { rounds, accelerator, boot, resume, goals }
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (boot, resume) = (&self.boot, &self.resume);
        let rows = [
            ("overlay", boot.overlay, resume.overlay),
            ("spawn", boot.spawn, resume.spawn),
            ("boot or resume", boot.boot, resume.boot),
            ("  ready after", boot.ready, resume.ready),
            ("renew", boot.renew, resume.renew),
            ("execute", boot.execute, resume.execute),
            ("  hello after", boot.hello, resume.hello),
        ];
        let mut phases = table::plain();
        phases.set_header(["python, median seconds", "boot", "resume", "×"]);
        for (phase, boot, resume) in rows {
            let times = format!("{:.1}", boot / resume);
            phases.add_row([phase, &format!("{boot:.6}"), &format!("{resume:.6}"), &times]);
        }
        table::align_right(&mut phases, 1..=3);
        let mut goals = table::plain();
        goals.set_header(["goal", "wanted", "measured", ""]);
        for Goal { what, wanted, measured, met } in &self.goals {
            let digits = if *wanted < 1.0 { 6 } else { 1 };
            let number = |value: f64| format!("{value:.digits$}");
            let met = if *met { "met" } else { "MISSED" };
            goals.add_row([*what, &number(*wanted), &number(*measured), met]);
        }
        table::align_right(&mut goals, 1..=2);
        writeln!(f, "{} VMs of each kind, in turns, on {}", self.rounds, self.accelerator)?;
        writeln!(f, "\n{}\n\n{}", phases.trim_fmt(), goals.trim_fmt())
    }
}
