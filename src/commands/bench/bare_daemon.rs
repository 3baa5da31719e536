//! The storage daemon's floor: the commands that make an overlay, and nothing else.
//!
//! One caller, no task, no time-out of its own, no job table: what is left is what the daemon
//! itself takes.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use overlay_pool::image::Overlay;
use overlay_pool::process;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::error::BenchError;

/// Far more than any answer takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// A storage daemon that is asked directly. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct BareDaemon {
    stream: BufReader<UnixStream>,
    line: String,
    _child: Child,
}

impl BareDaemon {
    pub(super) async fn start(program: &Path) -> Result<Self, BenchError> {
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        ours.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        let mut command = Command::new(program);
        command.args(["--chardev", "socket,id=qmp,fd=0", "--monitor", "chardev=qmp"]);
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
        let child = process::spawn(command).await.map_err(failed)?;
        let mut daemon = Self { stream: BufReader::new(ours), line: String::new(), _child: child };
        daemon.receive().map_err(failed)?; // the greeting
        daemon.send(&[json!({ "execute": "qmp_capabilities" })]).map_err(failed)?;
        daemon.answers(1).map_err(failed)?;
        Ok(daemon)
    }

    /// Has the daemon write `overlay` into the empty file at `target`.
    pub(super) fn create(&mut self, overlay: &Overlay, target: &Path) -> Result<(), BenchError> {
        self.five_commands(overlay, target).map_err(failed)
    }

    fn five_commands(&mut self, overlay: &Overlay, target: &Path) -> io::Result<()> {
        let profile = overlay.profile();
        self.send(&[
            json!({ "execute": "blockdev-add", "arguments":
                { "node-name": "node", "driver": "file", "filename": text(target)? } }),
            json!({ "execute": "blockdev-create", "arguments": { "job-id": "job", "options": {
                "driver": "qcow2",
                "file": "node",
                "version": "v3",
                "size": overlay.virtual_size(),
                "backing-file": text(overlay.backing())?,
                "backing-fmt": overlay.format().as_str(),
                "cluster-size": profile.cluster_size(),
                "extended-l2": profile.extended_l2(),
                "lazy-refcounts": profile.lazy_refcounts(),
            }}}),
        ])?;
        let (mut answered, mut concluded) = (0, false);
        while answered < 2 || !concluded {
            let message = self.receive()?;
            answered += usize::from(message.get("return").is_some());
            concluded |= message["data"]["status"] == "concluded";
        }
        self.send(&[
            json!({ "execute": "query-jobs" }),
            json!({ "execute": "job-dismiss", "arguments": { "id": "job" } }),
            json!({ "execute": "blockdev-del", "arguments": { "node-name": "node" } }),
        ])?;
        let answers = self.answers(3)?;
        match &answers[0][0]["error"] {
            Value::Null => Ok(()),
            error => Err(io::Error::other(error.to_string())),
        }
    }

    fn send(&mut self, commands: &[Value]) -> io::Result<()> {
        let mut lines = Vec::new();
        for command in commands {
            writeln!(lines, "{command}")?;
        }
        self.stream.get_mut().write_all(&lines)
    }

    /// What the next `count` commands returned, without the events between.
    fn answers(&mut self, count: usize) -> io::Result<Vec<Value>> {
        let mut answers = Vec::with_capacity(count);
        while answers.len() < count {
            if let Some(answer) = self.receive()?.get_mut("return") {
                answers.push(answer.take());
            }
        }
        Ok(answers)
    }

    fn receive(&mut self) -> io::Result<Value> {
        self.line.clear();
        if self.stream.read_line(&mut self.line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let message: Value = serde_json::from_str(&self.line)?;
        match message.get("error") {
            Some(error) => Err(io::Error::other(error.to_string())),
            None => Ok(message),
        }
    }
}

fn failed(source: io::Error) -> BenchError {
    BenchError::Tool { program: "qemu-storage-daemon", source }
}

fn text(path: &Path) -> io::Result<&str> {
    path.to_str().ok_or_else(|| io::Error::other("a path that is not UTF-8"))
}
