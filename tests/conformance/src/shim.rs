//! Drives a port's shim: one JSON object a line out, one a line in (`SHIM.md`).

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::processes::{self, MARK};
use super::transcript::Transcript;
use crate::capability::Capability;
use crate::port::PATIENCE;

/// The exit status of a shim that lacks what it was asked for.
const UNIMPLEMENTED: i32 = 89;
const PROTOCOL: u64 = 1;

/// Why a case isn't passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "what", rename_all = "kebab-case")]
pub enum Failure {
    /// The port breaks a rule.
    Broken(String),
    /// The port says that it lacks what the case needs.
    Unimplemented(String),
    /// The shim doesn't speak the protocol, or the runner can't do what the case asks for.
    Unfit(String),
}

impl Failure {
    /// What kind of failure it is, in words.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Broken(_) => "broken",
            Self::Unimplemented(_) => "not implemented",
            Self::Unfit(_) => "can't be judged",
        }
    }

    /// What was seen.
    #[must_use]
    pub fn what(&self) -> &str {
        let (Self::Broken(what) | Self::Unimplemented(what) | Self::Unfit(what)) = self;
        what
    }

    /// The same failure, and where it was seen.
    #[must_use]
    pub fn at(self, place: &str) -> Self {
        let at = |what: String| format!("{place}: {what}");
        match self {
            Self::Broken(what) => Self::Broken(at(what)),
            Self::Unimplemented(what) => Self::Unimplemented(at(what)),
            Self::Unfit(what) => Self::Unfit(at(what)),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.kind(), self.what())
    }
}

/// What a step or a look at the port gives.
pub type Checked<T = ()> = Result<T, Failure>;

/// What a port answered: what was asked for, or the error's name and message.
pub type Answer = Result<Value, (String, String)>;

/// What a port says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    protocol: u64,
    /// The port's name.
    #[serde(default)]
    pub name: String,
    /// The port's version, in its own words.
    #[serde(default)]
    pub version: Option<String>,
    /// What the port leaves out, and why.
    #[serde(default)]
    pub lacks: BTreeMap<Capability, String>,
}

/// A running shim, killed with all that it started when it is dropped.
pub struct Shim {
    hello: Hello,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    transcript: Transcript,
    /// Requests whose answers nobody took yet, with those that came.
    requests: HashMap<u64, Option<Answer>>,
    next_id: u64,
    mark: String,
    log: PathBuf,
    patience: Duration,
}

impl Shim {
    /// Starts `argv` in `folder`. What it says on its standard error goes to `NAME.log` there, what
    /// is asked and answered to `NAME.transcript`. Its `TMPDIR` and its `HOME` lie there too.
    ///
    /// # Errors
    ///
    /// It can't be started, or doesn't answer to `hello` by the protocol.
    pub fn start(argv: &[String], folder: &Path, name: &str, patience: Duration) -> Checked<Self> {
        let unfit = |error| Failure::Unfit(format!("can't start `{}`: {error}", argv.join(" ")));
        let log = folder.join(format!("{name}.log"));
        let append = |path| File::options().create(true).append(true).open(path).map_err(unfit);
        let stderr = append(&log)?;
        let (home, tmp) = (folder.join(".home"), folder.join(".tmp"));
        for own in [&home, &tmp] {
            std::fs::create_dir_all(own).map_err(unfit)?;
        }
        let mut transcript = Transcript::to(append(&folder.join(format!("{name}.transcript")))?);
        let mark = format!("{}/{name}", folder.display());
        let (program, args) = argv.split_first().ok_or_else(|| Failure::Unfit("no shim".into()))?;
        let mut child = Command::new(program)
            .args(args)
            .current_dir(folder)
            .env(MARK, &mark)
            .env("HOME", home)
            .env("TMPDIR", tmp)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(unfit)?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let stdout = stdout.ok_or_else(|| Failure::Unfit("its output isn't piped".to_owned()))?;
        let (sender, lines) = mpsc::channel();
        let mut heard = transcript.another().map_err(unfit)?;
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                heard.note('<', &line);
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        transcript.note('!', &argv.join(" "));
        let mut shim = Self {
            hello: Hello::default(),
            child,
            stdin,
            lines,
            transcript,
            requests: HashMap::new(),
            next_id: 1,
            mark,
            log,
            patience,
        };
        let unfit = |what: String| Failure::Unfit(format!("hello: {what}"));
        // A program may take long to come up on a machine that has much to do.
        let hello = shim.send("hello", Map::new())?;
        let hello = shim.answer_within(hello, patience.max(PATIENCE))?;
        let hello = hello.map_err(|(name, message)| unfit(format!("{name}: {message}")))?;
        shim.hello = serde_path_to_error::deserialize(&hello)
            .map_err(|error| unfit(format!("{error}: {hello}")))?;
        if shim.hello.protocol != PROTOCOL {
            return Err(unfit(format!("not protocol {PROTOCOL}: {hello}")));
        }
        Ok(shim)
    }

    /// What the port says of itself.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends a request and doesn't wait for its answer.
    ///
    /// # Errors
    ///
    /// What came instead, or that nothing came.
    pub fn send(&mut self, request: &str, mut fields: Map<String, Value>) -> Checked<u64> {
        let id = self.next_id;
        self.next_id += 1;
        fields.insert("id".into(), id.into());
        fields.insert("do".into(), request.into());
        let line = Value::Object(fields).to_string();
        self.transcript.note('>', &line);
        let written = match &mut self.stdin {
            Some(stdin) => stdin.write_all(format!("{line}\n").as_bytes()).is_ok(),
            None => false,
        };
        if !written {
            return Err(self.ended());
        }
        self.requests.insert(id, None);
        Ok(id)
    }

    /// Waits for the answer to one request. What isn't implemented is a failure of the case.
    ///
    /// # Errors
    ///
    /// What came instead, or that nothing came.
    pub fn answer(&mut self, id: u64) -> Checked<Answer> {
        self.answer_within(id, self.patience)
    }

    /// Waits no longer than that.
    ///
    /// # Errors
    ///
    /// What came instead, or that nothing came.
    pub fn answer_within(&mut self, id: u64, patience: Duration) -> Checked<Answer> {
        let deadline = Instant::now() + patience;
        while !self.is_answered(id)? {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.take_note(&line)?,
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended()),
                Err(RecvTimeoutError::Timeout) => {
                    let words = self.last_words();
                    return Err(Failure::Broken(format!(
                        "no answer within {patience:.1?}; {words}"
                    )));
                }
            }
        }
        let Some(answer) = self.requests.remove(&id).flatten() else {
            return Err(Failure::Unfit(format!("request {id} was answered and read before")));
        };
        match answer {
            Err((name, message)) if name == "unimplemented" => Err(Failure::Unimplemented(message)),
            answer => Ok(answer),
        }
    }

    /// Whether the answer to a request is there.
    ///
    /// # Errors
    ///
    /// What came instead, or that nothing came.
    pub fn is_answered(&mut self, id: u64) -> Checked<bool> {
        while let Ok(line) = self.lines.try_recv() {
            self.take_note(&line)?;
        }
        Ok(matches!(self.requests.get(&id), Some(Some(_))))
    }

    fn take_note(&mut self, line: &str) -> Checked {
        let (id, answer) = parse(line)?;
        let Some(slot @ None) = self.requests.get_mut(&id) else {
            let what = format!("no request {id} waits for an answer (any more): {line}");
            return Err(Failure::Unfit(what));
        };
        *slot = Some(answer);
        Ok(())
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    ///
    /// What came instead, or that nothing came.
    pub fn ask(&mut self, request: &str, fields: Map<String, Value>) -> Checked<Answer> {
        let id = self.send(request, fields)?;
        self.answer(id)
    }

    /// Asks the shim to exit, and waits for its end.
    ///
    /// # Errors
    ///
    /// What came instead, or that nothing came.
    pub fn exit(mut self) -> Checked {
        let exit = self.ask("exit", Map::new())?;
        exit.map_err(|(name, message)| Failure::Unfit(format!("exit: {name}: {message}")))?;
        self.expect_end("after exit")
    }

    /// Ends the shim's input, and waits for its end.
    ///
    /// # Errors
    ///
    /// What came instead, or that nothing came.
    pub fn hang_up(mut self) -> Checked {
        self.expect_end("after the end of its input")
    }

    fn expect_end(&mut self, when: &str) -> Checked {
        drop(self.stdin.take());
        match self.wait() {
            Some(status) if status.success() => {}
            Some(status) => {
                let words = self.last_words();
                return Err(Failure::Unfit(format!("the shim ended {when} ({status}); {words}")));
            }
            None => return Err(Failure::Unfit(format!("the shim doesn't end {when}"))),
        }
        self.expect_alone(when)?;
        // All is said: nobody is left who could say more.
        while let Ok(line) = self.lines.recv_timeout(self.patience) {
            self.take_note(&line)?;
        }
        Ok(())
    }

    fn wait(&mut self) -> Option<ExitStatus> {
        let mut status = None;
        until(self.patience, || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        });
        status
    }

    /// Kills the shim itself, and not what it started.
    ///
    /// # Errors
    ///
    /// What it started lives on.
    pub fn kill(mut self) -> Checked {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.expect_alone("after the shim was killed")
    }

    /// The processes that the shim started, and those that these started.
    #[must_use]
    pub fn started(&self) -> Vec<Pid> {
        processes::started_by(self.pid(), &self.mark)
    }

    /// Everything that the shim started ends.
    ///
    /// # Errors
    ///
    /// Some of it doesn't.
    pub fn expect_alone(&self, when: &str) -> Checked {
        self.expect_alone_but(when, |_| false)
    }

    /// Everything that the shim started ends, but for these.
    ///
    /// # Errors
    ///
    /// Some of it doesn't.
    pub fn expect_alone_but(&self, when: &str, may_stay: impl Fn(Pid) -> bool) -> Checked {
        let mut left = Vec::new();
        let ended = until(self.patience, || {
            left = self.started();
            left.retain(|pid| !may_stay(*pid));
            left.is_empty()
        });
        if ended {
            return Ok(());
        }
        let left = processes::names(&left);
        Err(Failure::Broken(format!("processes are left {when}: {left}")))
    }

    fn ended(&mut self) -> Failure {
        let status = self.wait();
        if status.and_then(|status| status.code()) == Some(UNIMPLEMENTED) {
            return Failure::Unimplemented(format!("the shim exited with {UNIMPLEMENTED}"));
        }
        let words = self.last_words();
        Failure::Unfit(match status {
            Some(status) => format!("the shim ended ({status}); {words}"),
            None => format!("the shim closed its input or output, and lives; {words}"),
        })
    }

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
        // Those that only descend from it are known as long as it lives.
        let started = self.started();
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in started.into_iter().chain(self.started()) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Whether `condition` came to hold.
pub fn until(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
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
    let unfit = |why: &str| Failure::Unfit(format!("not an answer, {why}: {line}"));
    let mut value: Value = serde_json::from_str(line).map_err(|_| unfit("not JSON"))?;
    let error = value.get("error").filter(|error| !error.is_null()).cloned();
    let Some(id) = value["id"].as_u64() else {
        return Err(unfit("without the id of a request"));
    };
    let ok = value.get_mut("ok").map(Value::take);
    match (ok, error) {
        (Some(ok), None) => Ok((id, Ok(ok))),
        (None | Some(Value::Null), Some(error)) => {
            let text = |field: &str| error[field].as_str().map(str::to_owned);
            let error = text("name").zip(text("message"));
            Ok((id, Err(error.ok_or_else(|| unfit("`error` must have `name` and `message`"))?)))
        }
        (Some(_), Some(_)) => Err(unfit("with both `ok` and `error`")),
        (None, None) => Err(unfit("without `ok` or `error`")),
    }
}
