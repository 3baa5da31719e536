//! Bringing a VM to life on a disk: by resuming a saved state, or by booting.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::agent::{Agent, AgentError};
use super::error::VmError;
use super::execution::End;
use super::guest::Guest;
use super::handle::{Alive, Phases, Start, Vm};
use super::machine::{Beginning, Machine};
use super::qemu::{Qemu, QemuError};
use super::saved::SavedState;
use crate::Source;

/// How much of what the guest's own program says when it fails is kept, in bytes.
const MAX_MESSAGE: usize = 1000;
/// A resumed guest answers at once; one that takes longer than this is booted instead.
const RESUMED: Duration = Duration::from_secs(20);

/// A disk that was handed over, and how long that took.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) path: PathBuf,
    pub(super) source: Source,
    pub(super) elapsed: Duration,
}

/// Boots the machine on the disk, until its agent answers and it is one of its own.
pub(super) async fn boot(
    vm: &Vm,
    machine: &Machine,
    disk: &Disk,
    patience: Duration,
) -> Result<Alive, VmError> {
    let begin = Instant::now();
    let deadline = begin + patience;
    let too_late =
        |said, log| VmError::BootTimeout { vm: vm.id().to_owned(), after: patience, said, log };
    let started = Qemu::start(machine, &disk.path, Beginning::Boot, deadline).await;
    let (qemu, stream) = started.map_err(|error| match error {
        QemuError::Vm(error) => error,
        QemuError::Timeout => too_late("QEMU doesn't answer".to_owned(), None),
        QemuError::Ended(status, said) => {
            let said = said.lines().next_back().unwrap_or("it said nothing").to_owned();
            VmError::Ended { vm: vm.id().to_owned(), status, said, log: None }
        }
    })?;
    let spawn = begin.elapsed();
    let guest = match Guest::connect(Agent::new(stream), deadline).await {
        Ok(guest) => guest,
        Err(AgentError::Silent(_)) => {
            let error = too_late(qemu.last_words(), vm.keep_console(&qemu));
            qemu.kill().await;
            return Err(error);
        }
        Err(error) => return Err(vm.judge(&qemu, error).await),
    };
    let phases = Phases {
        overlay: disk.elapsed,
        spawn,
        boot: begin.elapsed().saturating_sub(spawn),
        ..Phases::default()
    };
    renewed(vm, qemu, guest, disk, Start::Booted, phases).await
}

/// Resumes a saved state on the disk, until its agent answers and it is one of its own; none
/// where that isn't possible, and the state is of no use then.
pub(super) async fn resume(
    vm: &Vm,
    machine: &Machine,
    state: &SavedState,
    disk: &Disk,
) -> Result<Option<Alive>, VmError> {
    let begin = Instant::now();
    let deadline = begin + RESUMED;
    // Reading all of the state takes no longer than QEMU's start.
    let (sound, started) = tokio::join!(
        state.is_sound(),
        Qemu::start(machine, &disk.path, Beginning::Incoming, deadline),
    );
    let unusable = |cause: &dyn std::fmt::Debug| {
        tracing::warn!(vm = vm.id(), state = %state.path().display(), ?cause, "not resumed");
        Ok(None)
    };
    if !sound {
        return unusable(&"the saved state is damaged");
    }
    let (qemu, stream) = match started {
        Ok(started) => started,
        Err(QemuError::Vm(error)) => return Err(error),
        Err(error) => return unusable(&error),
    };
    let spawn = begin.elapsed();
    match timeout_at(deadline, qemu.load(&state.file())).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return unusable(&error),
        Err(elapsed) => return unusable(&elapsed),
    }
    let guest = match Guest::connect(Agent::new(stream), deadline).await {
        Ok(guest) => guest,
        Err(error) => return unusable(&error),
    };
    let phases = Phases {
        overlay: disk.elapsed,
        spawn,
        boot: begin.elapsed().saturating_sub(spawn),
        ..Phases::default()
    };
    renewed(vm, qemu, guest, disk, Start::Resumed, phases).await.map(Some)
}

async fn renewed(
    vm: &Vm,
    qemu: Qemu,
    mut guest: Guest,
    disk: &Disk,
    start: Start,
    phases: Phases,
) -> Result<Alive, VmError> {
    let begin = Instant::now();
    let ran = match guest.renew(vm.id(), MAX_MESSAGE).await {
        Ok(ran) => ran,
        Err(error) => return Err(vm.judge(&qemu, error).await),
    };
    if ran.end != End::Code(0) {
        let said = format!("{:?}: {}", ran.end, ran.stderr.text().trim());
        return Err(VmError::Renew { vm: vm.id().to_owned(), said });
    }
    let phases = Phases { renew: begin.elapsed(), ..phases };
    tracing::info!(vm = vm.id(), ?start, ?phases, "ready");
    Ok(Alive { qemu, guest: guest.into(), disk: disk.source, start, phases })
}

/// Boots the machine on a disk that nothing else will use, and saves it as soon as its agent
/// answers, before anything has written to the disk.
pub(super) async fn save(
    machine: &Machine,
    disk: &Path,
    file: &Path,
    patience: Duration,
) -> Result<(), QemuError> {
    let deadline = Instant::now() + patience;
    let (qemu, stream) = Qemu::start(machine, disk, Beginning::Boot, deadline).await?;
    let guest = Guest::connect(Agent::new(stream), deadline).await;
    if guest.is_err() {
        return Err(QemuError::Timeout);
    }
    let saved = timeout_at(deadline, qemu.save(file)).await;
    qemu.kill().await;
    saved.map_err(|_| QemuError::Timeout)?
}
