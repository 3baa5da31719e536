//! A QMP client: as much of it as creating overlays and running VMs needs.
//!
//! Answers are matched by id, lines are bounded, events and fields that aren't known are passed
//! over. It is cancel-safe: a command that was sent is answered whether or not anyone still
//! waits, since two tasks own the two halves of the stream.
//! Source: QEMU `docs/interop/qmp-spec.rst`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// The longest line that is read, in bytes. Answers to our commands have a few hundred.
const MAX_LINE: u64 = 1 << 20;

/// What the lines that are sent and read are logged as, at the level `trace`.
const TRANSCRIPT: &str = "overlay_pool::qmp";

/// Why a QMP command failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QmpError {
    /// The connection ended, before or while the command was under way.
    #[error("the connection ended: {0}")]
    Closed(String),
    /// The command was refused.
    #[error("{command}: {message}")]
    Refused {
        /// The command.
        command: String,
        /// What the server said.
        message: String,
    },
    /// A job ended with an error.
    #[error("{0}")]
    Job(String),
}

/// A connection to a QMP server.
#[derive(Debug)]
pub(crate) struct Qmp {
    state: Arc<Mutex<State>>,
    outgoing: mpsc::UnboundedSender<Vec<u8>>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    waiting: HashMap<u64, oneshot::Sender<Result<Value, Fault>>>,
    jobs: HashMap<String, oneshot::Sender<()>>,
    closed: Option<String>,
}

/// A line from the server: a greeting, an answer or an event.
#[derive(Deserialize)]
struct Message {
    id: Option<Value>,
    #[serde(rename = "return")]
    result: Option<Value>,
    error: Option<Fault>,
    event: Option<String>,
    data: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Fault {
    desc: String,
}

impl Qmp {
    /// Waits for the greeting and leaves the negotiation mode.
    pub(crate) async fn connect(stream: UnixStream) -> Result<Self, QmpError> {
        Self::connect_with(stream, |_, _| {}).await
    }

    /// Like [`connect`](Self::connect); `on_event` is called with each event's name and data, and
    /// must not block.
    pub(crate) async fn connect_with(
        stream: UnixStream,
        on_event: impl Fn(&str, &Value) + Send + 'static,
    ) -> Result<Self, QmpError> {
        let (reader, writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let greeting = read_line(&mut reader).await.map_err(QmpError::Closed)?;
        if !greeting.starts_with(br#"{"QMP""#) {
            return Err(QmpError::Closed("the server's greeting is not QMP's".to_owned()));
        }
        let state = Arc::new(Mutex::new(State::default()));
        let (outgoing, lines) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(read(reader, Arc::clone(&state), on_event));
        tasks.spawn(write(writer, lines, Arc::clone(&state)));
        let qmp = Self { state, outgoing, _tasks: tasks };
        qmp.execute("qmp_capabilities", &json!({})).await?;
        Ok(qmp)
    }

    /// Sends a command now; the future waits for its answer and may be dropped.
    pub(crate) fn execute(
        &self,
        command: &'static str,
        arguments: &Value,
    ) -> impl Future<Output = Result<Value, QmpError>> + Send + use<> {
        let (sender, answer) = oneshot::channel();
        let id = {
            let mut state = lock(&self.state);
            state.next_id += 1;
            let id = state.next_id;
            if state.closed.is_none() {
                state.waiting.insert(id, sender);
            }
            id
        };
        let mut line = json!({ "execute": command, "arguments": arguments, "id": id }).to_string();
        tracing::trace!(target: TRANSCRIPT, "> {line}");
        line.push('\n');
        // Where the writer has ended, the state is closed and the answer never comes.
        let _ = self.outgoing.send(line.into_bytes());
        let state = Arc::clone(&self.state);
        async move {
            match answer.await {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(fault)) => {
                    Err(QmpError::Refused { command: command.to_owned(), message: fault.desc })
                }
                Err(_) => Err(closed(&state)),
            }
        }
    }

    /// Waits for the end of a job. To be called before the job is started, since the event may
    /// come before the command's answer.
    pub(crate) fn job_concluded(
        &self,
        job: &str,
    ) -> impl Future<Output = Result<(), QmpError>> + Send + use<> {
        let (sender, concluded) = oneshot::channel();
        {
            let mut state = lock(&self.state);
            if state.closed.is_none() {
                state.jobs.insert(job.to_owned(), sender);
            }
        }
        let state = Arc::clone(&self.state);
        async move { concluded.await.map_err(|_| closed(&state)) }
    }

    /// Forgets a job that did not start.
    pub(crate) fn forget_job(&self, job: &str) {
        lock(&self.state).jobs.remove(job);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn closed(state: &Mutex<State>) -> QmpError {
    let cause = lock(state).closed.clone();
    QmpError::Closed(cause.unwrap_or_else(|| "the client was dropped".to_owned()))
}

/// Ends the connection for all who wait; the first cause stands.
fn close(state: &Mutex<State>, cause: String) {
    let mut state = lock(state);
    state.closed.get_or_insert(cause);
    state.waiting.clear();
    state.jobs.clear();
}

async fn read(
    mut reader: BufReader<OwnedReadHalf>,
    state: Arc<Mutex<State>>,
    on_event: impl Fn(&str, &Value),
) {
    let cause = loop {
        match read_line(&mut reader).await {
            Ok(line) => {
                if let Err(cause) = dispatch(&line, &state, &on_event) {
                    break cause;
                }
            }
            Err(cause) => break cause,
        }
    };
    close(&state, cause);
}

async fn read_line(reader: &mut BufReader<OwnedReadHalf>) -> Result<Vec<u8>, String> {
    let mut line = Vec::new();
    let read = reader.take(MAX_LINE).read_until(b'\n', &mut line).await;
    match read {
        Err(error) => Err(error.to_string()),
        Ok(_) if line.ends_with(b"\n") => Ok(line),
        Ok(_) if line.len() as u64 == MAX_LINE => Err(format!("a line of over {MAX_LINE} bytes")),
        Ok(_) => Err("the server closed it".to_owned()),
    }
}

fn dispatch(
    line: &[u8],
    state: &Mutex<State>,
    on_event: impl Fn(&str, &Value),
) -> Result<(), String> {
    tracing::trace!(target: TRANSCRIPT, "< {}", String::from_utf8_lossy(line).trim_end());
    let message: Message =
        serde_json::from_slice(line).map_err(|error| format!("a line that is not QMP: {error}"))?;
    if let Some(event) = message.event {
        let data = message.data.unwrap_or_default();
        on_event(&event, &data);
        if event == "JOB_STATUS_CHANGE"
            && data["status"] == "concluded"
            && let Some(job) = data["id"].as_str()
            && let Some(waiting) = lock(state).jobs.remove(job)
        {
            let _ = waiting.send(());
        }
        return Ok(());
    }
    let answer = match (message.result, message.error) {
        (_, Some(fault)) => Err(fault),
        (Some(value), None) => Ok(value),
        (None, None) => return Ok(()), // something newer than we are
    };
    match (message.id.as_ref().and_then(Value::as_u64), answer) {
        (Some(id), answer) => {
            // Nobody waits for the answer to a command whose caller was cancelled.
            if let Some(waiting) = lock(state).waiting.remove(&id) {
                let _ = waiting.send(answer);
            }
            Ok(())
        }
        (None, Err(fault)) => Err(format!("the server did not understand us: {}", fault.desc)),
        (None, Ok(_)) => Ok(()),
    }
}

async fn write(
    mut writer: OwnedWriteHalf,
    mut lines: mpsc::UnboundedReceiver<Vec<u8>>,
    state: Arc<Mutex<State>>,
) {
    while let Some(line) = lines.recv().await {
        if let Err(error) = writer.write_all(&line).await {
            close(&state, error.to_string());
            return;
        }
    }
}
