//! What can go wrong with a VM.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::disk_error::DiskError;
use super::guest::GuestError;
use super::language::Language;
use super::state::VmState;
use crate::image::BaseError;
use crate::qmp::QmpError;

/// Why a call on a VM or its manager failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmError {
    /// `start` wasn't called, or `stop` was.
    #[error("the VM manager must be started before VMs can be created: call start first")]
    NotStarted,
    /// `start` on a running manager.
    #[error("the VM manager is already started: stop it first")]
    AlreadyStarted,
    /// A tenant's or task's id has a character or a length that isn't allowed.
    #[error("{what} id {id:?}: ids have 1 to 128 of the characters A-Z a-z 0-9 _ -")]
    BadId {
        /// `tenant` or `task`.
        what: &'static str,
        /// The id, or its beginning.
        id: String,
    },
    /// As many VMs are there as may be.
    #[error(
        "{limit} VMs are running, which is the limit: destroy one, or raise max_concurrent_vms (OVERLAY_POOL_MAX_VMS)"
    )]
    TooMany {
        /// How many may be.
        limit: u32,
    },
    /// The accelerator was left to choose, and there is no usable KVM.
    #[error(
        "no usable KVM ({reason}); to run VMs under emulation ask for it with --accel tcg or OVERLAY_POOL_ACCEL=tcg"
    )]
    NoAccelerator {
        /// What the probe said.
        reason: String,
    },
    /// No base image of the language.
    #[error("no base image of {language} in {} (as {}): {}, or name their directory with OVERLAY_POOL_IMAGES", directory.display(), language.images(), whence(*language))]
    NoImage {
        /// The language.
        language: Language,
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// The base image can't be used.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// A file or directory that a VM needs can't be used.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What it is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// QEMU can't run as the user that the settings name.
    #[error("user {user} for QEMU: {reason}; name another with --vm-user or OVERLAY_POOL_VM_USER")]
    User {
        /// The user's name.
        user: String,
        /// Why not.
        reason: String,
    },
    /// A disk that the caller brings can't be used.
    #[error(transparent)]
    OwnDisk(#[from] DiskError),
    /// A disk can't have this size.
    #[error(
        "a disk of {size} bytes: give {least} (those of its base image) to {most}, which is all that fits \
         into the {limit_mib} MiB that it may take; raise these with disk_mib, --disk or OVERLAY_POOL_DISK"
    )]
    DiskSize {
        /// What was asked for, in bytes.
        size: u64,
        /// The size of the base image's disk, in bytes.
        least: u64,
        /// The most that there may be, in bytes.
        most: u64,
        /// How much of the host's disk a VM's disk may take, in MiB.
        limit_mib: u32,
    },
    /// A disk is kept that is the caller's anyway.
    #[error("VM {vm}: its disk is {}, which stays there: copy it once the VM is destroyed", disk.display())]
    NotKept {
        /// The VM.
        vm: String,
        /// Its disk.
        disk: PathBuf,
    },
    /// The pool gave no disk.
    #[error("no disk: {0}")]
    Disk(#[from] crate::Error),
    /// QEMU isn't there or can't be started.
    #[error("can't run {}: {source}; install QEMU (Debian: qemu-system-x86), or name it with OVERLAY_POOL_QEMU", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// QEMU refused a command.
    #[error("QEMU: {0}")]
    Qemu(#[from] QmpError),
    /// The guest doesn't answer, or not what can be understood.
    #[error("VM {vm}: {source}{}", noted(log.as_ref()))]
    Guest {
        /// The VM.
        vm: String,
        /// What is wrong.
        source: GuestError,
        /// Where the guest's console log is kept.
        log: Option<PathBuf>,
    },
    /// QEMU ended, because it was killed or the guest panicked or switched itself off.
    #[error("VM {vm} ended ({status}): {said}{}", noted(log.as_ref()))]
    Ended {
        /// The VM.
        vm: String,
        /// QEMU's exit status; 0 after a guest's panic too.
        status: String,
        /// The last thing that QEMU, or else the guest's console, said.
        said: String,
        /// Where the guest's console log is kept.
        log: Option<PathBuf>,
    },
    /// The guest wasn't ready in time.
    #[error("VM {vm}: not ready within {after:?}: {said}{}", noted(log.as_ref()))]
    BootTimeout {
        /// The VM.
        vm: String,
        /// How long it was waited for.
        after: Duration,
        /// The last line of the guest's console.
        said: String,
        /// Where the guest's console log is kept.
        log: Option<PathBuf>,
    },
    /// The VM is doing something else, or was destroyed.
    #[error("VM {vm} is {state}: code can be executed only while it is ready")]
    NotReady {
        /// The VM.
        vm: String,
        /// What it is doing.
        state: VmState,
    },
    /// The host's disk has no room for what the guest wrote.
    #[error("VM {vm}: no space is left in {}: make room there, or name another place with OVERLAY_POOL_DIR", directory.display())]
    NoSpace {
        /// The VM.
        vm: String,
        /// Where its disk is.
        directory: PathBuf,
    },
}

fn noted(log: Option<&PathBuf>) -> String {
    log.map(|log| format!("; its console is in {}", log.display())).unwrap_or_default()
}

/// Where a base image of a language comes from.
fn whence(language: Language) -> &'static str {
    if [Language::PYTHON, Language::JAVASCRIPT].contains(&language) {
        "build the guest images with overlay-pool images build"
    } else {
        "put one of your own there, since overlay-pool images build makes none"
    }
}
