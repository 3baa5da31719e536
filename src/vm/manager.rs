//! The VM manager.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::PREFIX;
use super::alive::Alive;
use super::containment::Measure;
use super::disk::{VmDisk, grown};
use super::error::VmError;
use super::handle::Vm;
use super::home::Home;
use super::images;
use super::language::Language;
use super::machine::Machine;
use super::settings::VmSettings;
use super::state::VmState;
use super::tenancy::check_id;
use super::warm::{Warm, WarmStats, keep_filled};
use super::workshop::Workshop;
use crate::image::BaseRef;
use crate::place::remove_leftovers;

/// How long a VM that is being made to wait may take to give its place to a caller.
const GIVE_WAY: Duration = Duration::from_secs(2);

/// Makes VMs on pooled overlays, and destroys them.
///
/// Shared by reference among tasks. Stopped or dropped, it leaves no QEMU process, no working
/// directory and no socket; if it is dropped while a VM is made that shall wait, that goes a
/// moment later.
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
/// let vm = manager.create_vm(Language::PYTHON, "tenant", "task").await?;
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
    workshop: Arc<Workshop>,
    slots: Arc<Semaphore>,
    warm: Arc<Warm>,
    /// What keeps the warm VMs filled.
    filling: tokio::sync::Mutex<JoinSet<()>>,
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
        for language in self.settings.languages.iter() {
            match self.base_image(language).map(BaseRef::qcow2) {
                // Several languages may have one base image.
                Ok(base) if bases.contains(&base) => {}
                Ok(base) => bases.push(base),
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
        remove_leftovers(&self.settings.dir, PREFIX);
        let workshop = Arc::new(Workshop::open(self.settings.clone(), bases).await?);
        let limit = usize::try_from(self.settings.max_concurrent_vms).unwrap_or(usize::MAX);
        let slots = Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)));
        let warm = Arc::new(Warm::new(&self.settings.warm, Arc::clone(&slots)));
        let mut filling = JoinSet::new();
        if !self.settings.warm.is_empty() {
            filling.spawn(keep_filled(Arc::downgrade(&warm), Arc::downgrade(&workshop)));
        }
        let (filling, launches) = (filling.into(), tokio::sync::RwLock::default());
        let started = Started { workshop, slots, warm, filling, launches };
        *self.started.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(started));
        Ok(())
    }

    /// Whether VMs can be created.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.started().is_ok()
    }

    /// The base image of a language: by the convention of names, the newest version.
    ///
    /// # Errors
    ///
    /// [`VmError::NoImage`], or [`VmError::File`] if the directory can't be read.
    pub fn base_image(&self, language: Language) -> Result<PathBuf, VmError> {
        images::find(&self.settings.base_images_dir, language)
    }

    /// Makes a VM that is ready for code: takes one that waits, or else a disk from the pool,
    /// starts QEMU on it, resumes a saved state of its base image or boots, and makes the guest
    /// one of its own.
    ///
    /// The first VM of a base image saves the state, which takes as long as a boot. A call that
    /// is dropped leaves nothing.
    ///
    /// # Errors
    ///
    /// [`VmError::NotStarted`], [`VmError::BadId`], [`VmError::NoImage`], [`VmError::TooMany`]
    /// before QEMU is started; then whatever kept the guest from getting ready.
    pub async fn create_vm(
        &self,
        language: Language,
        tenant_id: &str,
        task_id: &str,
    ) -> Result<Arc<Vm>, VmError> {
        self.create_vm_with(VmDisk::Pooled, language, tenant_id, task_id).await
    }

    /// Like [`create_vm`](Self::create_vm), with a disk that the caller chooses.
    ///
    /// A disk from the pool may be larger than its base image ([`VmDisk::Sized`]), whether the VM waited,
    /// is resumed or boots.
    ///
    /// On a disk that the caller has ([`VmDisk::Own`]) the VM boots, which takes its time: what waits or
    /// was saved knows a fresh disk, and another would be damaged, as that would be. What the VM changes
    /// stays in the disk, wherever the VM ends: [`destroy_vm`](Self::destroy_vm) and
    /// [`stop`](Self::stop) have the guest write all that it holds before. If it is killed, the disk is as
    /// after a power failure.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use overlay_pool::vm::{Language, OwnDisk, VmManager, VmSettings};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let manager = VmManager::new(VmSettings::from_env()?);
    /// # manager.start().await?;
    /// let disk = OwnDisk::at("/home/me/kept.qcow2"); // as keep_disk left it
    /// let vm = manager.create_vm_with(disk, Language::PYTHON, "tenant", "task").await?;
    /// vm.execute("open('/root/runs', 'a').write('one more\n')", None).await?;
    /// manager.destroy_vm(&vm).await; // the disk has it
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`create_vm`](Self::create_vm), [`VmError::DiskSize`], and [`VmError::OwnDisk`] if the
    /// disk is no overlay of the language's base image, or another process uses it.
    pub async fn create_vm_with(
        &self,
        disk: impl Into<VmDisk>,
        language: Language,
        tenant_id: &str,
        task_id: &str,
    ) -> Result<Arc<Vm>, VmError> {
        let ids = (check_id("tenant", tenant_id)?, check_id("task", task_id)?);
        let started = self.started()?;
        let (machine, marks) = started.workshop.machine(language).await?;
        let base = machine.base.virtual_size();
        let (own, size) = match disk.into() {
            VmDisk::Pooled => (None, None),
            VmDisk::Sized(size) => (None, grown(size, base, &self.settings)?),
            VmDisk::Own(disk) => {
                let own = started.workshop.attach(disk, &machine).await?;
                let size = own.virtual_size;
                (Some(own), Some(size).filter(|size| *size > base))
            }
        };
        let _launch = started.launches.read().await;
        while own.is_none()
            && let Some(mut member) = started.warm.take(language, &marks)
        {
            match member.alive.wake(&member.home.address().id, size).await {
                Ok(()) => {
                    return self.hand_over(&started, language, ids, member.home, member.alive);
                }
                Err(cause) => {
                    tracing::warn!(vm = member.home.address().id, ?cause, "it did not go on");
                }
            }
        }
        let home = started.workshop.home(Some(self.slot(&started).await?), own)?;
        let creation = self.register(&started, language, ids, home)?;
        let vm = &creation.vm;
        vm.enter(VmState::Booting)?;
        let alive = tokio::select! {
            alive = bring_up(&started, vm, &machine, size) => alive?,
            () = vm.destroyed() => return Err(vm.not_ready()),
        };
        vm.live(alive)?;
        Ok(creation.done())
    }

    /// Gives a VM that waited to its caller.
    fn hand_over(
        &self,
        started: &Started,
        language: Language,
        ids: (String, String),
        home: Home,
        alive: Alive,
    ) -> Result<Arc<Vm>, VmError> {
        let creation = self.register(started, language, ids, home)?;
        creation.vm.enter(VmState::Booting)?;
        creation.vm.live(alive)?;
        Ok(creation.done())
    }

    /// The right to one more VM; if there is none left, that of a VM that waits or is being made to wait.
    async fn slot(&self, started: &Started) -> Result<OwnedSemaphorePermit, VmError> {
        loop {
            let slots = Arc::clone(&started.slots);
            if let Ok(slot) = Arc::clone(&slots).try_acquire_owned() {
                return Ok(slot);
            }
            if started.warm.make_room() {
                continue;
            }
            if started.warm.give_way()
                && let Ok(Ok(slot)) = timeout(GIVE_WAY, slots.acquire_owned()).await
            {
                return Ok(slot);
            }
            return Err(VmError::TooMany { limit: self.settings.max_concurrent_vms });
        }
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
        self.started().map(|started| started.workshop.pool.stats()).unwrap_or_default()
    }

    /// What contains each VM's QEMU, and what doesn't; nothing while the manager isn't started.
    #[must_use]
    pub fn containment(&self) -> Vec<Measure> {
        self.started().map(|started| started.workshop.containment.measures()).unwrap_or_default()
    }

    /// How the VMs of a language that wait are doing.
    #[must_use]
    pub fn warm_stats(&self, language: Language) -> WarmStats {
        self.started().map(|started| started.warm.stats(language)).unwrap_or_default()
    }

    /// Destroys a VM: when this returns, its QEMU has ended and its working directory is gone. A disk
    /// that is the caller's has all that the guest wrote by then, if the guest does as it is told within
    /// half a minute.
    /// Does nothing if it is destroyed already.
    pub async fn destroy_vm(&self, vm: &Vm) {
        vm.destroy().await;
        self.vms().remove(vm.id());
    }

    /// Like [`destroy_vm`](Self::destroy_vm), for callers that can't wait: QEMU is killed, and its end comes
    /// a moment later.
    pub fn destroy_vm_now(&self, vm: &Vm) {
        vm.destroy_now();
        self.vms().remove(vm.id());
    }

    /// Destroys a VM, and keeps its disk at `target`. If no disk can be kept there, as far as that
    /// can be told before, the VM stays as it is.
    ///
    /// # Errors
    ///
    /// [`VmError::File`] if something is at the target, or the disk can't be moved there;
    /// [`VmError::NotKept`] if the disk is the caller's; those of [`Vm::execute`].
    pub async fn keep_disk(&self, vm: &Vm, target: &Path) -> Result<(), VmError> {
        let kept = vm.keep_disk(target).await;
        if vm.state() == VmState::Destroyed {
            self.vms().remove(vm.id());
        }
        kept
    }

    /// Destroys all VMs and stops the pool. Does nothing if the manager is stopped.
    pub async fn stop(&self) {
        let _starting = self.starting.lock().await;
        let started = self.started.write().unwrap_or_else(PoisonError::into_inner).take();
        let Some(started) = started else { return };
        started.filling.lock().await.shutdown().await;
        started.warm.end().await;
        let vms: Vec<Arc<Vm>> = std::mem::take(&mut *self.vms()).into_values().collect();
        // All at once: those on their callers' disks take a while.
        join_all(vms.iter().map(|vm| vm.destroy())).await;
        let _no_launch = started.launches.write().await;
        started.workshop.pool.stop().await;
    }

    fn started(&self) -> Result<Arc<Started>, VmError> {
        let started = self.started.read().unwrap_or_else(PoisonError::into_inner);
        started.clone().ok_or(VmError::NotStarted)
    }

    fn vms(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Vm>>> {
        self.vms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a VM in the list, unless the manager was stopped.
    fn register(
        &self,
        started: &Started,
        language: Language,
        ids: (String, String),
        home: Home,
    ) -> Result<Creation<'_>, VmError> {
        let autopsy = started.workshop.autopsy(&home.address().id);
        let vm = Arc::new(Vm::new(language, ids, &self.settings, autopsy, home));
        let mut vms = self.vms();
        self.started()?;
        vms.insert(vm.id().to_owned(), Arc::clone(&vm));
        Ok(Creation { manager: self, vm, done: false })
    }
}

async fn bring_up(
    started: &Started,
    vm: &Vm,
    machine: &Machine,
    size: Option<u64>,
) -> Result<Alive, VmError> {
    let address = vm.address().ok_or_else(|| vm.not_ready())?;
    let interpreter = vm.language().interpreter().start_at_once();
    started.workshop.bring_up(&address, machine, size, interpreter).await
}

impl Drop for VmManager {
    fn drop(&mut self) {
        for vm in self.vms().values() {
            vm.destroy_now();
        }
        if let Ok(started) = self.started() {
            started.warm.clear();
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
