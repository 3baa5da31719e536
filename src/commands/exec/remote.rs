//! Code in a VM of a server.

use std::io;

use overlay_pool::api::{Client, ClientError, Event, Problem, ProgramLimits, RunRequest, Running};
use overlay_pool::vm::{End, Outcome, Stream, VmSettings};

use super::done::{Facts, Outputs, outcome, unwritten};
use super::job::{Job, Stdin};
use crate::commands::exit::Exit;
use crate::commands::failure::Failure;

/// Has a server begin with it. Until then nothing of the standard input is read.
pub(super) async fn begin(
    client: &Client,
    language: &str,
    job: &Job,
    settings: &VmSettings,
) -> Result<Running, Failure> {
    let Ok(code) = String::from_utf8(job.code.clone()) else {
        let cause = "the code isn't UTF-8, which a server can't be told";
        return Err(Failure::new(Exit::NotRun, cause, "leave --socket out"));
    };
    let request = RunRequest {
        code,
        name: Some(job.name.clone()),
        arguments: job.arguments.clone(),
        environment: job.environment.iter().cloned().collect(),
        limits: ProgramLimits {
            seconds: Some(settings.execute_timeout.as_secs_f64()),
            output_bytes: Some(u64::try_from(settings.max_output).unwrap_or(u64::MAX)),
        },
        ..RunRequest::default()
    };
    let request = request.of(language);
    let running = if job.reads {
        client.execute_with(&request, Stdin::new()?).await
    } else {
        client.execute(&request).await
    };
    running.map_err(|error| failed(&error))
}

/// Takes what the program writes, as it comes.
pub(super) async fn run(
    mut running: Running,
    language: &str,
    outputs: &mut Outputs,
) -> Result<Outcome, Failure> {
    let mut facts = None;
    loop {
        let event = running.next().await.map_err(|error| failed(&error))?;
        let event =
            event.ok_or_else(|| Failure::new(Exit::NotRun, "the server told no end", ""))?;
        if let Some(outcome) = outcome(&event) {
            if let Some(facts) = &facts {
                outputs.tell(language, facts, &outcome)?;
            }
            return Ok(outcome);
        }
        let (stream, data) = match event {
            Event::Begun { vm, start, disk, seconds } => {
                tracing::debug!(vm, ?start, "a server's VM");
                facts = Some(Facts { vm, start: Some(start), disk, seconds });
                continue;
            }
            Event::Stdout { data } => (Stream::Stdout, data),
            Event::Stderr { data } => (Stream::Stderr, data),
            Event::Failed { problem: Problem { detail, .. } } => {
                return Err(Failure::new(Exit::NotRun, detail, ""));
            }
            _ => continue,
        };
        let Some(bytes) = data.into_bytes() else {
            return Err(Failure::new(Exit::NotRun, "the server told no base 64", ""));
        };
        match outputs.take(stream, &bytes) {
            Ok(()) => {}
            // Whoever closed the pipe has read enough. The program ends with the connection.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Ok(Outcome {
                    end: End::Signal(13),
                    cut: [false; 2],
                    disk_failed: false,
                    elapsed: std::time::Duration::ZERO,
                });
            }
            Err(error) => return Err(unwritten(&error)),
        }
    }
}

fn failed(error: &ClientError) -> Failure {
    Failure::new(Exit::NotRun, error, "")
}
