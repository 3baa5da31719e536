//! One QEMU process.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::console::Tail;
use super::containment::{Cgroup, Containment};
use super::error::VmError;
use super::files::Files;
use super::machine::{Beginning, DISK, Machine, Wiring, in_set};
use crate::process;
use crate::qmp::{Qmp, QmpError};

/// How long a process that ends or was killed may take to be gone.
const END: Duration = Duration::from_secs(5);

/// A running QEMU. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Qemu {
    qmp: Qmp,
    heard: watch::Receiver<Heard>,
    pid: Option<u32>,
    /// What QEMU calls the file of a state's devices.
    state: Option<String>,
    process: Mutex<Option<Process>>,
    console: Tail,
    stderr: Option<Tail>,
}

/// What QEMU said by itself.
#[derive(Clone, Debug, Default)]
struct Heard {
    /// The last status of a migration.
    migration: Option<String>,
    /// The host has no room for what the guest wrote, and QEMU stopped it.
    no_space: bool,
    /// The guest's disk could not be written to.
    disk_failed: bool,
}

impl Heard {
    fn hear(&mut self, event: &str, data: &Value) -> bool {
        match event {
            "MIGRATION" => self.migration = data["status"].as_str().map(str::to_owned),
            "BLOCK_IO_ERROR" if data["action"] == "stop" => self.no_space = true,
            "BLOCK_IO_ERROR" if data["operation"] == "write" => self.disk_failed = true,
            _ => return false,
        }
        true
    }
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
    /// guest's supervisor.
    pub(super) async fn start(
        machine: &Machine,
        disk: File,
        beginning: Beginning<'_>,
        containment: &Containment,
        deadline: Instant,
    ) -> Result<(Self, UnixStream), QemuError> {
        let failed = |source| VmError::Spawn { program: machine.qemu.clone(), source };
        let ((qmp, qmp_end), (guest, guest_end), (console, console_end)) =
            (pair().map_err(failed)?, pair().map_err(failed)?, pair().map_err(failed)?);
        let files = Files::open(machine, disk, beginning)?;
        let wiring = Wiring {
            files: files.numbers(),
            qmp: qmp_end.as_raw_fd(),
            guest: guest_end.as_raw_fd(),
            console: console_end.as_raw_fd(),
        };
        let mut command = Command::new(&machine.qemu);
        command.args(machine.arguments(wiring, beginning));
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let cgroup = containment.apply(&mut command, machine, beginning)?;
        let state = files.numbers().state.map(|(_, devices)| in_set(devices));
        let mut descriptors = files.into_descriptors();
        descriptors.extend([qmp_end, guest_end, console_end]);
        let mut child = process::spawn_with(command, descriptors).await.map_err(failed)?;
        let (pid, stderr) = (child.id(), child.stderr.take().map(Tail::of));
        let mut process = Process { child, cgroup };
        let console = Tail::of(console);
        let (hears, heard) = watch::channel(Heard::default());
        let hear = move |event: &str, data: &Value| {
            hears.send_if_modified(|heard| heard.hear(event, data));
        };
        match timeout_at(deadline, Qmp::connect_with(qmp, hear)).await {
            Ok(Ok(qmp)) => {
                let process = Mutex::new(Some(process));
                Ok((Self { qmp, heard, pid, state, process, console, stderr }, guest))
            }
            Ok(Err(_)) => {
                let status = process.end().await.unwrap_or_else(|| "it still runs".to_owned());
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

    /// Saves the machine's devices where its RAM is saved, and leaves it stopped.
    pub(super) async fn save(&self) -> Result<(), QemuError> {
        self.stop().await?;
        self.migrate("migrate").await
    }

    /// Loads what was saved, and leaves the machine stopped.
    pub(super) async fn load(&self) -> Result<(), QemuError> {
        self.migrate("migrate-incoming").await
    }

    /// Has the disk, which is a fresh overlay, get so many bytes, if it shall have more. The guest has to
    /// run: that of one that was only just loaded is inactive.
    pub(super) async fn grow(&self, disk: Option<u64>) -> Result<(), QemuError> {
        if let Some(size) = disk {
            let disk = json!({ "node-name": DISK, "size": size });
            self.qmp.execute("block_resize", &disk).await?;
        }
        Ok(())
    }

    /// Has the guest stand still.
    pub(super) async fn stop(&self) -> Result<(), QemuError> {
        self.qmp.execute("stop", &json!({})).await?;
        Ok(())
    }

    /// Lets the guest run; it is told so at once, and the future waits for the answer.
    pub(super) fn go_on(&self) -> impl Future<Output = Result<(), QemuError>> + Send + use<> {
        let answer = self.qmp.execute("cont", &json!({}));
        async move {
            answer.await?;
            Ok(())
        }
    }

    async fn migrate(&self, command: &'static str) -> Result<(), QemuError> {
        let on = |capability: &str| json!({ "capability": capability, "state": true });
        let capabilities = json!({ "capabilities": [on("x-ignore-shared"), on("events")] });
        self.qmp.execute("migrate-set-capabilities", &capabilities).await?;
        let address = json!({ "transport": "file", "filename": self.state, "offset": 0 });
        let channels = json!({ "channels": [{ "channel-type": "main", "addr": address }] });
        self.qmp.execute(command, &channels).await?;
        let over = |heard: &Heard| {
            matches!(heard.migration.as_deref(), Some("completed" | "failed" | "cancelled"))
        };
        let mut heard = self.heard.clone();
        let Ok(status) = heard.wait_for(over).await.map(|heard| heard.migration.clone()) else {
            return Err(QmpError::Closed("QEMU ended".to_owned()).into());
        };
        if status.as_deref() == Some("completed") {
            return Ok(());
        }
        let state = self.qmp.execute("query-migrate", &json!({})).await?;
        let message = state["error-desc"].as_str().unwrap_or("no reason given").to_owned();
        Err(QmpError::Refused { command: command.to_owned(), message }.into())
    }

    /// Returns once the host has no room for what the guest wrote: QEMU has stopped it.
    pub(super) async fn no_space(&self) {
        let mut heard = self.heard.clone();
        if heard.wait_for(|heard| heard.no_space).await.is_err() {
            // QEMU has ended, which others hear of.
            std::future::pending::<()>().await;
        }
    }

    /// Whether QEMU could not write what the guest wrote to its disk.
    pub(super) fn disk_failed(&self) -> bool {
        self.heard.borrow().disk_failed
    }

    /// Whether QEMU still runs.
    pub(super) fn is_alive(&self) -> bool {
        self.heard.has_changed().is_ok()
    }

    /// Kills QEMU, waits for its end, and says how it ended, unless that takes long.
    pub(super) async fn kill(&self) -> Option<String> {
        let Some(mut process) = self.take() else { return Some("killed before".to_owned()) };
        let _ = process.child.start_kill();
        process.end().await
    }

    /// Has QEMU write what it holds of the disk, and end; says whether it has.
    pub(super) async fn quit(&self) -> bool {
        // The connection may end before the answer comes.
        let _ = timeout(END, self.qmp.execute("quit", &json!({}))).await;
        self.end().await.is_some() || self.kill().await.is_some()
    }

    /// Kills QEMU, without waiting for its end.
    pub(super) fn kill_now(&self) {
        drop(self.take());
    }

    /// How QEMU ended, if it ends by itself.
    pub(super) async fn end(&self) -> Option<String> {
        let mut process = self.take()?;
        let end = process.end().await;
        if end.is_none() {
            *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
        }
        end
    }

    fn take(&self) -> Option<Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// QEMU's process, killed when it is dropped, and the cgroup that it is in, if any.
#[derive(Debug)]
struct Process {
    child: Child,
    cgroup: Option<Cgroup>,
}

impl Process {
    /// How it ended, once it has, unless that takes long.
    async fn end(&mut self) -> Option<String> {
        let status = match timeout(END, self.child.wait()).await.ok()? {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let limit = self.cgroup.as_ref().and_then(Cgroup::ran_out_of_memory);
        Some(match limit {
            Some(mib) => format!(
                "{status}: QEMU needed more memory than the {mib} MiB that its cgroup allows"
            ),
            None => status,
        })
    }
}

/// What the kernel said first when it gave up.
fn panic_line(console: &str) -> Option<String> {
    let line = console.lines().find(|line| line.contains("Kernel panic"))?;
    Some(line.trim().to_owned())
}

/// Our end of a connection, and QEMU's.
fn pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}
