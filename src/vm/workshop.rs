//! Where VMs are made: a pool of disks, QEMU, and the saved states.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, timeout};

use super::alive::{Alive, Phases, Start};
use super::autopsy::Autopsy;
use super::containment::Containment;
use super::error::VmError;
use super::guest;
use super::hashes::{Hashes, Mark};
use super::home::{Address, Home};
use super::images;
use super::language::Language;
use super::launch::{self, Launch, Launched};
use super::machine::Machine;
use super::own_disk::{Attached, OwnDisk};
use super::settings::VmSettings;
use super::states::{SavedState, SavedStates};
use crate::image::{BaseImage, BaseRef, References};
use crate::{OverlayPool, PoolConfig, process};

/// How long QEMU may take to tell its version.
const VERSION_PATIENCE: Duration = Duration::from_secs(20);
/// After a state could not be saved, VMs boot for so long before that is tried again.
const AGAIN: Duration = Duration::from_secs(60);
/// The first QEMU that migrates to files and maps RAM privately from one that is read-only.
const RESUMES_SINCE: (u32, u32) = (8, 2);

/// What VMs are made with.
#[derive(Debug)]
pub(super) struct Workshop {
    pub(super) settings: Arc<VmSettings>,
    pub(super) pool: OverlayPool,
    accelerator: &'static str,
    qemu_version: String,
    pub(super) containment: Arc<Containment>,
    saved: Option<Arc<Saved>>,
    /// Held while a state is made, so that it is made once; for which keys that failed, and when.
    making: tokio::sync::Mutex<HashMap<String, Instant>>,
}

#[derive(Debug)]
struct Saved {
    states: SavedStates,
    hashes: Hashes,
}

impl Workshop {
    /// Finds the accelerator and QEMU, and fills the pool for these base images.
    pub(super) async fn open(settings: VmSettings, bases: Vec<BaseRef>) -> Result<Self, VmError> {
        let wanted = settings.accelerator;
        let accelerator =
            spawn_blocking(move || wanted.resolve()).await.unwrap_or_else(|panic| {
                Err(VmError::NoAccelerator { reason: format!("the probe failed: {panic}") })
            })?;
        let containment = Arc::new(Containment::open(&settings)?);
        let qemu_version = version(&settings.qemu).await?;
        let saved = if !settings.resume {
            None
        } else if can_resume(&qemu_version) {
            let path = settings.states();
            let states = SavedStates::open(path.clone(), containment.group());
            let states = states.map_err(|source| VmError::File {
                what: "directory of saved states",
                path: path.clone(),
                source,
            })?;
            Some(Arc::new(Saved { states, hashes: Hashes::new(path.join("hashes.json")) }))
        } else {
            let (major, minor) = RESUMES_SINCE;
            tracing::warn!(
                "{qemu_version}: VMs boot, since QEMU resumes them from {major}.{minor}"
            );
            None
        };
        let pool = OverlayPool::new(settings.pool())?;
        pool.start(Some(bases)).await?;
        let (accelerator, making) = (accelerator.as_str(), tokio::sync::Mutex::default());
        let settings = Arc::new(settings);
        Ok(Self { settings, pool, accelerator, qemu_version, containment, saved, making })
    }

    /// A new working directory.
    pub(super) fn home(
        &self,
        slot: Option<OwnedSemaphorePermit>,
        own: Option<Attached>,
    ) -> Result<Home, VmError> {
        Home::new(&self.settings.dir, slot, own)
    }

    /// Takes a caller's disk for a machine. Nobody else waits for its filesystem.
    pub(super) async fn attach(
        &self,
        disk: OwnDisk,
        machine: &Machine,
    ) -> Result<Attached, VmError> {
        let (base, limit_mib) = (machine.base.clone(), self.settings.disk_mib);
        let attached = spawn_blocking(move || disk.attach(&base, limit_mib)).await;
        Ok(attached.map_err(|panic| self.failed(panic))??)
    }

    /// The machine that runs a language's code, as its files are now, and their marks. Nobody else
    /// waits where they lie on a filesystem that hangs, nor does the pool's end.
    pub(super) async fn machine(
        &self,
        language: Language,
    ) -> Result<(Machine, Vec<Mark>), VmError> {
        let (settings, accelerator) = (Arc::clone(&self.settings), self.accelerator);
        let containment = Arc::clone(&self.containment);
        let found = spawn_blocking(move || {
            let machine = find_machine(&settings, &containment, accelerator, language)?;
            let marks = machine.marks()?;
            Ok((machine, marks))
        });
        found.await.unwrap_or_else(|panic| Err(self.failed(panic)))
    }

    async fn marks(&self, machine: &Machine) -> Result<Vec<Mark>, VmError> {
        let machine = machine.clone();
        let marks = spawn_blocking(move || machine.marks()).await;
        marks.unwrap_or_else(|panic| Err(self.failed(panic)))
    }

    /// Brings a machine to life: on a fresh disk resumed if it can be, else booted, as on a caller's
    /// disk, since what a state knows of its disk is that of a fresh one. As soon as it is one of its own,
    /// an interpreter starts.
    pub(super) async fn bring_up(
        &self,
        address: &Address,
        machine: &Machine,
        size: Option<u64>,
        interpreter: Option<guest::Start>,
    ) -> Result<Alive, VmError> {
        let disk = if address.is_own() {
            None
        } else {
            Some(address.furnish(&self.pool, machine.base.path()).await?)
        };
        let launch = Launch {
            address: address.clone(),
            disk: size,
            containment: Arc::clone(&self.containment),
            patience: self.settings.boot_timeout,
            interpreter,
            autopsy: self.autopsy(&address.id),
        };
        let resumed = match &self.saved {
            Some(saved) if disk.is_some() => self.resume(saved, machine, &launch).await?,
            _ => None,
        };
        let (launched, start) = match resumed {
            Some(launched) => (launched, Start::Resumed),
            None => (launch.boot(machine).await?, Start::Booted),
        };
        let overlay = disk.map(|disk| disk.elapsed).unwrap_or_default();
        let phases = Phases { overlay, ..launched.phases };
        tracing::info!(vm = address.id, ?start, ?phases, "ready");
        let (qemu, guest) = (launched.qemu, launched.guest.into());
        let disk = disk.map(|disk| disk.source);
        Ok(Alive { qemu, guest, disk, start, phases })
    }

    /// Resumes the machine's saved state; none if there is none, or none that is of use.
    async fn resume(
        &self,
        saved: &Arc<Saved>,
        machine: &Machine,
        launch: &Launch,
    ) -> Result<Option<Launched>, VmError> {
        let Some(state) = self.state(saved, machine).await? else { return Ok(None) };
        let marks = self.marks(machine).await?;
        let checked = {
            let (saved, state) = (Arc::clone(saved), state.clone());
            spawn_blocking(move || saved.states.is_sound(&state))
        };
        let sound = async { checked.await.unwrap_or(false) };
        let resumed = launch.resume(machine, &state, sound).await?;
        // What it was resumed on must be what it was saved on.
        Ok(if self.marks(machine).await? == marks { resumed } else { None })
    }

    pub(super) fn autopsy(&self, vm: &str) -> Autopsy {
        Autopsy { vm: vm.to_owned(), logs: self.settings.dir.join("console") }
    }

    /// The saved state of the machine. Makes it if there is none; gives none if it can't be made.
    async fn state(
        &self,
        saved: &Arc<Saved>,
        machine: &Machine,
    ) -> Result<Option<SavedState>, VmError> {
        let key = self.key(saved, machine).await?;
        if let Some(state) = saved.states.find(&key) {
            return Ok(Some(state));
        }
        let mut failed = self.making.lock().await;
        if let Some(state) = saved.states.find(&key) {
            return Ok(Some(state));
        }
        if failed.get(&key.to_string()).is_some_and(|failed| failed.elapsed() < AGAIN) {
            return Ok(None);
        }
        if let Err(cause) = self.make_state(saved, machine, &key).await {
            tracing::warn!(base = %machine.base.path().display(), cause, "no state saved");
            failed.insert(key.to_string(), Instant::now());
        }
        Ok(saved.states.find(&key))
    }

    async fn key(&self, saved: &Arc<Saved>, machine: &Machine) -> Result<Value, VmError> {
        let (saved, machine) = (Arc::clone(saved), machine.clone());
        let version = self.qemu_version.clone();
        let key = spawn_blocking(move || {
            machine.key(&version, PoolConfig::default().overlay, &saved.hashes)
        });
        key.await.unwrap_or_else(|panic| Err(self.failed(panic)))
    }

    /// That the machine's files could not be looked at.
    fn failed(&self, panic: JoinError) -> VmError {
        let (path, source) = (self.settings.base_images_dir.clone(), std::io::Error::other(panic));
        VmError::File { what: "guest images", path, source }
    }

    async fn make_state(
        &self,
        saved: &Arc<Saved>,
        machine: &Machine,
        key: &Value,
    ) -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let home = self.home(None, None).map_err(|error| text(&error))?;
        let address = home.address();
        let disk = address.furnish(&self.pool, machine.base.path()).await;
        disk.map_err(|error| text(&error))?;
        let draft = saved.states.begin().map_err(|error| text(&error))?;
        tracing::info!(base = %machine.base.path().display(), "boots once, to save its state");
        let (disk, patience) = (address.open_disk(), self.settings.boot_timeout);
        let disk = disk.map_err(|error| text(&error))?;
        let booted = launch::save(machine, disk, &draft, &self.containment, patience).await;
        booted.map_err(|error| format!("{error:?}"))?;
        // The files may have been replaced while it booted.
        if self.key(saved, machine).await.map_err(|error| text(&error))? != *key {
            return Err("its files have changed meanwhile".to_owned());
        }
        let (saved, key) = (Arc::clone(saved), key.clone());
        let finished = spawn_blocking(move || saved.states.finish(&draft, key)).await;
        finished.map_err(|error| text(&error))?.map_err(|error| text(&error))
    }
}

/// Whether a QEMU of this version, as it tells it, can resume VMs; one that tells none may try.
#[must_use]
pub fn can_resume(version: &str) -> bool {
    let numbers = version.split(|char: char| !char.is_ascii_digit());
    let mut numbers = numbers.filter_map(|number| number.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => (major, minor) >= RESUMES_SINCE,
        _ => true,
    }
}

fn find_machine(
    settings: &VmSettings,
    containment: &Containment,
    accelerator: &'static str,
    language: Language,
) -> Result<Machine, VmError> {
    let resolved = |what, path: PathBuf| {
        let file = path.canonicalize().and_then(|path| {
            containment.expect_readable(&path)?;
            Ok(path)
        });
        file.map_err(|source| VmError::File { what, path, source })
    };
    let base = images::find(&settings.base_images_dir, language)?;
    Ok(Machine {
        qemu: settings.qemu.clone(),
        accelerator,
        cpus: settings.cpus,
        memory_mib: settings.memory_mib.unwrap_or(language.memory_mib()),
        kernel: resolved("kernel", settings.kernel())?,
        initramfs: resolved("initramfs", settings.initramfs())?,
        base: BaseImage::open(&BaseRef::qcow2(base), References::Deny)?,
    })
}

/// What QEMU says of its version.
async fn version(program: &Path) -> Result<String, VmError> {
    let failed = |source| VmError::Spawn { program: program.to_owned(), source };
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let child = process::spawn(command).await.map_err(failed)?;
    let output = timeout(VERSION_PATIENCE, child.wait_with_output());
    let output = output.await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    let output = output.map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().next() {
        Some(line) if output.status.success() => Ok(line.to_owned()),
        _ => Err(failed(std::io::Error::other(format!("--version failed: {}", output.status)))),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::can_resume;

    #[rstest]
    #[case("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)", true)]
    #[case("QEMU emulator version 8.2.0", true)]
    #[case("QEMU emulator version 8.1.5", false)]
    #[case("7.2.19 (Debian 1:7.2+dfsg-7)", false)]
    #[case("10.0.2 (Debian 1:10.0.2+ds-2)", true)]
    #[case("QEMU emulator version 7.2.19 (Debian 1:7.2+dfsg-7)", false)]
    #[case("something else", true)]
    fn a_qemu_that_can_not_resume_is_known(#[case] version: &str, #[case] can: bool) {
        assert_eq!(can_resume(version), can);
    }
}
