//! `exec`: code in a VM of its own.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use overlay_pool::vm::{Accelerator, Execution, Language, Vm, VmError, VmManager, VmSettings};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::exit::Exit;
use super::failure::Failure;
use super::{Answer, arguments, block_on};

const EXAMPLES: &str = "\
The VM's disk comes from a pool. The VM has no network, and nothing is left of it afterwards. The
first VM of a base image saves the booted machine's state, and later ones resume it. The exit code
is the program's own: 128 or more if a signal ended it, 124 if its time was over. It is 125 if the
code could not be run, or not to its end, and 130 after Ctrl-C.

Examples:
  overlay-pool exec python -c \"print('hello from pool')\"
  overlay-pool exec javascript script.js
  echo 'print(6 * 7)' | overlay-pool exec python
  overlay-pool exec --accel tcg --json --timeout 10 python script.py";

/// Run code in a VM that boots on a pooled overlay.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Exec {
    /// What the code is written in, which chooses the base image.
    #[arg(value_parser = arguments::language())]
    language: Language,
    /// The code's file; standard input if it is `-` or left out.
    #[arg(conflicts_with = "code")]
    file: Option<PathBuf>,
    /// The code itself.
    #[arg(short, long)]
    code: Option<String>,
    /// How long the code may run, in seconds; `OVERLAY_POOL_EXECUTE_TIMEOUT`, or else 60.
    #[arg(long, value_parser = VmSettings::seconds, value_name = "SECONDS")]
    timeout: Option<Duration>,
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
    /// Print one JSON object: what the program wrote, how it ended, and the seconds of each phase.
    #[arg(long)]
    json: bool,
}

/// What a VM did, and the VM as it was.
struct Done {
    execution: Execution,
    facts: Value,
}

impl Exec {
    pub(super) fn run(self) -> Result<Answer, Failure> {
        let code = self.read_code()?;
        let mut settings = VmSettings::from_env()
            .map_err(|error| Failure::new(Exit::Usage, error, "or unset it"))?;
        settings.max_concurrent_vms = 2; // one overlay is made ready
        settings.accelerator = self.accel.unwrap_or(settings.accelerator);
        settings.resume &= !self.no_resume;
        let manager = VmManager::new(settings);
        let done = block_on(async {
            let done = tokio::select! {
                done = self.execute(&manager, &code) => done,
                signal = interrupted() => Err(signal),
            };
            manager.stop().await;
            done
        })??;
        match self.print(&done) {
            // Whoever closed the pipe has read enough.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                let cause = format!("can't write: {error}");
                return Err(Failure::new(Exit::NotRun, cause, "make room, or write elsewhere"));
            }
            _ => {}
        }
        let code = u8::try_from(done.execution.end.code()).unwrap_or(u8::MAX);
        Ok(Answer { code, ..Answer::default() })
    }

    async fn execute(&self, manager: &VmManager, code: &[u8]) -> Result<Done, Failure> {
        manager.start_for(self.language).await?;
        let vm = manager.create_vm(self.language, "cli", "exec").await?;
        let execution = vm.execute(code, self.timeout).await?;
        let facts = facts(&vm, &execution);
        if let Some(target) = &self.keep {
            manager.keep_disk(&vm, target).await?;
        }
        manager.destroy_vm(&vm).await;
        Ok(Done { execution, facts })
    }

    fn read_code(&self) -> Result<Vec<u8>, Failure> {
        if let Some(code) = &self.code {
            return Ok(code.clone().into_bytes());
        }
        let file = self.file.as_ref().filter(|file| file.as_os_str() != "-");
        let (name, read) = if let Some(file) = file {
            (file.display().to_string(), std::fs::read(file))
        } else {
            let mut code = Vec::new();
            let read = io::stdin().lock().read_to_end(&mut code);
            ("standard input".to_owned(), read.map(|_| code))
        };
        read.map_err(|error| {
            Failure::new(Exit::NotRun, format!("{name}: {error}"), "check the path")
        })
    }

    fn print(&self, done: &Done) -> io::Result<()> {
        let Execution { stdout, stderr, .. } = &done.execution;
        if self.json {
            return writeln!(io::stdout(), "{:#}", done.facts);
        }
        io::stdout().write_all(&stdout.bytes)?;
        io::stdout().flush()?;
        io::stderr().write_all(&stderr.bytes)?;
        for (output, name) in [(stdout, "output"), (stderr, "error output")] {
            if output.truncated {
                let kept = output.bytes.len();
                writeln!(io::stderr(), "overlay-pool: the {name} is cut after {kept} bytes")?;
            }
        }
        Ok(())
    }
}

fn facts(vm: &Vm, execution: &Execution) -> Value {
    let phases = vm.phases();
    json!({
        "vm": vm.id(),
        "language": vm.language(),
        "start": vm.start(),
        "disk": vm.disk_source().map(overlay_pool::api::Source::from),
        "end": execution.end,
        "exit_code": execution.end.code(),
        "stdout": execution.stdout.text(),
        "stderr": execution.stderr.text(),
        "stdout_truncated": execution.stdout.truncated,
        "stderr_truncated": execution.stderr.truncated,
        "seconds": {
            "overlay": phases.overlay.as_secs_f64(),
            "spawn": phases.spawn.as_secs_f64(),
            "boot": phases.boot.as_secs_f64(),
            "renew": phases.renew.as_secs_f64(),
            "execute": execution.elapsed.as_secs_f64(),
        },
    })
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

impl From<VmError> for Failure {
    fn from(error: VmError) -> Self {
        Self::new(Exit::NotRun, &error, "")
    }
}
