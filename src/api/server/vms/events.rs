//! What a client hears of its program while that runs: one JSON object a line.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::fleet::Vms;
use super::lease::Lease;
use super::request::Input;
use super::sessions::Turn;
use crate::api::wire::{EndReason, Event, Problem, VmStart};
use crate::vm::{End, Outcome, Program, Stream as Output, Vm, VmError};

/// What stands in the head of such an answer.
pub(super) const NDJSON: &str = "application/x-ndjson";
/// How much of a program's output may wait for its client, in parts.
const PARTS: usize = 16;

/// The VM that a program runs in, and what becomes of it afterwards.
pub(super) enum Holder {
    /// It is destroyed.
    Once(Lease),
    /// Its user keeps it.
    Session(Turn),
}

/// What is to be run.
pub(super) struct Order {
    pub(super) program: Program,
    pub(super) input: Input,
    /// The guest's files that come back.
    pub(super) files: Vec<String>,
}

impl Holder {
    fn vm(&self) -> &Arc<Vm> {
        match self {
            Self::Once(lease) => lease.vm(),
            Self::Session(turn) => turn.vm(),
        }
    }

    async fn done(self) {
        if let Self::Once(lease) = self {
            lease.end().await;
        }
    }
}

/// Runs a program, and answers with what it writes as it comes. If the client goes away, all that
/// runs is killed.
pub(super) fn answer(vms: Arc<Vms>, holder: Holder, order: Order) -> Response {
    let (sender, outputs) = mpsc::channel(PARTS);
    let (last, rest) = mpsc::channel(1);
    let begun = begun(holder.vm());
    // On its own, since a client that reads slowly shall not stop the clock of its program.
    tokio::spawn(run(vms, holder, order, sender, last));
    let outputs = received(outputs).map(|(stream, bytes): (Output, Vec<u8>)| match stream {
        Output::Stdout => Event::Stdout { data: bytes.into() },
        Output::Stderr => Event::Stderr { data: bytes.into() },
    });
    let events = stream::iter([begun]).chain(outputs).chain(received(rest));
    let lines = events.map(|event| Ok::<_, Infallible>(line(&event)));
    ([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(lines)).into_response()
}

fn received<T>(mut receiver: mpsc::Receiver<T>) -> impl Stream<Item = T> {
    stream::poll_fn(move |context| receiver.poll_recv(context))
}

fn line(event: &Event) -> Bytes {
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

async fn run(
    vms: Arc<Vms>,
    holder: Holder,
    order: Order,
    output: mpsc::Sender<(Output, Vec<u8>)>,
    last: mpsc::Sender<Event>,
) {
    let vm = Arc::clone(holder.vm());
    let Order { program, input, files } = order;
    let Input { read, feeder } = input;
    let feeding = async {
        if let Some(feeder) = feeder {
            feeder.run().await;
        }
        // Its end is not the program's.
        std::future::pending().await
    };
    let once = matches!(holder, Holder::Once(_));
    let outcome = tokio::select! {
        outcome = vm.run(&program, read, output) => outcome,
        outcome = feeding => outcome,
        // Nobody waits for the program to obey: the VM is destroyed.
        () = last.closed(), if once => {
            vms.figures.given_up(&vm);
            return holder.done().await;
        }
    };
    vms.figures.ran(&vm, &outcome);
    let end = match outcome {
        Ok(outcome) => {
            let get = |path: String, limit| {
                let vm = Arc::clone(&vm);
                async move { vm.get_file(&path, limit).await }
            };
            let bounds = (vms.limits.upload, vms.time());
            if send_files(&files, get, bounds, &last).await.is_err() {
                return holder.done().await;
            }
            ended(&outcome)
        }
        Err(error) => failed(&error),
    };
    let tell = async { drop(last.send(end).await) };
    if vm.disk_source().is_some() {
        tokio::join!(holder.done(), tell);
    } else {
        // Whoever hears of the end may have the disk.
        holder.done().await;
        tell.await;
    }
}

/// Sends the guest's files, of `most` bytes together, or why there are none; fails if nobody takes
/// them. However many there are, the guest has one time for all of them.
async fn send_files<F: Future<Output = Result<Vec<u8>, VmError>>>(
    files: &[String],
    get: impl Fn(String, usize) -> F,
    (most, time): (usize, Duration),
    to: &mpsc::Sender<Event>,
) -> Result<(), mpsc::error::SendError<Event>> {
    let (mut left, deadline) = (most, Instant::now() + time);
    for path in files {
        let (data, error) = match timeout_at(deadline, get(path.clone(), left)).await {
            Ok(Ok(bytes)) => {
                left -= bytes.len();
                (Some(bytes.into()), None)
            }
            Ok(Err(error)) => (None, Some(error.to_string())),
            Err(_) => (None, Some(format!("the files didn't come within {time:?}"))),
        };
        to.send(Event::File { path: path.clone(), data, error }).await?;
    }
    Ok(())
}

fn failed(error: &VmError) -> Event {
    Event::Failed { problem: Problem::from(error) }
}

fn begun(vm: &Vm) -> Event {
    Event::Begun {
        vm: vm.id().to_owned(),
        start: start(vm),
        disk: vm.disk_source().map(Into::into),
        seconds: vm.phases().into(),
    }
}

/// How a VM came to life that has.
pub(super) fn start(vm: &Vm) -> VmStart {
    vm.start().map_or(VmStart::Booted, VmStart::from)
}

fn ended(outcome: &Outcome) -> Event {
    let Outcome { end, cut: [stdout_truncated, stderr_truncated], disk_failed, elapsed } = *outcome;
    let (reason, signal) = match end {
        End::Code(_) => (EndReason::Exit, None),
        End::Signal(signal) => (EndReason::Signal, Some(signal)),
        End::TimedOut => (EndReason::TimedOut, None),
    };
    Event::End {
        reason,
        exit_code: end.code(),
        signal,
        stdout_truncated,
        stderr_truncated,
        disk_failed,
        seconds: elapsed.as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::VmState;

    /// Each file could take as long as a program may, and there may be a thousand.
    #[tokio::test(start_paused = true)]
    async fn all_files_have_one_time() {
        let (sender, mut events) = mpsc::channel(10);
        let files: Vec<_> = (0..10).map(|number| number.to_string()).collect();
        let slow = async |vm, _| {
            tokio::time::sleep(Duration::from_secs(59)).await;
            Err(VmError::NotReady { vm, state: VmState::Ready })
        };
        let begin = Instant::now();
        let bounds = (1, Duration::from_secs(60));
        send_files(&files, slow, bounds, &sender).await.expect("they are taken");
        drop(sender);
        let mut late = 0;
        for file in &files {
            let Some(Event::File { path, error: Some(error), .. }) = events.recv().await else {
                panic!("{file} isn't told of");
            };
            assert_eq!(path, *file);
            late += usize::from(error.contains("within 60s"));
        }
        assert_eq!((late, begin.elapsed().as_secs()), (9, 60));
    }
}
