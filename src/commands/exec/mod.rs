//! `exec`: code in a VM of its own.

mod done;
mod job;
mod own;
mod remote;

use std::ffi::OsString;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use overlay_pool::api::{Client, Running};
use overlay_pool::place::try_target;
use overlay_pool::vm::{
    Accelerator, End, Language, Outcome, OwnDisk, VmDisk, VmManager, VmSettings,
};
use tokio::signal::unix::{SignalKind, signal};

use super::exit::Exit;
use super::failure::Failure;
use super::{Answer, arguments, block_on};
use done::Outputs;
use job::Job;

const EXAMPLES: &str = "\
If a server runs that has VMs (serve --vms), the code runs in one of its; -v says so. Else, and if an
option or the environment says what the VM shall be, it runs in a VM of this process, whose disk
comes from a pool. The first VM of a base image saves the booted machine's state, and later ones
resume it. The VM has no network, and nothing is left of it afterwards.

What the code writes comes as it is written. The code reads the standard input, unless the code itself
comes from there. Options stand before the file: what follows it is the code's own.

The exit code is the code's own: 128 or more if a signal ended it, 124 if its time was over, 130 after
Ctrl-C. It is 125 if the code could not be run, or not to its end. `raw` is a shell, in a base image
of your own named raw-base-*.qcow2.

A file of further languages is TOML, a table for each; only `command` is needed. The path of the code's
file follows it, as after `#!`, and then the code's arguments:
  [ruby]
  command = [\"ruby\"]
  aliases = [\"rb\"]
  images = \"ruby-*-base-*.qcow2\"  # of several the newest; this is the default
  memory = 256                    # MiB; by default 128
  rehearsal = \"puts 'ready'\"      # once in a VM that waits; by default nothing
  file = \"main.rb\"                # if its ending counts; by default code

Examples:
  overlay-pool exec python -c \"print('hello from pool')\"
  overlay-pool exec js script.js one two < data
  echo 'print(6 * 7)' | overlay-pool exec python
  overlay-pool exec --accel tcg --json --timeout 10 python script.py
  overlay-pool exec --keep work.qcow2 python first.py; overlay-pool exec --on work.qcow2 python next.py";

/// Run code in a VM that boots on a pooled overlay.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Exec {
    /// What the code is written in, which chooses the base image: python, javascript, raw (py, js,
    /// node and sh will do), one of --interpreters, or one that only the server has.
    language: String,
    /// The code's file, or `-` or nothing for the standard input, and the code's arguments; with
    /// --code its arguments alone.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FILE [ARGUMENTS]")]
    rest: Vec<OsString>,
    /// The code itself.
    #[arg(short, long)]
    code: Option<String>,
    /// A variable of the code's environment; without a value that of this one.
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// How long the code may run, in seconds; `OVERLAY_POOL_EXECUTE_TIMEOUT`, or else 60.
    #[arg(long, value_parser = VmSettings::seconds, value_name = "SECONDS")]
    timeout: Option<Duration>,
    /// Run it in a VM of the server that listens there, and nowhere else.
    #[arg(long, value_name = "PATH", conflicts_with_all = OF_OWN_VMS)]
    socket: Option<PathBuf>,
    /// A file of further languages; `OVERLAY_POOL_INTERPRETERS`, or else none.
    #[arg(long, value_name = "FILE")]
    interpreters: Option<PathBuf>,
    /// The VM's memory in MiB; `OVERLAY_POOL_MEMORY`, or else as the language has it: 128, for
    /// JavaScript 256.
    #[arg(long, value_parser = VmSettings::mib, value_name = "MIB")]
    memory: Option<u32>,
    /// The VM's processors; `OVERLAY_POOL_CPUS`, or else 1.
    #[arg(long, value_parser = VmSettings::cpus, value_name = "NUMBER")]
    cpus: Option<u32>,
    /// How much of the host's disk the VM's disk may take in MiB, past which the code's writes
    /// fail; `OVERLAY_POOL_DISK`, or else 1056.
    #[arg(long, value_parser = VmSettings::mib, value_name = "MIB")]
    disk: Option<u32>,
    /// What runs the guest's instructions; `OVERLAY_POOL_ACCEL`, or else auto: KVM if it is
    /// usable, never TCG.
    #[arg(long, value_parser = arguments::accelerator())]
    accel: Option<Accelerator>,
    /// Boot, even if a saved state could be resumed, and save none.
    #[arg(long)]
    no_resume: bool,
    /// Keep the VM's disk as this file, which must not exist.
    #[arg(long, value_name = "DISK")]
    keep: Option<PathBuf>,
    /// The size of the VM's disk, as in 4GiB: the base image's by default, and never smaller. Without
    /// --disk the VM's disk may take as much of the host's as that needs.
    #[arg(long, value_parser = arguments::size, allow_negative_numbers = true)]
    size: Option<u64>,
    /// Run it on this disk, which --keep left, or `create` made of the language's base image. What the
    /// code changes stays in it. The VM boots.
    #[arg(long, value_name = "DISK")]
    on: Option<PathBuf>,
    /// Print one JSON object: what the program wrote, how it ended, and the seconds of each phase.
    #[arg(long)]
    json: bool,
}

/// Options that say what a VM of this process shall be.
const OF_OWN_VMS: [&str; 9] =
    ["interpreters", "memory", "cpus", "disk", "size", "accel", "no_resume", "keep", "on"];

/// Refuses a target that no disk can be kept at, before code runs for it.
fn expect_room_for(target: &Path) -> Result<(), Failure> {
    try_target(target).map_err(|error| {
        let (exit, why) = match error.kind() {
            ErrorKind::AlreadyExists => (Exit::TargetExists, "it is there already".to_owned()),
            _ => (Exit::NotRun, error.to_string()),
        };
        Failure::new(exit, format!("{}: {why}", target.display()), "choose another --keep")
    })
}

impl Exec {
    pub(super) fn run(self) -> Result<Answer, Failure> {
        let settings = arguments::vm_settings()?;
        let settings = arguments::with_interpreters(settings, self.interpreters.as_deref())?;
        self.expect_one_disk()?;
        if let Some(target) = &self.keep {
            expect_room_for(target)?;
        }
        let wants_server = !self.wants_own_vm(&settings);
        let settings = self.settings(settings);
        let is_there = self.socket().is_some_and(|socket| socket.exists());
        if !wants_server && is_there {
            tracing::debug!(
                "a VM of this process, since an option or the environment says what it is"
            );
        }
        if !wants_server || !is_there {
            // Before the code is read, which may come from a person.
            self.language(&settings)?;
        }
        let job = Job::of(&self)?;
        let manager = VmManager::new(own::settings(settings.clone()));
        let done = block_on(async {
            let done = tokio::select! {
                done = self.execute(&manager, &settings, &job, wants_server) => done,
                signal = interrupted() => Err(signal),
            };
            manager.stop().await;
            done
        })??;
        self.explain(&done, &settings);
        let code = u8::try_from(done.0.end.code()).unwrap_or(u8::MAX);
        Ok(Answer { code, ..Answer::default() })
    }

    /// Refuses what is said of a new disk, for one that is there.
    fn expect_one_disk(&self) -> Result<(), Failure> {
        let Some(disk) = self.on.as_ref().map(|disk| disk.display()) else { return Ok(()) };
        let (cause, advice) = if self.keep.is_some() {
            (
                format!("--keep with --on: what is changed stays in {disk}"),
                "leave --keep out, and copy the disk afterwards",
            )
        } else if self.size.is_some() {
            (format!("--size with --on: {disk} has its size"), "leave --size out")
        } else {
            return Ok(());
        };
        Err(Failure::new(Exit::Usage, cause, advice))
    }

    fn settings(&self, settings: VmSettings) -> VmSettings {
        let needed = self.size.map(VmSettings::disk_mib_for).unwrap_or_default();
        VmSettings {
            execute_timeout: self.timeout.unwrap_or(settings.execute_timeout),
            accelerator: self.accel.unwrap_or(settings.accelerator),
            resume: settings.resume && !self.no_resume,
            memory_mib: self.memory.or(settings.memory_mib),
            cpus: self.cpus.unwrap_or(settings.cpus),
            disk_mib: self.disk.unwrap_or(settings.disk_mib.max(needed)),
            ..settings
        }
    }

    /// The language, if it is one of ours.
    fn language(&self, settings: &VmSettings) -> Result<Language, Failure> {
        settings.languages.find(&self.language).map_err(|unknown| Failure::from(&unknown))
    }

    /// Where a server may be.
    fn socket(&self) -> Option<PathBuf> {
        arguments::socket(self.socket.clone()).ok()
    }

    /// Whether anything was said of the VM, as no server's may be.
    fn wants_own_vm(&self, settings: &VmSettings) -> bool {
        let said = self.memory.is_some()
            || self.cpus.is_some()
            || self.disk.is_some()
            || self.accel.is_some()
            || self.keep.is_some()
            || self.on.is_some()
            || self.size.is_some()
            || self.no_resume
            || self.language(settings).is_ok_and(|found| !Language::BUILT_IN.contains(&found))
            || arguments::variable("OVERLAY_POOL_IMAGES").is_some();
        let usual = VmSettings::default();
        let of_vm = VmSettings {
            dir: usual.dir.clone(),
            base_images_dir: usual.base_images_dir.clone(),
            execute_timeout: usual.execute_timeout,
            max_output: usual.max_output,
            boot_timeout: usual.boot_timeout,
            max_concurrent_vms: usual.max_concurrent_vms,
            languages: usual.languages.clone(),
            warm: usual.warm.clone(),
            warm_idle: usual.warm_idle,
            ..settings.clone()
        };
        self.socket.is_none() && (said || of_vm != usual)
    }

    async fn execute(
        &self,
        manager: &VmManager,
        settings: &VmSettings,
        job: &Job,
        wants_server: bool,
    ) -> Result<(Outcome, Whose), Failure> {
        let mut outputs = Outputs::new(self.json);
        if wants_server && let Some(running) = self.begin(settings, job).await? {
            let outcome = remote::run(running, &self.language, &mut outputs).await?;
            return Ok((outcome, Whose::Servers));
        }
        let language = self.language(settings)?;
        let disk = match (&self.on, self.size) {
            (Some(disk), _) => OwnDisk::at(disk).into(),
            (None, Some(size)) => VmDisk::Sized(size),
            (None, None) => VmDisk::Pooled,
        };
        let keep = self.keep.as_deref();
        let outcome = own::run(manager, language, job, &mut outputs, disk, keep).await?;
        Ok((outcome, Whose::Own))
    }

    /// Has a server begin with it; none if none does, and none was asked for.
    async fn begin(&self, settings: &VmSettings, job: &Job) -> Result<Option<Running>, Failure> {
        let Some(socket) = self.socket() else { return Ok(None) };
        match remote::begin(&Client::new(&socket), &self.language, job, settings).await {
            Ok(running) => Ok(Some(running)),
            Err(failure) if self.socket.is_some() => Err(failure),
            Err(failure) => {
                tracing::debug!(why = %failure, "a VM of this process, since no server's is to be had");
                Ok(None)
            }
        }
    }

    /// Says which limits the program has met.
    fn explain(&self, (outcome, whose): &(Outcome, Whose), settings: &VmSettings) {
        let VmSettings { execute_timeout, max_output, disk_mib, .. } = settings;
        let mut lines = Vec::new();
        for (cut, name) in outcome.cut.into_iter().zip(["output", "error output"]) {
            if cut && !self.json {
                let limit = "OVERLAY_POOL_MAX_OUTPUT sets the limit";
                // What nobody took by then is lost.
                let time =
                    if outcome.end == End::TimedOut { ", or when its time was over" } else { "" };
                lines.push(format!("the {name} is cut after {max_output} bytes{time}; {limit}"));
            }
        }
        if outcome.disk_failed {
            lines.push(match whose {
                Whose::Own => {
                    format!("the VM's disk has reached its limit of {disk_mib} MiB; raise --disk")
                }
                Whose::Servers => {
                    "the VM's disk has reached its limit, which the server's OVERLAY_POOL_DISK sets"
                        .to_owned()
                }
            });
        }
        if outcome.end == End::TimedOut && !self.json {
            let time = execute_timeout.as_secs_f64();
            lines.push(format!("the code was killed after {time} s; give more with --timeout"));
        }
        for line in lines {
            // Where standard error is closed, there is nobody to tell.
            let _ = writeln!(io::stderr(), "overlay-pool: {line}");
        }
    }
}

/// Whose VM it ran in.
#[derive(Clone, Copy, Debug)]
enum Whose {
    Own,
    Servers,
}

/// Waits for a signal that asks the program to end.
pub(super) async fn interrupted() -> Failure {
    let ended = async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        io::Result::Ok(tokio::select! {
            _ = interrupt.recv() => Exit::Interrupted,
            _ = terminate.recv() => Exit::Terminated,
        })
    };
    match ended.await {
        Ok(exit) => Failure::new(exit, "interrupted", ""),
        Err(error) => Failure::new(Exit::NotRun, format!("can't wait for signals: {error}"), ""),
    }
}
