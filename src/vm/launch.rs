//! Bringing a machine to life on a disk: by resuming a saved state, or by booting.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::alive::Phases;
use super::autopsy::Autopsy;
use super::containment::Containment;
use super::error::VmError;
use super::guest::{Guest, GuestError, Start};
use super::home::Address;
use super::machine::{Beginning, Machine};
use super::qemu::{Qemu, QemuError};
use super::states::{Draft, SavedState};

/// A resumed machine answers at once; one that takes longer than this is booted instead.
const RESUMED: Duration = Duration::from_secs(20);

/// What a machine is brought to life with.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub(super) address: Address,
    pub(super) containment: Arc<Containment>,
    /// How many bytes the disk shall have, if more than its base image.
    pub(super) disk: Option<u64>,
    /// How long the guest may take to boot.
    pub(super) patience: Duration,
    /// The interpreter that is started as soon as the guest is renewed.
    pub(super) interpreter: Option<Start>,
    pub(super) autopsy: Autopsy,
}

/// A machine that came to life, and is one of its own.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) qemu: Qemu,
    pub(super) guest: Guest,
    /// All but the overlay's.
    pub(super) phases: Phases,
}

impl Launch {
    /// Boots the machine.
    pub(super) async fn boot(&self, machine: &Machine) -> Result<Launched, VmError> {
        let Self { autopsy, patience, .. } = self;
        let begin = Instant::now();
        let deadline = begin + *patience;
        let disk = self.address.open_disk()?;
        let start = Qemu::start(machine, disk, Beginning::Boot, &self.containment, deadline);
        let started = async {
            let (qemu, stream) = start.await?;
            qemu.grow(self.fresh()).await?;
            Ok((qemu, stream))
        };
        let started: Result<_, QemuError> = started.await;
        let (qemu, stream) = started.map_err(|error| autopsy.stillborn(error, *patience))?;
        let spawn = begin.elapsed();
        let mut guest = Guest::new(stream);
        match self.unless_full(&qemu, guest.begun(deadline)).await? {
            Ok(()) => {}
            Err(GuestError::Silent(_)) => return Err(autopsy.too_late(&qemu, *patience).await),
            Err(error) => return Err(autopsy.examine(&qemu, error).await),
        }
        let boot = begin.elapsed().saturating_sub(spawn);
        match self.unless_full(&qemu, self.renew(&mut guest, deadline)).await? {
            Ok(renew) => {
                let phases = Phases { overlay: Duration::ZERO, spawn, boot, renew };
                Ok(Launched { qemu, guest, phases })
            }
            Err(error) => Err(autopsy.examine(&qemu, error).await),
        }
    }

    /// Resumes a saved state, if it is sound, which may take as long to tell as QEMU to start;
    /// none if that isn't possible. The state is of no use then and removed, unless it only took too
    /// long, as it may on a loaded host.
    pub(super) async fn resume(
        &self,
        machine: &Machine,
        state: &SavedState,
        sound: impl Future<Output = bool>,
    ) -> Result<Option<Launched>, VmError> {
        let begin = Instant::now();
        let deadline = begin + RESUMED;
        let late = |cause: &dyn std::fmt::Debug| {
            tracing::warn!(state = %state.path().display(), ?cause, "not resumed");
            Ok(None)
        };
        let unusable = |cause: &dyn std::fmt::Debug| {
            state.remove();
            late(cause)
        };
        let files = state.files();
        let beginning = Beginning::Resume(&files);
        let disk = self.address.open_disk()?;
        let start = Qemu::start(machine, disk, beginning, &self.containment, deadline);
        let (sound, started) = tokio::join!(sound, start);
        if !sound {
            return unusable(&"it is damaged");
        }
        let (qemu, stream) = match started {
            Ok(started) => started,
            Err(QemuError::Vm(error)) => return Err(error),
            Err(error @ QemuError::Timeout) => return late(&error),
            Err(error) => return unusable(&error),
        };
        let spawn = begin.elapsed();
        let loaded = async {
            qemu.load().await?;
            qemu.go_on().await?;
            qemu.grow(self.fresh()).await
        };
        match timeout_at(deadline, loaded).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return unusable(&error),
            Err(elapsed) => return late(&elapsed),
        }
        let boot = begin.elapsed().saturating_sub(spawn);
        let mut guest = Guest::new(stream);
        // A state is no worse for it that the host has no room.
        match self.unless_full(&qemu, self.renew(&mut guest, deadline)).await? {
            Ok(renew) => {
                let phases = Phases { overlay: Duration::ZERO, spawn, boot, renew };
                Ok(Some(Launched { qemu, guest, phases }))
            }
            Err(error @ GuestError::Silent(_)) => late(&error),
            // Nor is it for it that the guest's file system can't grow.
            Err(error @ GuestError::Refused(_)) if self.disk.is_some() => {
                Err(self.autopsy.examine(&qemu, error).await)
            }
            Err(error) => unusable(&error),
        }
    }

    /// What a fresh disk is to be made; a caller's has its size.
    fn fresh(&self) -> Option<u64> {
        self.disk.filter(|_| !self.address.is_own())
    }

    /// Waits for the guest, unless the host has no room for what it writes: it stands still then.
    async fn unless_full<T>(
        &self,
        qemu: &Qemu,
        asked: impl Future<Output = T>,
    ) -> Result<T, VmError> {
        tokio::select! {
            answer = asked => Ok(answer),
            () = qemu.no_space() => Err(self.autopsy.no_space(&self.address.disk())),
        }
    }

    /// Makes the guest one of its own, and has its interpreter start.
    async fn renew(&self, guest: &mut Guest, deadline: Instant) -> Result<Duration, GuestError> {
        let begin = Instant::now();
        guest.renew(&self.autopsy.vm, self.disk)?;
        if let Some(interpreter) = &self.interpreter {
            guest.prepare(interpreter)?;
        }
        guest.renewed(deadline).await?;
        Ok(begin.elapsed())
    }
}

/// Boots the machine on a disk that nothing else will use, and saves it as soon as its supervisor
/// has begun, before anything has written to the disk.
pub(super) async fn save(
    machine: &Machine,
    disk: File,
    draft: &Draft,
    containment: &Containment,
    patience: Duration,
) -> Result<(), QemuError> {
    let deadline = Instant::now() + patience;
    let files = draft.files();
    let beginning = Beginning::Save(&files);
    let (qemu, stream) = Qemu::start(machine, disk, beginning, containment, deadline).await?;
    let mut guest = Guest::new(stream);
    if guest.begun(deadline).await.is_err() {
        return Err(QemuError::Timeout);
    }
    let saved = timeout_at(deadline, qemu.save()).await;
    qemu.kill().await;
    saved.map_err(|_| QemuError::Timeout)?
}
