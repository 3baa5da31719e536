//! A client of QEMU's guest agent.
//!
//! The guest is not to be trusted: lines are bounded, each call has a deadline, and what isn't
//! the answer is passed over. A call that was given up in its middle is made up for by the next
//! one, which first finds out where the agent is.
//! Source: QEMU `qga/qapi-schema.json`, `docs/interop/qemu-ga.rst`.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

/// The longest answer in bytes. The agent gives 16 MiB of each of two streams at most, in base64.
const MAX_LINE: u64 = 48 << 20;
/// How often the agent is called until it first answers. Nobody may be there to hear it yet.
const CALL_AGAIN: Duration = Duration::from_secs(1);
/// What makes the agent forget half a request, and what precedes its answer.
const DELIMITER: u8 = 0xff;

/// Why the guest agent could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The guest doesn't answer in time.
    #[error("the guest agent doesn't answer: {0}")]
    Silent(&'static str),
    /// The guest sent a line without an end.
    #[error("the guest agent sent a line of over {MAX_LINE} bytes")]
    Flood,
    /// QEMU has closed the connection, since it ended.
    #[error("the connection to the guest agent ended")]
    Closed,
    /// The agent refused.
    #[error("the guest agent refused {command}: {message}")]
    Refused {
        /// The command.
        command: &'static str,
        /// What it said.
        message: String,
    },
    /// The agent's answer isn't what it should be.
    #[error("the guest agent's answer to {command} can't be understood")]
    Malformed {
        /// The command.
        command: &'static str,
    },
}

/// A connection to the agent in one guest.
#[derive(Debug)]
pub(super) struct Agent {
    stream: BufReader<UnixStream>,
    next_id: u64,
    /// Nothing is under way and nothing unread was asked for.
    in_step: bool,
}

#[derive(Deserialize)]
struct Answer {
    id: Option<u64>,
    #[serde(rename = "return")]
    result: Option<Value>,
    error: Option<Fault>,
}

#[derive(Deserialize)]
struct Fault {
    desc: String,
}

impl Agent {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream: BufReader::new(stream), next_id: 0, in_step: false }
    }

    /// Waits until the agent answers, and passes over all that it said before.
    pub(super) async fn sync(&mut self, deadline: Instant) -> Result<(), AgentError> {
        let first = self.next_id + 1;
        loop {
            let id = self.new_id();
            let line = json!({ "execute": "guest-sync-delimited", "arguments": { "id": id } });
            let again = deadline.min(Instant::now() + CALL_AGAIN);
            let answered = async {
                self.send(&[&[DELIMITER][..], line.to_string().as_bytes(), b"\n"].concat()).await?;
                loop {
                    let line = self.line().await?;
                    let answer = serde_json::from_slice::<Answer>(&line).ok();
                    let token = answer.and_then(|answer| answer.result?.as_u64());
                    if token.is_some_and(|token| (first..=id).contains(&token)) {
                        return Ok(());
                    }
                }
            };
            match timeout_at(again, answered).await {
                Ok(Ok(())) => {
                    self.in_step = true;
                    return Ok(());
                }
                Ok(Err(error)) => return Err(error),
                Err(_) if Instant::now() >= deadline => {
                    return Err(AgentError::Silent("it is not there, or hangs"));
                }
                Err(_) => {}
            }
        }
    }

    /// Sends a command and waits for its answer.
    pub(super) async fn call(
        &mut self,
        command: &'static str,
        arguments: &Value,
        deadline: Instant,
    ) -> Result<Value, AgentError> {
        if !self.in_step {
            self.sync(deadline).await?;
        }
        self.in_step = false;
        let id = self.new_id();
        let mut line = json!({ "execute": command, "arguments": arguments, "id": id }).to_string();
        line.push('\n');
        let asked = async {
            self.send(line.as_bytes()).await?;
            loop {
                let line = self.line().await?;
                // The answer to a call that was given up, or what the guest made up.
                let Ok(answer) = serde_json::from_slice::<Answer>(&line) else { continue };
                if answer.id == Some(id) {
                    return Ok(answer);
                }
            }
        };
        let answer: Answer =
            timeout_at(deadline, asked).await.map_err(|_| AgentError::Silent(command))??;
        self.in_step = true;
        match (answer.result, answer.error) {
            (_, Some(Fault { desc: message })) => Err(AgentError::Refused { command, message }),
            (Some(value), None) => Ok(value),
            (None, None) => Err(AgentError::Malformed { command }),
        }
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), AgentError> {
        self.stream.get_mut().write_all(bytes).await.map_err(|_| AgentError::Closed)
    }

    /// The next line, without what stands before a delimiter in it.
    async fn line(&mut self) -> Result<Vec<u8>, AgentError> {
        let mut line = Vec::new();
        let read = (&mut self.stream).take(MAX_LINE).read_until(b'\n', &mut line).await;
        if read.is_err() || (!line.ends_with(b"\n") && (line.len() as u64) < MAX_LINE) {
            return Err(AgentError::Closed);
        }
        if !line.ends_with(b"\n") {
            return Err(AgentError::Flood);
        }
        if let Some(at) = line.iter().rposition(|byte| *byte == DELIMITER) {
            line.drain(..=at);
        }
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::UnixStream;
    use tokio::time::Instant;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    /// A guest that answers each request as `answer` says.
    fn guest(answer: impl Fn(Value) -> Vec<u8> + Send + 'static) -> Agent {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        tokio::spawn(async move {
            let mut stream = BufReader::new(theirs);
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
                line.retain(|byte| *byte != DELIMITER);
                let request = serde_json::from_slice(&line).expect("a request");
                if stream.write_all(&answer(request)).await.is_err() {
                    return;
                }
                line.clear();
            }
        });
        Agent::new(ours)
    }

    fn well(request: &Value) -> Vec<u8> {
        if request["execute"] == "guest-sync-delimited" {
            return format!("\u{0}{}\n", json!({ "return": request["arguments"]["id"] }))
                .into_bytes()
                .into_iter()
                .map(|byte| if byte == 0 { DELIMITER } else { byte })
                .collect();
        }
        format!("{}\n", json!({ "return": { "pid": 7 }, "id": request["id"] })).into_bytes()
    }

    #[rstest]
    #[tokio::test]
    async fn what_is_not_the_answer_is_passed_over() {
        let mut agent = guest(|request| {
            let mut said = b"boot messages\n{\"return\": 99, \"id\": 99}\n{\n".to_vec();
            said.extend(well(&request));
            said
        });
        let pid = agent.call("guest-exec", &json!({}), soon()).await.expect("an answer");
        assert_eq!(pid["pid"], 7);
    }

    #[rstest]
    #[case::no_answer(Vec::new(), "the guest agent doesn't answer: it is not there, or hangs")]
    #[case::lines(b"{}\n".repeat(1000), "the guest agent doesn't answer: it is not there, or hangs")]
    #[tokio::test]
    async fn a_guest_that_never_answers_is_given_up(#[case] said: Vec<u8>, #[case] error: &str) {
        let mut agent = guest(move |_| said.clone());
        let deadline = Instant::now() + Duration::from_millis(50);
        let refused = agent.call("guest-exec", &json!({}), deadline).await.expect_err("no answer");
        assert_eq!(refused.to_string(), error);
    }

    #[rstest]
    #[tokio::test]
    async fn a_line_without_an_end_is_a_flood() {
        let mut agent = guest(|_| vec![b'x'; 1 + usize::try_from(MAX_LINE).expect("a size")]);
        let error = agent.sync(soon()).await.expect_err("no answer");
        assert!(matches!(error, AgentError::Flood), "{error}");
    }

    #[rstest]
    #[tokio::test]
    async fn a_call_given_up_does_not_answer_the_next() {
        let mut agent = guest(|request| {
            let mut answer = well(&request);
            if request["execute"] == "slow" {
                answer.clear();
            }
            answer
        });
        let deadline = Instant::now() + Duration::from_millis(50);
        agent.call("slow", &json!({}), deadline).await.expect_err("no answer");
        agent.call("guest-exec", &json!({}), soon()).await.expect("in step again");
    }

    #[rstest]
    #[tokio::test]
    async fn a_refusal_is_named() {
        let mut agent = guest(|request| match request["execute"].as_str() {
            Some("guest-sync-delimited") => well(&request),
            _ => format!("{}\n", json!({ "error": { "desc": "no" }, "id": request["id"] }))
                .into_bytes(),
        });
        let error = agent.call("guest-exec", &json!({}), soon()).await.expect_err("refused");
        assert_eq!(error.to_string(), "the guest agent refused guest-exec: no");
    }
}
