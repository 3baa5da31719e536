//! One VM.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use super::agent::AgentError;
use super::console;
use super::error::VmError;
use super::execution::Execution;
use super::guest::Guest;
use super::language::Language;
use super::qemu::Qemu;
use super::settings::VmSettings;
use super::state::VmState;
use crate::Source;
use crate::place::Directory;

/// The name of the disk in a VM's working directory.
pub(super) const DISK: &str = "disk.qcow2";

/// A VM that a [`VmManager`](super::VmManager) made.
#[derive(Debug)]
pub struct Vm {
    id: String,
    language: Language,
    tenant_id: String,
    task_id: String,
    execute_timeout: Duration,
    max_output: usize,
    logs: PathBuf,
    state: watch::Sender<VmState>,
    alive: OnceLock<Alive>,
    home: Mutex<Option<Home>>,
}

/// What a VM holds until it is destroyed.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) directory: Directory,
    /// One of the VMs that there may be.
    pub(super) _slot: OwnedSemaphorePermit,
}

/// A VM that came to life.
#[derive(Debug)]
pub(super) struct Alive {
    pub(super) qemu: Qemu,
    pub(super) guest: tokio::sync::Mutex<Guest>,
    pub(super) disk: Source,
    pub(super) start: Start,
    pub(super) phases: Phases,
}

/// How a VM came to life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// Its kernel booted.
    Booted,
    /// It was resumed from a saved state.
    Resumed,
}

/// How long each part of a VM's creation took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// Getting the disk from the pool.
    pub overlay: Duration,
    /// Starting QEMU, until it listens to us.
    pub spawn: Duration,
    /// Booting or resuming, until the guest's agent answers.
    pub boot: Duration,
    /// Making the guest one of its own: seed, clock, names, writable disk.
    pub renew: Duration,
}

impl Vm {
    pub(super) fn new(
        language: Language,
        (tenant_id, task_id): (String, String),
        settings: &VmSettings,
        home: Home,
    ) -> Self {
        Self {
            id: home.directory.name().to_owned(),
            language,
            tenant_id,
            task_id,
            execute_timeout: settings.execute_timeout,
            max_output: settings.max_output,
            logs: settings.dir.join("console"),
            state: watch::Sender::new(VmState::Creating),
            alive: OnceLock::new(),
            home: Mutex::new(Some(home)),
        }
    }

    /// The VM's id, which is its hostname and the name of its working directory too.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What its code is written in.
    #[must_use]
    pub fn language(&self) -> Language {
        self.language
    }

    /// Whose it is.
    #[must_use]
    pub fn tenant_id(&self) -> &str {
        &self.tenant_id
    }

    /// What it is for.
    #[must_use]
    pub fn task_id(&self) -> &str {
        &self.task_id
    }

    /// What it is doing.
    #[must_use]
    pub fn state(&self) -> VmState {
        *self.state.borrow()
    }

    /// Its working directory, until it is destroyed.
    #[must_use]
    pub fn directory(&self) -> Option<PathBuf> {
        Some(self.lock_home().as_ref()?.directory.path().to_owned())
    }

    /// Its disk, until it is destroyed.
    #[must_use]
    pub fn disk(&self) -> Option<PathBuf> {
        Some(self.directory()?.join(DISK))
    }

    /// Where its disk came from; none until it runs.
    #[must_use]
    pub fn disk_source(&self) -> Option<Source> {
        self.alive.get().map(|alive| alive.disk)
    }

    /// How it came to life; none until it has.
    #[must_use]
    pub fn start(&self) -> Option<Start> {
        self.alive.get().map(|alive| alive.start)
    }

    /// How long each part of its creation took.
    #[must_use]
    pub fn phases(&self) -> Phases {
        self.alive.get().map(|alive| alive.phases).unwrap_or_default()
    }

    /// The process id of its QEMU.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.alive.get()?.qemu.pid()
    }

    /// What the guest wrote on its console so far: the last 64 KiB of it.
    #[must_use]
    pub fn console(&self) -> String {
        self.alive.get().map(|alive| alive.qemu.console()).unwrap_or_default()
    }

    /// Runs code in the guest, for `timeout` or the settings' time at most.
    ///
    /// Code that runs for too long is killed with its process group, and the VM can be used
    /// again. Of each output only the beginning is kept. Where the call is dropped, the next one
    /// kills what it left running.
    ///
    /// # Errors
    ///
    /// [`VmError::NotReady`] where other code runs or the VM is destroyed; [`VmError::Ended`]
    /// and [`VmError::Agent`] where the guest crashed, hangs or floods: it is destroyed then.
    pub async fn execute(
        &self,
        code: impl AsRef<[u8]>,
        timeout: Option<Duration>,
    ) -> Result<Execution, VmError> {
        self.enter(VmState::Executing)?;
        let busy = Busy(self);
        let begin = Instant::now();
        let Some(alive) = self.alive.get() else { return Err(self.not_ready()) };
        let patience = timeout.unwrap_or(self.execute_timeout);
        let command = self.language.command();
        let mut guest = alive.guest.lock().await;
        let ran = guest.run(command, code.as_ref(), patience, self.max_output).await;
        drop(guest);
        let result = match ran {
            Ok(ran) => Ok(Execution {
                end: ran.end,
                stdout: ran.stdout,
                stderr: ran.stderr,
                elapsed: begin.elapsed(),
            }),
            Err(error) => Err(self.judge(&alive.qemu, error).await),
        };
        drop(busy);
        result
    }

    /// Has the guest and QEMU write all that they hold of the disk, ends them, and moves the disk
    /// to `target`, where nothing is there. The VM is destroyed.
    pub(super) async fn keep_disk(&self, target: &Path) -> Result<(), VmError> {
        let failed = |source| VmError::File { what: "disk", path: target.to_owned(), source };
        if target.symlink_metadata().is_ok() {
            return Err(failed(io::ErrorKind::AlreadyExists.into()));
        }
        self.enter(VmState::Executing)?;
        let busy = Busy(self);
        let (Some(alive), Some(disk)) = (self.alive.get(), self.disk()) else {
            return Err(self.not_ready());
        };
        let mut guest = alive.guest.lock().await;
        let synced = guest.run(&["sync"], &[], self.execute_timeout, self.max_output).await;
        drop(guest);
        if let Err(error) = synced {
            return Err(self.judge(&alive.qemu, error).await);
        }
        alive.qemu.quit().await;
        let moved = renameat_with(CWD, &disk, CWD, target, RenameFlags::NOREPLACE);
        drop(busy);
        self.destroy().await;
        moved.map_err(|errno| failed(errno.into()))
    }

    /// What is wrong with the VM where its agent can't be asked; it is destroyed, unless the
    /// agent only refused.
    pub(super) async fn judge(&self, qemu: &Qemu, source: AgentError) -> VmError {
        let vm = self.id.clone();
        if matches!(source, AgentError::Refused { .. }) {
            return VmError::Agent { vm, source, log: None };
        }
        if matches!(self.state(), VmState::Destroying | VmState::Destroyed) {
            return self.not_ready();
        }
        let status = match source {
            AgentError::Closed => qemu.end().await,
            _ => None,
        };
        let said = qemu.last_words();
        let log = self.keep_console(qemu);
        self.destroy().await;
        match status {
            Some(status) => VmError::Ended { vm, status, said, log },
            None => VmError::Agent { vm, source, log },
        }
    }

    pub(super) fn keep_console(&self, qemu: &Qemu) -> Option<PathBuf> {
        console::keep(&self.logs, &self.id, &qemu.console())
    }

    /// Kills QEMU and removes the working directory.
    pub(super) async fn destroy(&self) {
        if self.enter(VmState::Destroying).is_err() {
            return;
        }
        if let Some(alive) = self.alive.get() {
            alive.qemu.kill().await;
        }
        self.leave();
    }

    /// Like [`destroy`](Self::destroy), without waiting for QEMU's end.
    pub(super) fn destroy_now(&self) {
        if self.enter(VmState::Destroying).is_err() {
            return;
        }
        if let Some(alive) = self.alive.get() {
            alive.qemu.kill_now();
        }
        self.leave();
    }

    fn leave(&self) {
        drop(self.lock_home().take());
        let _ = self.enter(VmState::Destroyed);
        tracing::info!(vm = self.id, "destroyed");
    }

    /// Takes what came to life in; where the VM was destroyed meanwhile, that dies.
    pub(super) fn live(&self, alive: Alive) -> Result<(), VmError> {
        let mut alive = Some(alive);
        self.change(VmState::Ready, || {
            if let Some(alive) = alive.take() {
                let _ = self.alive.set(alive);
            }
        })
    }

    /// Goes to the next state, where the VM may.
    pub(super) fn enter(&self, next: VmState) -> Result<(), VmError> {
        self.change(next, || {})
    }

    fn change(&self, next: VmState, with: impl FnOnce()) -> Result<(), VmError> {
        let changed = self.state.send_if_modified(|state| {
            let may = state.may_become(next);
            if may {
                with();
                *state = next;
            }
            may
        });
        if changed { Ok(()) } else { Err(self.not_ready()) }
    }

    /// Waits until somebody destroys the VM.
    pub(super) async fn destroyed(&self) {
        let is_over = |state: &VmState| matches!(state, VmState::Destroying | VmState::Destroyed);
        let _ = self.state.subscribe().wait_for(is_over).await;
    }

    pub(super) fn not_ready(&self) -> VmError {
        VmError::NotReady { vm: self.id.clone(), state: self.state() }
    }

    fn lock_home(&self) -> MutexGuard<'_, Option<Home>> {
        self.home.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Code runs in the VM until this is dropped.
struct Busy<'a>(&'a Vm);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        // A VM that was destroyed meanwhile stays so.
        let _ = self.0.enter(VmState::Ready);
    }
}
