//! One VM.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, empty};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::alive::{Alive, Phases, Start};
use super::autopsy::Autopsy;
use super::error::VmError;
use super::execution::{Execution, Outcome, Output};
use super::guest::{GuestError, Ran, Run, Stream};
use super::home::{Address, Home};
use super::interpreter::Order;
use super::keep;
use super::language::Language;
use super::program::Program;
use super::settings::VmSettings;
use super::state::VmState;
use crate::Source;
use crate::place::try_target;

/// How much of a program's output may wait for who takes it, in parts.
const PARTS: usize = 16;

/// A VM that a [`VmManager`](super::VmManager) made.
#[derive(Debug)]
pub struct Vm {
    autopsy: Autopsy,
    language: Language,
    tenant_id: String,
    task_id: String,
    execute_timeout: Duration,
    max_output: usize,
    state: watch::Sender<VmState>,
    alive: OnceLock<Alive>,
    home: Mutex<Option<Home>>,
}

impl Vm {
    pub(super) fn new(
        language: Language,
        (tenant_id, task_id): (String, String),
        settings: &VmSettings,
        autopsy: Autopsy,
        home: Home,
    ) -> Self {
        Self {
            autopsy,
            language,
            tenant_id,
            task_id,
            execute_timeout: settings.execute_timeout,
            max_output: settings.max_output,
            state: watch::Sender::new(VmState::Creating),
            alive: OnceLock::new(),
            home: Mutex::new(Some(home)),
        }
    }

    /// The VM's id, which is its hostname and the name of its working directory too.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.autopsy.vm
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
        Some(self.address()?.path)
    }

    pub(super) fn address(&self) -> Option<Address> {
        self.lock_home().as_ref().map(Home::address)
    }

    /// Its disk, until it is destroyed; the caller's, if it has one of those.
    #[must_use]
    pub fn disk(&self) -> Option<PathBuf> {
        Some(self.address()?.disk())
    }

    /// Where its disk came from; none until it runs, and none if it is the caller's.
    #[must_use]
    pub fn disk_source(&self) -> Option<Source> {
        self.alive.get()?.disk
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

    /// Runs code in the guest, for `timeout` or the settings' time at most, and keeps the
    /// beginning of each of its outputs.
    ///
    /// # Errors
    ///
    /// Those of [`run`](Self::run).
    pub async fn execute(
        &self,
        code: impl AsRef<[u8]>,
        timeout: Option<Duration>,
    ) -> Result<Execution, VmError> {
        let mut program = Program::new(code);
        program.timeout = timeout;
        let (sender, mut parts) = mpsc::channel(PARTS);
        let (mut stdout, mut stderr) = (Output::default(), Output::default());
        let (outcome, ()) = tokio::join!(self.run(&program, empty(), sender), async {
            while let Some((stream, part)) = parts.recv().await {
                match stream {
                    Stream::Stdout => stdout.bytes.extend(part),
                    Stream::Stderr => stderr.bytes.extend(part),
                }
            }
        });
        let Outcome { end, cut, disk_failed, elapsed } = outcome?;
        [stdout.truncated, stderr.truncated] = cut;
        Ok(Execution { end, stdout, stderr, disk_failed, elapsed })
    }

    /// Runs a program in the guest, gives it `input` to read, and sends what it writes to
    /// `output` as it comes.
    ///
    /// Once its time is over, or the output's receiver is gone, all that runs in the guest is
    /// killed, and the VM can be used again. If the call is dropped, the next one does so.
    ///
    /// # Errors
    ///
    /// [`VmError::NotReady`] if other code runs or the VM is destroyed; [`VmError::Guest`] if the
    /// guest can't be told of the program; [`VmError::Ended`], [`VmError::Guest`] or
    /// [`VmError::NoSpace`] if the guest crashed, hangs or lies, or the host's disk is full: the
    /// VM is destroyed then.
    pub async fn run(
        &self,
        program: &Program,
        input: impl AsyncRead + Unpin,
        output: mpsc::Sender<(Stream, Vec<u8>)>,
    ) -> Result<Outcome, VmError> {
        let begin = Instant::now();
        let Order { start, code, file } = self.language.interpreter().order(program);
        let run = Run {
            start: start.as_ref(),
            code: &code,
            file,
            limit: program.max_output.unwrap_or(self.max_output),
            deadline: begin + program.timeout.unwrap_or(self.execute_timeout),
        };
        let (Ran { end, cut }, disk_failed) = self.ask(run, input, output).await?;
        Ok(Outcome { end, cut, disk_failed, elapsed: begin.elapsed() })
    }

    /// Makes a file in the guest, in the place of one that is there.
    ///
    /// # Errors
    ///
    /// Those of [`run`](Self::run).
    pub async fn put_file(&self, path: &str, mode: u32, bytes: &[u8]) -> Result<(), VmError> {
        let (busy, alive) = self.busy()?;
        let deadline = Instant::now() + self.execute_timeout;
        let mut guest = alive.guest.lock().await;
        let put = self.unless_full(alive, guest.put(path, mode, bytes, deadline)).await?;
        drop(guest);
        self.judged(alive, put, &busy).await
    }

    /// Reads a file of at most `limit` bytes from the guest.
    ///
    /// # Errors
    ///
    /// Those of [`run`](Self::run).
    pub async fn get_file(&self, path: &str, limit: usize) -> Result<Vec<u8>, VmError> {
        let (busy, alive) = self.busy()?;
        let deadline = Instant::now() + self.execute_timeout;
        let mut guest = alive.guest.lock().await;
        let file = self.unless_full(alive, guest.get(path, limit, deadline)).await?;
        drop(guest);
        self.judged(alive, file, &busy).await
    }

    /// Runs what the guest is told to; says whether its disk could not be written to, too.
    async fn ask(
        &self,
        run: Run<'_>,
        input: impl AsyncRead + Unpin,
        output: mpsc::Sender<(Stream, Vec<u8>)>,
    ) -> Result<(Ran, bool), VmError> {
        let (busy, alive) = self.busy()?;
        let mut guest = alive.guest.lock().await;
        let ran = self.unless_full(alive, guest.run(run, input, output)).await?;
        if ran.is_ok()
            && let Some(start) = self.language.interpreter().start()
        {
            // Ready for the next program, if there is one.
            let _ = guest.prepare(&start);
        }
        drop(guest);
        let ran = self.judged(alive, ran, &busy).await?;
        Ok((ran, alive.qemu.disk_failed()))
    }

    /// Waits for the guest, unless the VM is destroyed; if the host has no room for what it writes, it is.
    async fn unless_full<T>(
        &self,
        alive: &Alive,
        asked: impl Future<Output = T>,
    ) -> Result<T, VmError> {
        tokio::select! {
            answer = asked => Ok(answer),
            () = alive.qemu.no_space() => {
                let disk = self.disk().unwrap_or_default();
                self.destroy().await;
                Err(self.autopsy.no_space(&disk))
            }
            () = self.destroyed() => Err(self.not_ready()),
        }
    }

    fn busy(&self) -> Result<(Busy<'_>, &Alive), VmError> {
        self.enter(VmState::Executing)?;
        let busy = Busy(self);
        let alive = self.alive.get().ok_or_else(|| self.not_ready())?;
        Ok((busy, alive))
    }

    /// Has the guest and QEMU write all that they hold of the disk, ends them, and moves the disk
    /// to `target`, where nothing is there. The VM is destroyed.
    pub(super) async fn keep_disk(&self, target: &Path) -> Result<(), VmError> {
        let failed = |source| VmError::File { what: "disk", path: target.to_owned(), source };
        try_target(target).map_err(failed)?;
        let (busy, alive) = self.busy()?;
        let disk = self.disk().ok_or_else(|| self.not_ready())?;
        if alive.disk.is_none() {
            return Err(VmError::NotKept { vm: self.id().to_owned(), disk });
        }
        let deadline = Instant::now() + self.execute_timeout;
        let settled = self.unless_full(alive, alive.settle(deadline)).await?;
        self.judged(alive, settled, &busy).await?;
        alive.qemu.quit().await;
        let target = target.to_owned();
        let kept = tokio::task::spawn_blocking(move || keep::keep(&disk, &target)).await;
        drop(busy);
        self.destroy().await;
        kept.unwrap_or_else(|panic| Err(io::Error::other(panic))).map_err(failed)
    }

    /// Tells what is wrong with the VM if its guest can't be asked; it is destroyed, unless the
    /// guest only refused.
    async fn judged<T>(
        &self,
        alive: &Alive,
        result: Result<T, GuestError>,
        _busy: &Busy<'_>,
    ) -> Result<T, VmError> {
        Err(match result {
            Ok(value) => return Ok(value),
            Err(_) if self.is_over() => self.not_ready(),
            Err(error @ (GuestError::Refused(_) | GuestError::TooLong { .. })) => {
                self.autopsy.examine(&alive.qemu, error).await
            }
            Err(error) => {
                let error = self.autopsy.examine(&alive.qemu, error).await;
                self.destroy().await;
                error
            }
        })
    }

    fn is_over(&self) -> bool {
        matches!(self.state(), VmState::Destroying | VmState::Destroyed)
    }

    /// Ends QEMU and removes the working directory.
    pub(super) async fn destroy(&self) {
        if self.enter(VmState::Destroying).is_err() {
            return;
        }
        let has_ended = match self.alive.get() {
            Some(alive) => alive.end().await,
            None => false,
        };
        if has_ended && let Some(home) = &*self.lock_home() {
            home.give_back();
        }
        self.leave();
    }

    /// Like [`destroy`](Self::destroy), without waiting for QEMU's end: it is killed.
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
        tracing::info!(vm = self.id(), "destroyed");
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
        VmError::NotReady { vm: self.id().to_owned(), state: self.state() }
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
