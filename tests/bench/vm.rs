//! VMs that boot, in turns with VMs that are resumed: the time of each phase.

use std::time::Duration;

use clap::Parser;
use overlay_pool::vm::{
    Accelerator, End, Execution, Language, Phases, Start, Vm, VmManager, VmSettings,
};

use super::figures::{Figures, Row, percentile};
use super::{Bench, Error, Ground, Measured, Options, float};

const HELLO: &str = "print('hello from pool')";
const PHASES: [&str; 7] =
    ["overlay_ms", "spawn_ms", "boot_ms", "ready_ms", "renew_ms", "execute_ms", "hello_ms"];

/// Measure VMs that boot, in turns with VMs that are resumed, from the overlay to python's hello.
#[derive(Debug, Parser)]
pub(super) struct Vms {
    #[command(flatten)]
    options: Options,
    /// How many VMs of each kind.
    #[arg(long, value_name = "N", default_value_t = 3)]
    count: usize,
    /// What runs the VMs' instructions: auto, kvm or tcg. `OVERLAY_POOL_ACCEL`, or else auto: KVM
    /// if it is usable, never TCG.
    #[arg(long)]
    accel: Option<Accelerator>,
}

impl Bench for Vms {
    const ROWS: &[Row] = &[
        ("vms", "VMs", None),
        (PHASES[0], "overlay, ms", None),
        (PHASES[1], "spawn, ms", None),
        (PHASES[2], "boot or resume, ms", None),
        (PHASES[3], "  ready: spawn, boot or resume, ms", None),
        ("boot_by_resume_ready", "  boot ÷ resume", Some(("resume", '≥', 10.0))),
        (PHASES[4], "renew, ms", None),
        (PHASES[5], "execute, ms", None),
        (PHASES[6], "  hello: all of it, ms", None),
        ("boot_by_resume_hello", "  boot ÷ resume", Some(("resume", '≥', 3.0))),
        ("overlay_percent_of_boot", "  overlay, % of a boot's hello", Some(("boot", '≤', 0.1))),
        ("overlay_percent_of_resume", "  overlay, % of a resume's", Some(("resume", '≤', 0.1))),
    ];

    fn options(&self) -> &Options {
        &self.options
    }

    async fn measure(self, ground: Ground) -> Result<Measured, Error> {
        let settings = VmSettings::from_env()?;
        let settings = VmSettings {
            dir: ground.folder("vms")?,
            states_dir: Some(ground.folder("states")?),
            max_concurrent_vms: 2,
            accelerator: self.accel.unwrap_or(settings.accelerator),
            ..settings
        };
        let accelerator = settings.accelerator.resolve()?;
        let booting = VmManager::new(VmSettings { resume: false, ..settings.clone() });
        let resuming = VmManager::new(VmSettings { resume: true, ..settings });
        booting.start_for(Language::Python).await?;
        resuming.start_for(Language::Python).await?;
        ground.progress("saving a state");
        hello(&resuming, Start::Resumed).await?;
        let (mut booted, mut resumed) = (Samples::default(), Samples::default());
        for round in 1..=self.count {
            ground.progress(format!("{round} of {}", self.count));
            push(&mut booted, hello(&booting, Start::Booted).await?);
            push(&mut resumed, hello(&resuming, Start::Resumed).await?);
        }
        booting.stop().await;
        resuming.stop().await;
        let [mut boot, mut resume] = [booted, resumed].map(|samples| column(self.count, samples));
        for (name, phase) in [("ready", PHASES[3]), ("hello", PHASES[6])] {
            resume.set(format!("boot_by_resume_{name}"), boot.0[phase] / resume.0[phase]);
        }
        for (name, column) in [("boot", &mut boot), ("resume", &mut resume)] {
            let share = column.0[PHASES[0]] / column.0[PHASES[6]];
            column.set(format!("overlay_percent_of_{name}"), 100.0 * share);
        }
        Ok(Measured {
            what: format!("VMs booted and resumed in turns, medians, python on {accelerator}."),
            columns: [("boot", boot), ("resume", resume)].into(),
            ..Measured::default()
        })
    }
}

/// Of each phase.
type Samples = [Vec<Duration>; 7];

fn push(samples: &mut Samples, sample: [Duration; 7]) {
    samples.iter_mut().zip(sample).for_each(|(samples, sample)| samples.push(sample));
}

fn column(count: usize, samples: Samples) -> Figures {
    let mut figures = Figures::default();
    figures.set("vms", float(count));
    for (name, samples) in PHASES.into_iter().zip(samples) {
        figures.set(name, percentile(samples, 50).map(|us| us / 1000.0));
    }
    figures
}

/// One VM, from nothing to hello: how long its phases took.
async fn hello(manager: &VmManager, start: Start) -> Result<[Duration; 7], Error> {
    let vm = manager.create_vm(Language::Python, "bench", "vm").await?;
    let execution = vm.execute(HELLO, None).await?;
    let (Phases { overlay, spawn, boot, renew }, execute) = (vm.phases(), execution.elapsed);
    judge(&vm, start, &execution)?;
    manager.destroy_vm(&vm).await;
    let (ready, hello) = (spawn + boot, overlay + spawn + boot + renew + execute);
    Ok([overlay, spawn, boot, ready, renew, execute, hello])
}

/// What was measured must be what it is said to be.
fn judge(vm: &Vm, start: Start, execution: &Execution) -> Result<(), Error> {
    if vm.start() != Some(start) {
        return Err(format!("a VM was {:?} instead of {start:?}", vm.start()).into());
    }
    if execution.end != End::Code(0) || execution.stdout.bytes != b"hello from pool\n" {
        return Err(format!("hello ended with {:?}", execution.end).into());
    }
    Ok(())
}
