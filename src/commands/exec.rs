//! `exec`: code in a VM of its own.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use overlay_pool::place::open_trusted;
use overlay_pool::vm::{
    Accelerator, End, Execution, Language, Outcome, Output, Program, Start, Stream, Vm, VmError,
    VmManager, VmSettings,
};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, empty};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::exit::Exit;
use super::failure::Failure;
use super::{Answer, arguments, block_on};

const EXAMPLES: &str = "\
The VM's disk comes from a pool. The VM has no network, and nothing is left of it afterwards. The
first VM of a base image saves the booted machine's state, and later ones resume it. What the code
writes comes as it is written. The code reads the standard input, unless the code itself comes from
there. Options stand before the file: what follows it is the code's own.

The exit code is the code's own: 128 or more if a signal ended it, 124 if its time was over, 130 after
Ctrl-C. It is 125 if the code could not be run, or not to its end. `raw` is a shell, in a base image
of your own named raw-base-*.qcow2.

Examples:
  overlay-pool exec python -c \"print('hello from pool')\"
  overlay-pool exec js script.js one two < data
  echo 'print(6 * 7)' | overlay-pool exec python
  overlay-pool exec --accel tcg --json --timeout 10 python script.py";

/// The code that is taken, at most: it is kept in the guest's memory.
const MAX_CODE: u64 = 32 << 20;
/// When a person who waits is told why.
const SOON: Duration = Duration::from_secs(2);
/// How much output may wait to be written, in parts.
const PARTS: usize = 16;

/// Run code in a VM that boots on a pooled overlay.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Exec {
    /// What the code is written in, which chooses the base image; py, js, node and sh will do.
    #[arg(value_parser = arguments::language())]
    language: Language,
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
    /// The VM's memory in MiB; `OVERLAY_POOL_MEMORY`, or else 128, for JavaScript 256.
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
    /// Print one JSON object: what the program wrote, how it ended, and the seconds of each phase.
    #[arg(long)]
    json: bool,
}

/// A program, and whether it may read what we are given.
struct Job {
    program: Program,
    reads: bool,
}

impl Exec {
    pub(super) fn run(self) -> Result<Answer, Failure> {
        let settings = self.settings()?;
        for directory in [&settings.base_images_dir, &settings.states()] {
            expect_trusted(directory)?;
        }
        if let Some(target) = self.keep.as_ref().filter(|keep| keep.symlink_metadata().is_ok()) {
            let cause = format!("{}: it is there already", target.display());
            return Err(Failure::new(Exit::TargetExists, cause, "choose another --keep"));
        }
        let job = self.job()?;
        let limits = (settings.execute_timeout, settings.max_output, settings.disk_mib);
        let manager = VmManager::new(settings);
        let done = block_on(async {
            let done = tokio::select! {
                done = self.execute(&manager, &job) => done,
                signal = interrupted() => Err(signal),
            };
            manager.stop().await;
            done
        })??;
        let (time, output, disk) = limits;
        self.explain(&done, self.timeout.unwrap_or(time), output, disk);
        let code = u8::try_from(done.end.code()).unwrap_or(u8::MAX);
        Ok(Answer { code, ..Answer::default() })
    }

    fn settings(&self) -> Result<VmSettings, Failure> {
        let settings = arguments::vm_settings()?;
        Ok(VmSettings {
            max_concurrent_vms: 2, // one overlay is made ready
            accelerator: self.accel.unwrap_or(settings.accelerator),
            resume: settings.resume && !self.no_resume,
            memory_mib: self.memory.or(settings.memory_mib),
            cpus: self.cpus.unwrap_or(settings.cpus),
            disk_mib: self.disk.unwrap_or(settings.disk_mib),
            warm: std::collections::BTreeMap::new(),
            ..settings
        })
    }

    async fn execute(&self, manager: &VmManager, job: &Job) -> Result<Outcome, Failure> {
        manager.start_for(self.language).await?;
        let vm = self.create(manager).await?;
        let outcome = if self.json {
            let (execution, outcome) = self.collect(&vm, job).await?;
            let facts = facts(&vm, &execution);
            writeln!(io::stdout(), "{facts:#}").map_err(|error| unwritten(&error))?;
            outcome
        } else {
            self.pass_on(&vm, job).await?
        };
        if manager.settings().resume && vm.start() == Some(Start::Booted) {
            // Where standard error is closed, there is nobody to tell.
            let _ = writeln!(
                io::stderr(),
                "overlay-pool: the VM booted, since no saved state could be resumed; --verbose says \
                 why, --no-resume asks for it"
            );
        }
        if let Some(target) = &self.keep {
            manager.keep_disk(&vm, target).await?;
        }
        manager.destroy_vm(&vm).await;
        Ok(outcome)
    }

    /// Makes the VM; a person who waits for long is told why.
    async fn create(&self, manager: &VmManager) -> Result<Arc<Vm>, Failure> {
        let create = manager.create_vm(self.language, "cli", "exec");
        tokio::pin!(create);
        let told = io::stderr().is_terminal();
        let created = tokio::select! {
            created = &mut create => created,
            () = sleep(SOON), if told => {
                eprintln!("overlay-pool: the VM boots; once it has, later ones resume its state");
                create.await
            }
        };
        Ok(created?)
    }

    /// Writes what the program writes, as it comes.
    async fn pass_on(&self, vm: &Vm, job: &Job) -> Result<Outcome, Failure> {
        let (sender, mut parts) = mpsc::channel::<(Stream, Vec<u8>)>(PARTS);
        let write = async move {
            while let Some((stream, part)) = parts.recv().await {
                match stream {
                    Stream::Stdout => {
                        io::stdout().write_all(&part).and_then(|()| io::stdout().flush())?;
                    }
                    Stream::Stderr => io::stderr().write_all(&part)?,
                }
            }
            io::Result::Ok(())
        };
        // Ends with the receiver, and so ends the program, when nothing can be written.
        let (outcome, written) = tokio::join!(vm.run(&job.program, job.input()?, sender), write);
        match written {
            Ok(()) => Ok(outcome?),
            // Whoever closed the pipe has read enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                Ok(Outcome { end: End::Signal(13), ..outcome? })
            }
            Err(error) => Err(unwritten(&error)),
        }
    }

    async fn collect(&self, vm: &Vm, job: &Job) -> Result<(Execution, Outcome), Failure> {
        let (sender, mut parts) = mpsc::channel(PARTS);
        let (mut stdout, mut stderr) = (Output::default(), Output::default());
        let gather = async {
            while let Some((stream, part)) = parts.recv().await {
                let output = if stream == Stream::Stdout { &mut stdout } else { &mut stderr };
                output.bytes.extend(part);
            }
        };
        let (outcome, ()) = tokio::join!(vm.run(&job.program, job.input()?, sender), gather);
        let outcome = outcome?;
        let Outcome { end, cut, disk_failed, elapsed } = outcome;
        [stdout.truncated, stderr.truncated] = cut;
        Ok((Execution { end, stdout, stderr, disk_failed, elapsed }, outcome))
    }

    fn job(&self) -> Result<Job, Failure> {
        let text = |argument: &OsString| {
            let text = argument.to_str().map(str::to_owned);
            text.ok_or_else(|| {
                let cause = format!("{}: not valid UTF-8", argument.display());
                Failure::new(Exit::Usage, cause, "give the code's arguments as text")
            })
        };
        let (code, name, arguments, reads) = match (&self.code, self.rest.split_first()) {
            (Some(code), _) => (code.clone().into_bytes(), "-c".to_owned(), &*self.rest, true),
            (None, Some((file, arguments))) if file != "-" => {
                let path = PathBuf::from(file);
                let opened = std::fs::File::open(&path);
                let code = opened.and_then(read_code).map_err(|error| unread(file, &error))?;
                (code, text(file)?, arguments, true)
            }
            (None, rest) => {
                let code = read_code(io::stdin().lock());
                let code = code.map_err(|error| unread(&"standard input".into(), &error))?;
                (code, "-".to_owned(), rest.map_or(&[][..], |(_, arguments)| arguments), false)
            }
        };
        let mut program = Program::new(code).name(name);
        for argument in arguments {
            program = program.argument(text(argument)?);
        }
        for variable in &self.env {
            program = match variable.split_once('=') {
                Some((name, value)) => program.variable(name, value),
                None => match std::env::var(variable) {
                    Ok(value) => program.variable(variable, &value),
                    Err(error) => {
                        let cause = format!("--env {variable}: {error}");
                        return Err(Failure::new(Exit::Usage, cause, "or give NAME=VALUE"));
                    }
                },
            };
        }
        if let Some(timeout) = self.timeout {
            program = program.timeout(timeout);
        }
        Ok(Job { program, reads })
    }

    /// Says which limits the program has met.
    fn explain(&self, outcome: &Outcome, time: Duration, output: usize, disk: u32) {
        let mut lines = Vec::new();
        for (cut, name) in outcome.cut.into_iter().zip(["output", "error output"]) {
            if cut && !self.json {
                let limit = "OVERLAY_POOL_MAX_OUTPUT sets the limit";
                lines.push(format!("the {name} is cut after {output} bytes; {limit}"));
            }
        }
        if outcome.disk_failed {
            lines.push(format!("the VM's disk has reached its limit of {disk} MiB; raise --disk"));
        }
        if outcome.end == End::TimedOut && !self.json {
            let time = time.as_secs_f64();
            lines.push(format!("the code was killed after {time} s; give more with --timeout"));
        }
        for line in lines {
            // Where standard error is closed, there is nobody to tell.
            let _ = writeln!(io::stderr(), "overlay-pool: {line}");
        }
    }
}

/// Who may write to saved states or images decides what a VM runs. What isn't there is made, or
/// missed later.
fn expect_trusted(directory: &Path) -> Result<(), Failure> {
    match open_trusted(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let cause = format!("{}: {error}", directory.display());
            Err(Failure::new(Exit::NotRun, cause, ""))
        }
        _ => Ok(()),
    }
}

impl Job {
    /// What the program reads. A thread reads what we are given, which may never come: the
    /// program's end doesn't wait for it.
    fn input(&self) -> Result<Box<dyn AsyncRead + Unpin>, Failure> {
        if !self.reads {
            return Ok(Box::new(empty()));
        }
        let pair = || {
            let (ours, mut theirs) = StdUnixStream::pair()?;
            ours.set_nonblocking(true)?;
            thread::Builder::new().spawn(move || {
                let _ = io::copy(&mut io::stdin().lock(), &mut theirs);
            })?;
            UnixStream::from_std(ours)
        };
        let stream = pair().map_err(|error| {
            let cause = format!("can't pass the standard input on: {error}");
            Failure::new(Exit::NotRun, cause, "raise the limit of open files")
        })?;
        Ok(Box::new(stream))
    }
}

fn read_code(from: impl Read) -> io::Result<Vec<u8>> {
    let mut code = Vec::new();
    from.take(MAX_CODE + 1).read_to_end(&mut code)?;
    if code.len() as u64 > MAX_CODE {
        return Err(io::Error::other(format!(
            "more than the {} MiB that code may have",
            MAX_CODE >> 20
        )));
    }
    Ok(code)
}

fn unread(name: &OsString, error: &io::Error) -> Failure {
    let looks_like_code = name.to_string_lossy().contains(['(', ' ', '\n', ';', '"', '\'']);
    let is_missing = error.kind() == io::ErrorKind::NotFound;
    let advice = if looks_like_code && is_missing { "give code with -c" } else { "check the path" };
    Failure::new(Exit::NotRun, format!("{}: {error}", name.display()), advice)
}

fn unwritten(error: &io::Error) -> Failure {
    Failure::new(Exit::NotRun, format!("can't write: {error}"), "make room, or write elsewhere")
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
        "disk_failed": execution.disk_failed,
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
