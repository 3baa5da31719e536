//! Drives a port's shim: one JSON object a line out, one a line in (`tests/conformance/SHIM.md`).

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value};

use super::artefacts::LOG;

/// The exit status of a shim that lacks what it was asked for.
const UNIMPLEMENTED: i32 = 89;
/// By this variable in their environment the shim and all that it starts are known.
const MARK: &str = "OVERLAY_POOL_CASE";
const PROTOCOL: u64 = 1;

/// Why a case isn't passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The port breaks a rule.
    Broken(String),
    /// The port says that it lacks what the case needs.
    Unimplemented(String),
    /// The shim doesn't speak the protocol, or the runner can't do what the case asks for.
    Unfit(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Broken(what) => write!(f, "broken: {what}"),
            Self::Unimplemented(what) => write!(f, "not implemented: {what}"),
            Self::Unfit(what) => write!(f, "can't be judged: {what}"),
        }
    }
}

pub(crate) type Checked<T = ()> = Result<T, Failure>;

/// What a port answered: what was asked for, or the error's name and message.
pub(crate) type Answer = Result<Value, (String, String)>;

/// A running shim, killed with all that it started when it is dropped.
pub(crate) struct Shim {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Answers that came before they were asked about.
    early: HashMap<u64, Answer>,
    next_id: u64,
    mark: String,
    log: PathBuf,
    patience: Duration,
}

impl Shim {
    /// Starts `argv` in `folder`. What it says on its standard error goes to `NAME.log` there.
    pub(crate) fn start(
        argv: &[String],
        folder: &Path,
        name: &str,
        patience: Duration,
    ) -> Checked<Self> {
        let unfit = |error| Failure::Unfit(format!("can't start {argv:?}: {error}"));
        let log = folder.join(format!("{name}.log"));
        let stderr = File::options().create(true).append(true).open(&log).map_err(unfit)?;
        let mark = format!("{}/{name}", folder.display());
        let (program, args) = argv.split_first().ok_or_else(|| Failure::Unfit("no shim".into()))?;
        let mut child = Command::new(program)
            .args(args)
            .current_dir(folder)
            .env(MARK, &mark)
            .env("OVERLAY_POOL_LOG", LOG) // of ours; another port does as it likes
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(unfit)?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().expect("it is piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let early = HashMap::new();
        let mut shim = Self { child, stdin, lines, early, next_id: 1, mark, log, patience };
        let hello = shim.ask("hello", Map::new())?;
        match hello {
            Ok(hello) if hello["protocol"] == PROTOCOL => Ok(shim),
            other => Err(Failure::Unfit(format!("hello: protocol {PROTOCOL} expected: {other:?}"))),
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends a request and doesn't wait for its answer.
    pub(crate) fn send(&mut self, request: &str, mut fields: Map<String, Value>) -> Checked<u64> {
        let id = self.next_id;
        self.next_id += 1;
        fields.insert("id".into(), id.into());
        fields.insert("do".into(), request.into());
        let line = format!("{}\n", Value::Object(fields));
        let stdin = self.stdin.as_mut().expect("it is open until the end");
        if stdin.write_all(line.as_bytes()).is_err() {
            return Err(self.ended());
        }
        Ok(id)
    }

    /// Waits for the answer to one request. What isn't implemented is a failure of the case.
    pub(crate) fn answer(&mut self, id: u64) -> Checked<Answer> {
        let deadline = Instant::now() + self.patience;
        let answer = loop {
            if let Some(answer) = self.early.remove(&id) {
                break answer;
            }
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let (id, answer) = parse(&line)?;
                    self.early.insert(id, answer);
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended()),
                Err(RecvTimeoutError::Timeout) => {
                    let (patience, words) = (self.patience, self.last_words());
                    return Err(Failure::Broken(format!("no answer within {patience:?}; {words}")));
                }
            }
        };
        match answer {
            Err((name, message)) if name == "unimplemented" => Err(Failure::Unimplemented(message)),
            answer => Ok(answer),
        }
    }

    /// Whether the answer to a request is there.
    pub(crate) fn is_answered(&mut self, id: u64) -> Checked<bool> {
        while let Ok(line) = self.lines.try_recv() {
            let (id, answer) = parse(&line)?;
            self.early.insert(id, answer);
        }
        Ok(self.early.contains_key(&id))
    }

    pub(crate) fn ask(&mut self, request: &str, fields: Map<String, Value>) -> Checked<Answer> {
        let id = self.send(request, fields)?;
        self.answer(id)
    }

    /// Asks the shim to exit, and waits for its end.
    pub(crate) fn exit(mut self) -> Checked {
        self.ask("exit", Map::new())?
            .map_err(|error| Failure::Unfit(format!("exit: {error:?}")))?;
        drop(self.stdin.take());
        let ended = until(self.patience, || matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)));
        if !ended {
            return Err(Failure::Unfit("the shim didn't exit".into()));
        }
        self.expect_alone("after exit")
    }

    /// Kills the shim itself, and not what it started.
    pub(crate) fn kill(mut self) -> Checked {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.expect_alone("after the shim was killed")
    }

    /// The processes that the shim started, and those that these started.
    pub(crate) fn started(&self) -> Vec<Pid> {
        marked(&self.mark).into_iter().filter(|pid| *pid != self.pid()).collect()
    }

    /// Everything that the shim started ends.
    pub(crate) fn expect_alone(&self, when: &str) -> Checked {
        if until(self.patience, || self.started().is_empty()) {
            return Ok(());
        }
        Err(Failure::Broken(format!("processes are left {when}: {:?}", self.started())))
    }

    fn ended(&mut self) -> Failure {
        match self.child.wait() {
            Ok(status) if status.code() == Some(UNIMPLEMENTED) => {
                Failure::Unimplemented(format!("the shim exited with {UNIMPLEMENTED}"))
            }
            status => {
                let status = status.map_or_else(|error| error.to_string(), |s| s.to_string());
                Failure::Unfit(format!("the shim ended ({status}); {}", self.last_words()))
            }
        }
    }
}

impl Shim {
    /// What the shim said last on its standard error.
    fn last_words(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        match &lines[lines.len().saturating_sub(20)..] {
            [] => "the shim's standard error is empty".to_owned(),
            last => format!("the shim's standard error ends with:\n{}", last.join("\n")),
        }
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in marked(&self.mark) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Whether `condition` came to hold.
pub(crate) fn until(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

fn parse(line: &str) -> Checked<(u64, Answer)> {
    let unfit = || Failure::Unfit(format!("not an answer: {line}"));
    let mut value: Value = serde_json::from_str(line).map_err(|_| unfit())?;
    if let (None, Some(error)) = (value["id"].as_u64(), value.get("error")) {
        return Err(Failure::Unfit(format!("the shim didn't understand: {error}")));
    }
    let id = value["id"].as_u64().ok_or_else(unfit)?;
    if let Some(ok) = value.get_mut("ok") {
        return Ok((id, Ok(ok.take())));
    }
    let error = value.get("error").ok_or_else(unfit)?;
    let text = |field: &str| error[field].as_str().map(str::to_owned).ok_or_else(unfit);
    Ok((id, Err((text("name")?, text("message")?))))
}

/// Whether a process runs the program of this name.
pub(crate) fn runs(pid: Pid, program: &str) -> bool {
    let exe = std::fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero()));
    exe.is_ok_and(|exe| exe.file_name() == Some(program.as_ref()))
}

/// All processes with this mark in their environment.
fn marked(mark: &str) -> Vec<Pid> {
    let entry = format!("{MARK}={mark}");
    let has_mark = |path: &Path| {
        let environment = std::fs::read(path.join("environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).split('\0').any(|variable| variable == entry)
    };
    let pid = |path: &PathBuf| path.file_name().and_then(OsStr::to_str)?.parse().ok();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .map(|process| process.path())
        .filter(|path| pid(path).is_some() && has_mark(path))
        .filter_map(|path| Pid::from_raw(pid(&path)?))
        .collect()
}
