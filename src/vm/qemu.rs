//! One QEMU process.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::console::Tail;
use super::error::VmError;
use super::machine::{Beginning, Machine, Wiring};
use crate::process;
use crate::qmp::{Qmp, QmpError};

/// How long a process that ends or was killed may take to be gone.
const END: Duration = Duration::from_secs(5);
/// How often the state of a migration is asked for.
const POLL: Duration = Duration::from_millis(5);

/// A running QEMU. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Qemu {
    qmp: Qmp,
    pid: Option<u32>,
    child: Mutex<Option<Child>>,
    console: Tail,
    stderr: Option<Tail>,
}

/// A QEMU that did not start, or did not do as it was told.
#[derive(Debug)]
pub(super) enum QemuError {
    Vm(VmError),
    Timeout,
    /// It ended, with this status and these last words.
    Ended(String, String),
}

impl From<VmError> for QemuError {
    fn from(error: VmError) -> Self {
        Self::Vm(error)
    }
}

impl From<QmpError> for QemuError {
    fn from(error: QmpError) -> Self {
        Self::Vm(error.into())
    }
}

impl Qemu {
    /// Starts QEMU on a disk and waits until it listens to us; the other stream is that of the
    /// guest's agent.
    pub(super) async fn start(
        machine: &Machine,
        disk: &Path,
        beginning: Beginning,
        deadline: Instant,
    ) -> Result<(Self, UnixStream), QemuError> {
        let failed = |source| VmError::Spawn { program: machine.qemu.clone(), source };
        let ((qmp, qmp_end), (agent, agent_end), (console, console_end)) =
            (pair().map_err(failed)?, pair().map_err(failed)?, pair().map_err(failed)?);
        let wiring = Wiring {
            disk,
            qmp: qmp_end.as_raw_fd(),
            agent: agent_end.as_raw_fd(),
            console: console_end.as_raw_fd(),
        };
        let mut command = Command::new(&machine.qemu);
        command.args(machine.arguments(wiring, beginning)?);
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let ends = vec![qmp_end, agent_end, console_end];
        let mut child = process::spawn_with(command, ends).await.map_err(failed)?;
        let (pid, stderr) = (child.id(), child.stderr.take().map(Tail::of));
        let console = Tail::of(console);
        match timeout_at(deadline, Qmp::connect(qmp)).await {
            Ok(Ok(qmp)) => {
                let child = Mutex::new(Some(child));
                Ok((Self { qmp, pid, child, console, stderr }, agent))
            }
            Ok(Err(_)) => {
                let status = end_of(&mut child).await;
                Err(QemuError::Ended(status, stderr.map_or_else(String::new, |said| said.text())))
            }
            Err(_) => Err(QemuError::Timeout),
        }
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// What the guest wrote on its console, or the end of it.
    pub(super) fn console(&self) -> String {
        self.console.text()
    }

    /// The last thing that QEMU complained about, or else that the guest's console shows.
    pub(super) fn last_words(&self) -> String {
        let stderr = self.stderr.as_ref().map(Tail::text).unwrap_or_default();
        let last = |text: &str| {
            text.lines().rev().map(str::trim).find(|l| !l.is_empty()).map(str::to_owned)
        };
        last(&stderr)
            .or_else(|| panic_line(&self.console()))
            .or_else(|| last(&self.console()))
            .unwrap_or_else(|| "it said nothing".to_owned())
    }

    /// Saves the machine into a file that is there already, and leaves it stopped.
    pub(super) async fn save(&self, file: &Path) -> Result<(), QemuError> {
        self.qmp.execute("stop", &json!({})).await?;
        self.migrate("migrate", file).await
    }

    /// Loads what was saved, and lets the machine run.
    pub(super) async fn load(&self, file: &Path) -> Result<(), QemuError> {
        self.migrate("migrate-incoming", file).await?;
        self.qmp.execute("cont", &json!({})).await?;
        Ok(())
    }

    async fn migrate(&self, command: &'static str, file: &Path) -> Result<(), QemuError> {
        let filename = file.to_str().ok_or_else(|| VmError::NotUtf8(file.to_owned()))?;
        let capabilities =
            json!({ "capabilities": [{ "capability": "mapped-ram", "state": true }] });
        self.qmp.execute("migrate-set-capabilities", &capabilities).await?;
        let address = json!({ "transport": "file", "filename": filename, "offset": 0 });
        let channels = json!({ "channels": [{ "channel-type": "main", "addr": address }] });
        self.qmp.execute(command, &channels).await?;
        loop {
            let state = self.qmp.execute("query-migrate", &json!({})).await?;
            match state["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => {
                    let message = match &state["error-desc"] {
                        Value::String(text) => text.clone(),
                        _ => "no reason given".to_owned(),
                    };
                    return Err(QmpError::Refused { command: command.to_owned(), message }.into());
                }
                _ => sleep(POLL).await,
            }
        }
    }

    /// Kills QEMU, waits for its end, and says how it ended.
    pub(super) async fn kill(&self) -> String {
        match self.take_child() {
            Some(mut child) => {
                let _ = child.start_kill();
                wait(&mut child).await.map_or_else(|error| error.to_string(), |s| s.to_string())
            }
            None => "killed before".to_owned(),
        }
    }

    /// Has QEMU write what it holds of the disk, and end.
    pub(super) async fn quit(&self) {
        // The connection may end before the answer comes.
        let _ = timeout(END, self.qmp.execute("quit", &json!({}))).await;
        if self.end().await.is_none() {
            self.kill().await;
        }
    }

    /// Kills QEMU, without waiting for its end.
    pub(super) fn kill_now(&self) {
        drop(self.take_child());
    }

    /// How QEMU ended, where it does so by itself.
    pub(super) async fn end(&self) -> Option<String> {
        let mut child = self.take_child()?;
        match timeout(END, child.wait()).await {
            Ok(Ok(status)) => Some(status.to_string()),
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => {
                *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
                None
            }
        }
    }

    fn take_child(&self) -> Option<Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What the kernel said first when it gave up.
fn panic_line(console: &str) -> Option<String> {
    let line = console.lines().find(|line| line.contains("Kernel panic"))?;
    Some(line.trim().to_owned())
}

async fn end_of(child: &mut Child) -> String {
    match timeout(END, child.wait()).await {
        Ok(Ok(status)) => status.to_string(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it still runs".to_owned(),
    }
}

async fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    timeout(END, child.wait()).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Our end of a connection, and QEMU's.
fn pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}
