//! What became of the code, whoever's VM it ran in.

use std::io::{self, Write};
use std::time::Duration;

use overlay_pool::api::{EndReason, Event, PhaseSeconds, Source, VmStart};
use overlay_pool::vm::{End, Outcome, Stream, Vm};
use serde_json::{Value, json};

use crate::commands::exit::Exit;
use crate::commands::failure::Failure;

/// The VM that it ran in, and where that came from.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) vm: String,
    pub(super) start: Option<VmStart>,
    pub(super) disk: Option<Source>,
    pub(super) seconds: PhaseSeconds,
}

impl Facts {
    pub(super) fn of(vm: &Vm) -> Self {
        Self {
            vm: vm.id().to_owned(),
            start: vm.start().map(VmStart::from),
            disk: vm.disk_source().map(Source::from),
            seconds: vm.phases().into(),
        }
    }
}

/// How the code ended, as a server tells it; none if it tells of something else.
pub(super) fn outcome(event: &Event) -> Option<Outcome> {
    let Event::End {
        reason,
        exit_code,
        signal,
        stdout_truncated,
        stderr_truncated,
        disk_failed,
        seconds,
    } = *event
    else {
        return None;
    };
    let end = match reason {
        EndReason::Exit => End::Code(exit_code),
        EndReason::Signal => End::Signal(signal.unwrap_or(exit_code - 128)),
        EndReason::TimedOut => End::TimedOut,
    };
    let elapsed = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    Some(Outcome { end, cut: [stdout_truncated, stderr_truncated], disk_failed, elapsed })
}

/// Where the code's output goes.
#[derive(Debug)]
pub(super) enum Outputs {
    /// To ours, as it comes.
    Ours,
    /// Both are kept, for one JSON object at the end.
    Kept(Vec<u8>, Vec<u8>),
}

impl Outputs {
    pub(super) fn new(json: bool) -> Self {
        if json { Self::Kept(Vec::new(), Vec::new()) } else { Self::Ours }
    }

    pub(super) fn take(&mut self, stream: Stream, part: &[u8]) -> io::Result<()> {
        match (self, stream) {
            (Self::Ours, Stream::Stdout) => {
                io::stdout().write_all(part)?;
                return io::stdout().flush();
            }
            (Self::Ours, Stream::Stderr) => return io::stderr().write_all(part),
            (Self::Kept(stdout, _), Stream::Stdout) => stdout.extend(part),
            (Self::Kept(_, stderr), Stream::Stderr) => stderr.extend(part),
        }
        Ok(())
    }

    /// Prints the object, if one was asked for.
    pub(super) fn tell(
        &self,
        language: &str,
        facts: &Facts,
        outcome: &Outcome,
    ) -> Result<(), Failure> {
        let Self::Kept(stdout, stderr) = self else { return Ok(()) };
        let object = object(language, facts, outcome, [stdout, stderr]);
        writeln!(io::stdout(), "{object:#}").map_err(|error| unwritten(&error))
    }
}

fn object(language: &str, facts: &Facts, outcome: &Outcome, outputs: [&[u8]; 2]) -> Value {
    let Facts { vm, start, disk, seconds } = facts;
    let [stdout, stderr] = outputs.map(String::from_utf8_lossy);
    json!({
        "vm": vm,
        "language": language,
        "start": start,
        "disk": disk,
        "end": outcome.end,
        "exit_code": outcome.end.code(),
        "stdout": stdout,
        "stderr": stderr,
        "stdout_truncated": outcome.cut[0],
        "stderr_truncated": outcome.cut[1],
        "disk_failed": outcome.disk_failed,
        "seconds": {
            "overlay": seconds.overlay,
            "spawn": seconds.spawn,
            "boot": seconds.boot,
            "renew": seconds.renew,
            "execute": outcome.elapsed.as_secs_f64(),
        },
    })
}

pub(super) fn unwritten(error: &io::Error) -> Failure {
    Failure::new(Exit::NotRun, format!("can't write: {error}"), "make room, or write elsewhere")
}
