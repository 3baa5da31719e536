//! What holds a QEMU whose guest has broken out: another user, a cgroup, and limits of its own,
//! beside its seccomp sandbox, which [`Machine`] asks for.

mod cgroup;
mod measure;
mod parent;
mod user;

use std::fs;
use std::io;
use std::path::Path;

use tokio::process::Command;

pub(super) use self::cgroup::Cgroup;
use self::cgroup::Limits;
pub use self::cgroup::sweep_cgroups;
pub use self::measure::Measure;
use self::parent::{Parent, Unusable};
use self::user::User;
use super::error::VmError;
use super::machine::{Beginning, Machine};
use super::settings::VmSettings;
use crate::sys;

/// How many descriptors QEMU may have beside those of its processors.
const DESCRIPTORS: u64 = 256;
/// How many threads it may have beside them: it reads and writes with 64 at most.
const THREADS: u64 = 128;

/// What QEMUs are started with.
#[derive(Debug)]
pub(super) struct Containment {
    user: Option<User>,
    parent: Option<Parent>,
    /// How many bytes a disk's file may have.
    disk: u64,
    measures: Vec<Measure>,
}

impl Containment {
    /// Takes the user that the settings name, and makes a place for cgroups if it can: this
    /// process moves into a cgroup beside them.
    pub(super) fn open(settings: &VmSettings) -> Result<Self, VmError> {
        let user = settings.vm_user.as_deref().map(User::find).transpose()?;
        let parent = wanted(settings).and_then(Parent::enter);
        if parent.is_ok() {
            cgroup::remove_leftovers();
        }
        let measures = told(settings, user.as_ref(), parent.as_ref());
        let disk = u64::from(settings.disk_mib) << 20;
        Ok(Self { user, parent: parent.ok(), disk, measures })
    }

    pub(super) fn measures(&self) -> Vec<Measure> {
        self.measures.clone()
    }

    /// The group of the user that QEMU runs as, if that isn't this process' own.
    pub(super) fn group(&self) -> Option<u32> {
        self.user.as_ref().map(User::group)
    }

    /// Whether QEMU may read a file, once it is open.
    pub(super) fn expect_readable(&self, file: &Path) -> io::Result<()> {
        let Some(user) = &self.user else { return Ok(()) };
        if user.may_read(&fs::metadata(file)?) {
            return Ok(());
        }
        let why = format!("{user}, whom QEMU runs as, may not read it");
        Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
    }

    /// Has a QEMU be contained from its first instruction; the cgroup is its own.
    pub(super) fn apply(
        &self,
        command: &mut Command,
        machine: &Machine,
        beginning: Beginning<'_>,
    ) -> Result<Option<Cgroup>, VmError> {
        let ram = u64::from(machine.memory_mib) << 20;
        // Saving writes the RAM too.
        let saves = matches!(beginning, Beginning::Save(_));
        sys::limit_files(command, if saves { self.disk.max(ram) } else { self.disk });
        let processors = u64::from(machine.cpus);
        sys::limit_descriptors(command, DESCRIPTORS + 4 * processors);
        let cgroup = match &self.parent {
            None => None,
            Some(parent) => {
                let limits = Limits {
                    memory_mib: machine.most_memory_mib(),
                    processors,
                    threads: THREADS + processors,
                };
                let made = Cgroup::create(parent, &limits).and_then(|cgroup| {
                    sys::enter(command, cgroup.processes()?.into());
                    Ok(cgroup)
                });
                let path = parent.path().to_owned();
                Some(made.map_err(|source| VmError::File {
                    what: "cgroup of VMs",
                    path,
                    source,
                })?)
            }
        };
        if let Some(user) = &self.user {
            user.become_of(command);
        }
        Ok(cgroup)
    }
}

/// What would contain VMs with these settings that this process made, without making any.
///
/// # Errors
///
/// [`VmError::User`].
pub fn containment(settings: &VmSettings) -> Result<Vec<Measure>, VmError> {
    let user = settings.vm_user.as_deref().map(User::find).transpose()?;
    let parent = wanted(settings);
    Ok(told(settings, user.as_ref(), parent.as_ref()))
}

fn wanted(settings: &VmSettings) -> Result<Parent, Unusable> {
    if settings.cgroup { Parent::find() } else { Err(Unusable::unwanted()) }
}

fn told(
    settings: &VmSettings,
    user: Option<&User>,
    parent: Result<&Parent, &Unusable>,
) -> Vec<Measure> {
    let limits = |what, controller| match parent {
        Ok(parent) => match parent.lacks(controller) {
            None => Measure::in_force(what, below(parent.path())),
            Some(lacking) => Measure::missing(what, &lacking.reason, lacking.advice),
        },
        Err(unusable) => Measure::missing(what, &unusable.reason, unusable.advice),
    };
    vec![
        Measure::in_force(
            "VMs' sandbox",
            format!(
                "system calls (seccomp), {DESCRIPTORS} open files, files of {} MiB",
                settings.disk_mib
            ),
        ),
        user::told(user),
        limits("VMs' memory", parent::MEMORY),
        limits("VMs' processors", parent::PROCESSORS),
        limits("VMs' processes", parent::PROCESSES),
    ]
}

fn below(path: &Path) -> String {
    format!("limited, by cgroups in {}", path.display())
}
