//! The inside of a VM, as its agent lets us reach it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::agent::{Agent, AgentError};
use super::execution::{End, Output};

/// How long the agent may take to answer anything, on a loaded machine under emulation.
const ANSWER: Duration = Duration::from_secs(30);
/// How long killed programs may take to be gone.
const KILLED: Duration = Duration::from_secs(10);
/// After how long an answer counts as lost with the agent that was to give it.
const LOST: Duration = Duration::from_secs(5);
/// Asking often slows an emulated guest down.
const FIRST_POLL: Duration = Duration::from_millis(20);
const LAST_POLL: Duration = Duration::from_millis(200);
/// The program in the images that makes a booted or resumed guest one of its own.
const RENEW: &str = "/usr/lib/overlay-pool/renew";
const SEED: usize = 64;

/// A guest whose agent answers.
#[derive(Debug)]
pub(super) struct Guest {
    agent: Agent,
    /// The process group of a program whose caller went away.
    left: Option<i64>,
}

/// What became of a program.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) end: End,
    pub(super) stdout: Output,
    pub(super) stderr: Output,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Status {
    exited: bool,
    exitcode: Option<i32>,
    signal: Option<i32>,
    #[serde(default)]
    out_data: String,
    #[serde(default)]
    err_data: String,
    #[serde(default)]
    out_truncated: bool,
    #[serde(default)]
    err_truncated: bool,
}

impl Guest {
    /// Waits until the agent answers.
    pub(super) async fn connect(mut agent: Agent, deadline: Instant) -> Result<Self, AgentError> {
        agent.sync(deadline).await?;
        Ok(Self { agent, left: None })
    }

    /// Gives the guest a seed, a clock, a hostname, a machine id and a disk to write to. To be
    /// called once after each boot or resume, and before any other code.
    pub(super) async fn renew(&mut self, hostname: &str, limit: usize) -> Result<Ran, AgentError> {
        let seed: [u8; SEED] = rand::random();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = format!("{}.{:09}", now.as_secs(), now.subsec_nanos());
        let deadline = Instant::now() + ANSWER;
        let pid = self.start(RENEW, &[hostname, &time], &seed).await?;
        self.wait(pid, deadline, limit).await
    }

    /// Runs a program to its end, in a process group of its own that is killed when the time is
    /// over, and keeps `limit` bytes of each of its outputs.
    pub(super) async fn run(
        &mut self,
        command: &[&str],
        input: &[u8],
        patience: Duration,
        limit: usize,
    ) -> Result<Ran, AgentError> {
        if let Some(group) = self.left {
            self.kill(group, limit).await?;
        }
        let deadline = Instant::now() + patience;
        // The agent's child leads no group, so that setsid keeps its process id.
        let group = self.start("setsid", command, input).await?;
        self.wait(group, deadline, limit).await
    }

    /// Waits for a program's end, and kills its process group when the time is over.
    async fn wait(
        &mut self,
        group: i64,
        deadline: Instant,
        limit: usize,
    ) -> Result<Ran, AgentError> {
        self.left = Some(group);
        let mut pause = FIRST_POLL;
        loop {
            sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
            pause = LAST_POLL.min(pause.mul_f64(1.3));
            let status = self.status(group).await?;
            if status.exited {
                self.left = None;
                return ran(&status, limit);
            }
            if Instant::now() >= deadline {
                return self.kill(group, limit).await;
            }
        }
    }

    /// Kills what was started, and what it started; what it said by then comes back, unless a
    /// process that left its group has the output still open.
    async fn kill(&mut self, group: i64, limit: usize) -> Result<Ran, AgentError> {
        let deadline = Instant::now() + KILLED;
        self.start("kill", &["-KILL", "--", &format!("-{group}")], &[]).await?;
        let mut pause = FIRST_POLL;
        while Instant::now() < deadline {
            sleep(pause).await;
            pause = LAST_POLL.min(pause * 2);
            // An agent that was killed too, and started again, doesn't know the program.
            let status = match self.status(group).await {
                Err(AgentError::Refused { .. }) => break,
                status => status?,
            };
            if status.exited {
                self.left = None;
                return Ok(Ran { end: End::TimedOut, ..ran(&status, limit)? });
            }
        }
        self.kill_all().await?;
        self.left = None;
        let lost = || Output { bytes: Vec::new(), truncated: true };
        Ok(Ran { end: End::TimedOut, stdout: lost(), stderr: lost() })
    }

    /// Kills everything but init, which starts the agent anew.
    async fn kill_all(&mut self) -> Result<(), AgentError> {
        let deadline = Instant::now() + ANSWER;
        // Only the agent that is to die knows it.
        let known = self.start("sleep", &["1000"], &[]).await?;
        // That agent often dies before it has answered.
        let _ = timeout(LOST, self.start("kill", &["-KILL", "--", "-1"], &[])).await;
        while Instant::now() < deadline {
            sleep(LAST_POLL).await;
            match timeout(LOST, self.status(known)).await {
                Ok(Err(AgentError::Refused { .. })) => return Ok(()),
                Ok(Err(error @ (AgentError::Closed | AgentError::Flood))) => return Err(error),
                _ => {}
            }
        }
        Err(AgentError::Silent("it was killed, and did not come again"))
    }

    async fn start(
        &mut self,
        program: &str,
        arguments: &[&str],
        input: &[u8],
    ) -> Result<i64, AgentError> {
        let command = "guest-exec";
        let mut request = json!({
            "path": program,
            "arg": arguments,
            "capture-output": true,
        });
        if !input.is_empty() {
            request["input-data"] = BASE64_STANDARD.encode(input).into();
        }
        let answer = self.agent.call(command, &request, Instant::now() + ANSWER).await?;
        answer["pid"].as_i64().ok_or(AgentError::Malformed { command })
    }

    async fn status(&mut self, pid: i64) -> Result<Status, AgentError> {
        let command = "guest-exec-status";
        let deadline = Instant::now() + ANSWER;
        let status = self.agent.call(command, &json!({ "pid": pid }), deadline).await?;
        serde_json::from_value(status).map_err(|_| AgentError::Malformed { command })
    }
}

fn ran(status: &Status, limit: usize) -> Result<Ran, AgentError> {
    let output = |data: &str, truncated| {
        let mut bytes = BASE64_STANDARD
            .decode(data)
            .map_err(|_| AgentError::Malformed { command: "guest-exec-status" })?;
        let truncated = truncated || bytes.len() > limit;
        bytes.truncate(limit);
        Ok(Output { bytes, truncated })
    };
    let end = match (status.signal, status.exitcode) {
        (Some(signal), _) => End::Signal(signal),
        (None, code) => End::Code(code.unwrap_or(0)),
    };
    Ok(Ran {
        end,
        stdout: output(&status.out_data, status.out_truncated)?,
        stderr: output(&status.err_data, status.err_truncated)?,
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::Value;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::UnixStream;

    use super::*;

    /// A guest whose agents know the programs that they started, and die without an answer of
    /// the kill that is to reach all.
    async fn serve(stream: UnixStream) {
        let mut stream = BufReader::new(stream);
        let (mut pids, mut known) = (0..100, Vec::new());
        let mut line = Vec::new();
        while stream.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
            line.retain(|byte| *byte != 0xff);
            let request: Value = serde_json::from_slice(&line).expect("a request");
            line.clear();
            let asked = &request["arguments"];
            let mut answer = match request["execute"].as_str() {
                Some("guest-sync-delimited") => json!({ "return": asked["id"] }),
                Some("guest-exec") if asked["arg"][2] == "-1" => {
                    known.clear();
                    continue;
                }
                Some("guest-exec") => {
                    known.extend(pids.next().map(Value::from));
                    json!({ "return": { "pid": known.last() } })
                }
                _ if known.contains(&asked["pid"]) => json!({ "return": { "exited": false } }),
                _ => json!({ "error": { "desc": "no such program" } }),
            };
            answer["id"] = request["id"].clone();
            let answered = stream.write_all(format!("{answer}\n").as_bytes()).await;
            answered.expect("an answer");
        }
    }

    #[rstest]
    #[tokio::test(start_paused = true)]
    async fn an_agent_that_dies_of_its_last_request_is_followed_by_the_next() {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        tokio::spawn(serve(theirs));
        let mut guest = Guest { agent: Agent::new(ours), left: Some(1000) };
        let ran = guest.kill(1000, 1).await.expect("killed");
        assert_eq!(ran.end, End::TimedOut);
        assert_eq!(guest.left, None);
        guest.start("true", &[], &[]).await.expect("the next agent answers");
    }
}
