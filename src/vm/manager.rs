//! The VM manager.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::PREFIX;
use super::error::VmError;
use super::handle::{Alive, DISK, Home, Vm};
use super::images;
use super::language::Language;
use super::launch::{self, Disk};
use super::machine::Machine;
use super::saved::{SavedState, SavedStates};
use super::settings::VmSettings;
use super::state::VmState;
use super::tenancy::check_id;
use crate::image::{BaseImage, BaseRef, References};
use crate::place::{Directory, remove_leftovers};
use crate::{OverlayPool, PoolConfig, process};

/// How long QEMU may take to tell its version.
const VERSION_PATIENCE: Duration = Duration::from_secs(20);

/// Makes VMs on pooled overlays, and destroys them.
///
/// Shared by reference among tasks. Stopped or dropped, it leaves no QEMU process, no working
/// directory and no socket.
///
/// # Example
///
/// ```no_run
/// use overlay_pool::vm::{Language, VmManager, VmSettings};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let manager = VmManager::new(VmSettings::from_env()?);
/// manager.start().await?;
/// let vm = manager.create_vm(Language::Python, "tenant", "task").await?;
/// let execution = vm.execute("print('hello from pool')", None).await?;
/// assert_eq!(execution.stdout.bytes, b"hello from pool\n");
/// manager.stop().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct VmManager {
    settings: VmSettings,
    started: RwLock<Option<Arc<Started>>>,
    starting: tokio::sync::Mutex<()>,
    vms: Mutex<BTreeMap<String, Arc<Vm>>>,
}

/// What a started manager has.
#[derive(Debug)]
struct Started {
    pool: OverlayPool,
    accelerator: &'static str,
    qemu_version: String,
    slots: Arc<Semaphore>,
    states: SavedStates,
    /// Held while a state is made, so that it is made once; the keys that none can be made for.
    making: tokio::sync::Mutex<HashSet<String>>,
    /// Read by each launch; written to wait until there is none.
    launches: tokio::sync::RwLock<()>,
}

impl VmManager {
    /// Makes a manager that isn't started.
    #[must_use]
    pub fn new(settings: VmSettings) -> Self {
        Self {
            settings,
            started: RwLock::default(),
            starting: tokio::sync::Mutex::default(),
            vms: Mutex::default(),
        }
    }

    /// What the manager was told.
    #[must_use]
    pub fn settings(&self) -> &VmSettings {
        &self.settings
    }

    /// Finds the accelerator and QEMU, removes what dead owners left, and fills the pool for
    /// every base image that is there.
    ///
    /// # Errors
    ///
    /// [`VmError::AlreadyStarted`], [`VmError::NoAccelerator`], [`VmError::Spawn`],
    /// [`VmError::Disk`].
    pub async fn start(&self) -> Result<(), VmError> {
        let mut bases = Vec::new();
        for language in Language::ALL {
            match self.base_image(language) {
                Ok(base) => bases.push(BaseRef::qcow2(base)),
                Err(VmError::NoImage { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.start_with(bases).await
    }

    /// Like [`start`](Self::start), with overlays made ready for one language alone.
    ///
    /// # Errors
    ///
    /// Those of [`start`](Self::start), and [`VmError::NoImage`].
    pub async fn start_for(&self, language: Language) -> Result<(), VmError> {
        let base = self.base_image(language)?;
        self.start_with(vec![BaseRef::qcow2(base)]).await
    }

    async fn start_with(&self, bases: Vec<BaseRef>) -> Result<(), VmError> {
        let _starting = self.starting.lock().await;
        if self.started().is_ok() {
            return Err(VmError::AlreadyStarted);
        }
        let wanted = self.settings.accelerator;
        let accelerator = tokio::task::spawn_blocking(move || wanted.resolve());
        let accelerator = accelerator.await.unwrap_or_else(|panic| {
            Err(VmError::NoAccelerator { reason: format!("the probe failed: {panic}") })
        })?;
        let qemu_version = version(&self.settings.qemu).await?;
        remove_leftovers(&self.settings.dir, PREFIX);
        let pool = OverlayPool::new(self.settings.pool())?;
        pool.start(Some(bases)).await?;
        let limit = usize::try_from(self.settings.max_concurrent_vms).unwrap_or(usize::MAX);
        let started = Started {
            pool,
            accelerator: accelerator.as_str(),
            qemu_version,
            slots: Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))),
            states: SavedStates::new(self.settings.states()),
            making: tokio::sync::Mutex::default(),
            launches: tokio::sync::RwLock::default(),
        };
        *self.started.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(started));
        Ok(())
    }

    /// The base image of a language: by the convention of names, the newest version.
    ///
    /// # Errors
    ///
    /// [`VmError::NoImage`], or [`VmError::File`] where the directory can't be read.
    pub fn base_image(&self, language: Language) -> Result<PathBuf, VmError> {
        images::find(&self.settings.base_images_dir, language)
    }

    /// Makes a VM that is ready for code: takes a disk from the pool, starts QEMU on it, resumes
    /// a saved state of its base image or boots, and makes the guest one of its own.
    ///
    /// The first VM of a base image saves the state, which takes as long as a boot. A call that
    /// is dropped leaves nothing.
    ///
    /// # Errors
    ///
    /// [`VmError::NotStarted`], [`VmError::BadId`], [`VmError::TooMany`] before QEMU is started;
    /// then whatever kept the guest from getting ready.
    pub async fn create_vm(
        &self,
        language: Language,
        tenant_id: &str,
        task_id: &str,
    ) -> Result<Arc<Vm>, VmError> {
        let ids = (check_id("tenant", tenant_id)?, check_id("task", task_id)?);
        let started = self.started()?;
        let base = self.base_image(language)?;
        let limit = self.settings.max_concurrent_vms;
        let slot = Arc::clone(&started.slots).try_acquire_owned();
        let slot = slot.map_err(|_| VmError::TooMany { limit })?;
        let directory = self.working_directory()?;
        let vm = Arc::new(Vm::new(language, ids, &self.settings, Home { directory, _slot: slot }));
        let creation = self.register(vm)?;
        let vm = &creation.vm;
        let _launch = started.launches.read().await;
        let alive = tokio::select! {
            alive = self.bring_up(&started, vm, base) => alive?,
            () = vm.destroyed() => return Err(vm.not_ready()),
        };
        vm.live(alive)?;
        Ok(creation.done())
    }

    /// The VMs that there are, whatever they are doing, by id.
    #[must_use]
    pub fn active_vms(&self) -> Vec<Arc<Vm>> {
        let over = |vm: &Vm| matches!(vm.state(), VmState::Destroying | VmState::Destroyed);
        let mut vms = self.vms();
        vms.retain(|_, vm| vm.state() != VmState::Destroyed);
        vms.values().filter(|vm| !over(vm)).cloned().collect()
    }

    /// What the pool of the VMs' disks holds and did; nothing while the manager isn't started.
    #[must_use]
    pub fn pool_stats(&self) -> crate::Stats {
        self.started().map(|started| started.pool.stats()).unwrap_or_default()
    }

    /// Destroys a VM: when this returns, its QEMU has ended and its working directory is gone.
    /// Destroying one that is destroyed is nothing.
    pub async fn destroy_vm(&self, vm: &Vm) {
        vm.destroy().await;
        self.vms().remove(vm.id());
    }

    /// Destroys a VM, and keeps its disk at `target`, on the same filesystem.
    ///
    /// # Errors
    ///
    /// [`VmError::File`] where something is at the target, or the disk can't be moved there;
    /// those of [`Vm::execute`].
    pub async fn keep_disk(&self, vm: &Vm, target: &Path) -> Result<(), VmError> {
        let kept = vm.keep_disk(target).await;
        self.vms().remove(vm.id());
        kept
    }

    /// Destroys all VMs and stops the pool. Stopping a stopped manager is nothing.
    pub async fn stop(&self) {
        let _starting = self.starting.lock().await;
        let started = self.started.write().unwrap_or_else(PoisonError::into_inner).take();
        let Some(started) = started else { return };
        let vms: Vec<Arc<Vm>> = std::mem::take(&mut *self.vms()).into_values().collect();
        for vm in vms {
            vm.destroy().await;
        }
        let _no_launch = started.launches.write().await;
        started.pool.stop().await;
    }

    fn started(&self) -> Result<Arc<Started>, VmError> {
        let started = self.started.read().unwrap_or_else(PoisonError::into_inner);
        started.clone().ok_or(VmError::NotStarted)
    }

    fn vms(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Vm>>> {
        self.vms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn working_directory(&self) -> Result<Directory, VmError> {
        let dir = &self.settings.dir;
        let failed = |source| VmError::File { what: "directory of VMs", path: dir.clone(), source };
        let dir = std::path::absolute(dir).map_err(failed)?;
        Directory::create(&dir, PREFIX).map_err(failed)
    }

    /// Enters a VM in the list, unless the manager was stopped.
    fn register(&self, vm: Arc<Vm>) -> Result<Creation<'_>, VmError> {
        let mut vms = self.vms();
        self.started()?;
        vms.insert(vm.id().to_owned(), Arc::clone(&vm));
        Ok(Creation { manager: self, vm, done: false })
    }

    async fn bring_up(&self, started: &Started, vm: &Vm, base: PathBuf) -> Result<Alive, VmError> {
        let directory = vm.directory().ok_or_else(|| vm.not_ready())?;
        let disk = acquire(&started.pool, &base, &directory).await?;
        let machine = self.machine(started, vm.language(), &base)?;
        vm.enter(VmState::Booting)?;
        if self.settings.resume
            && let Some(state) = self.state(started, &machine).await?
        {
            if let Some(alive) = launch::resume(vm, &machine, &state, &disk).await? {
                return Ok(alive);
            }
            state.remove();
        }
        launch::boot(vm, &machine, &disk, self.settings.boot_timeout).await
    }

    fn machine(
        &self,
        started: &Started,
        language: Language,
        base: &Path,
    ) -> Result<Machine, VmError> {
        let resolved = |what, path: PathBuf| {
            path.canonicalize().map_err(|source| VmError::File { what, path, source })
        };
        Ok(Machine {
            qemu: self.settings.qemu.clone(),
            accelerator: started.accelerator,
            memory_mib: self.settings.memory_mib.unwrap_or(language.memory_mib()),
            kernel: resolved("kernel", self.settings.kernel())?,
            initramfs: resolved("initramfs", self.settings.initramfs())?,
            base: BaseImage::open(&BaseRef::qcow2(base), References::Deny)?,
        })
    }

    /// The saved state of the machine, made where there is none; none where none can be made.
    async fn state(
        &self,
        started: &Started,
        machine: &Machine,
    ) -> Result<Option<SavedState>, VmError> {
        let key = machine.key(&started.qemu_version, PoolConfig::default().overlay)?;
        if let Some(state) = started.states.find(&key) {
            return Ok(Some(state));
        }
        let mut impossible = started.making.lock().await;
        if let Some(state) = started.states.find(&key) {
            return Ok(Some(state));
        }
        if impossible.contains(&key.to_string()) {
            return Ok(None);
        }
        if let Err(cause) = self.make_state(started, machine, &key).await {
            tracing::warn!(base = %machine.base.path().display(), cause, "no state saved");
            impossible.insert(key.to_string());
        }
        Ok(started.states.find(&key))
    }

    async fn make_state(
        &self,
        started: &Started,
        machine: &Machine,
        key: &Value,
    ) -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let directory = self.working_directory().map_err(|error| text(&error))?;
        let disk = acquire(&started.pool, machine.base.path(), directory.path());
        let disk = disk.await.map_err(|error| text(&error))?;
        let unfinished = started.states.begin().map_err(|error| text(&error))?;
        let file = unfinished.file();
        let saved = launch::save(machine, &disk.path, &file, self.settings.boot_timeout).await;
        saved.map_err(|error| format!("{error:?}"))?;
        started.states.finish(&unfinished, key.clone()).map_err(|error| text(&error))
    }
}

impl Drop for VmManager {
    fn drop(&mut self) {
        for vm in self.vms().values() {
            vm.destroy_now();
        }
    }
}

/// A VM that is being made. Dropped undone, the VM is destroyed.
struct Creation<'a> {
    manager: &'a VmManager,
    vm: Arc<Vm>,
    done: bool,
}

impl Creation<'_> {
    fn done(mut self) -> Arc<Vm> {
        self.done = true;
        Arc::clone(&self.vm)
    }
}

impl Drop for Creation<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.vm.destroy_now();
            self.manager.vms().remove(self.vm.id());
        }
    }
}

async fn acquire(pool: &OverlayPool, base: &Path, directory: &Path) -> Result<Disk, VmError> {
    let begin = Instant::now();
    let path = directory.join(DISK);
    let acquired = pool.acquire(base, &path).await?;
    Ok(Disk { path, source: acquired.source, elapsed: begin.elapsed() })
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
